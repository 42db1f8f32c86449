using Expecto;
using Expecto.CSharp;

namespace Sama.Tests;

/// <summary>Cases and assertions.</summary>
internal static class Check
{
    public static Test Case(string name, Action body) => Runner.TestCase(name, body);

    public static Test Case(string name, Func<Task> body) => Runner.TestCase(name, () => body().GetAwaiter().GetResult());

    public static void That(bool condition, string what)
    {
        if (!condition) throw new AssertException(what);
    }

    public static void Equal<T>(T expected, T actual, string what = "value") =>
        That(EqualityComparer<T>.Default.Equals(expected, actual), $"{what}: expected {expected}, got {actual}");

    /// <summary>Bit for bit: shape, dtype and every element.</summary>
    public static void Same(Tensor expected, Tensor actual, string what) => That(expected.Equals(actual), $"{what} differs");

    public static E Throws<E>(Action action, params string[] words) where E : Exception
    {
        try
        {
            action();
        }
        catch (Exception error)
        {
            That(error is E, $"expected {typeof(E).Name}, got {error}");
            foreach (var word in words) That(error.Message.Contains(word), $"'{word}' is not in: {error.Message}");
            return (E)error;
        }

        throw new AssertException($"expected {typeof(E).Name}, nothing was thrown");
    }

    /// <summary>An exception that names the argument.</summary>
    public static void Refuses<E>(string argument, Action action, params string[] words) where E : ArgumentException =>
        Equal(argument, Throws<E>(action, words).ParamName!, "argument");
}
