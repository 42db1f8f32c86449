using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace Sama;

/// <summary>The one place where delegates, tuples and collections become F# values.</summary>
internal static class Interop
{
    public static FSharpFunc<A, R> Function<A, R>(Func<A, R> f) => FuncConvert.FromFunc(f);

    public static FSharpFunc<A, FSharpFunc<B, R>> Function<A, B, R>(Func<A, B, R> f) => FuncConvert.FromFunc(f);

    public static FSharpFunc<A, FSharpFunc<B, FSharpFunc<C, R>>> Function<A, B, C, R>(Func<A, B, C, R> f) =>
        FuncConvert.FromFunc(f);

    public static FSharpFunc<A, FSharpFunc<B, FSharpFunc<C, FSharpFunc<D, R>>>> Function<A, B, C, D, R>(
        Func<A, B, C, D, R> f) => FuncConvert.FromFunc(f);

    /// <summary>An F# list; null items are refused by the argument's name.</summary>
    public static FSharpList<T> List<T>(IEnumerable<T> items, string argument) where T : class
    {
        ArgumentNullException.ThrowIfNull(items, argument);
        var list = ListModule.OfSeq(items);
        return ListModule.Contains(null!, list) ? throw new ArgumentNullException(argument, $"{argument} has a null item") : list;
    }

    public static FSharpList<T> Values<T>(IEnumerable<T> items) where T : struct => ListModule.OfSeq(items);

    public static FSharpList<Tuple<string, Tensor>> Named(
        IEnumerable<(string Name, Tensor Value)> parameters, string argument)
    {
        ArgumentNullException.ThrowIfNull(parameters, argument);
        return ListModule.OfSeq(parameters.Select(p => p.ToTuple()));
    }

    /// <summary>A delegate's tensor, refused with the reason if it is null.</summary>
    public static Tensor Required(Tensor? tensor, string what) =>
        tensor ?? throw new InvalidOperationException($"{what} returned null");
}
