using System.Linq.Expressions;
using System.Reflection;
using System.Runtime.CompilerServices;
using TorchSharp;
using static Sama.Tests.Check;

namespace Sama.Tests;

/// <summary>Null for each argument of the facade that may not be null, all other arguments being good.</summary>
internal static class NullTests
{
    private static readonly Lazy<Dictionary<Type, object>> Samples = new(() => new()
    {
        [typeof(string)] = "name",
        [typeof(UpdateRule)] = UpdateRule.Sgd(0.1),
        [typeof(HypergradientMethod)] = HypergradientMethod.Sama(),
        [typeof(Level)] = Problems.RidgeBase(UpdateRule.Sgd(0.1)),
        [typeof(BilevelProblem)] = Problems.Ridge(),
        [typeof(RunState)] = Problems.Ridge().Start(),
        [typeof(torch.nn.Module)] = Problems.Net(4),
        [typeof(Communicator)] = Communicator.Single,
        [typeof(torch.Device)] = torch.CPU,
        [typeof(Tensor)] = torch.zeros(2),
        [typeof(RowSource<int>)] = new RowSource<int>(1, rows => rows.Count),
        [typeof(IReadOnlyDictionary<string, Tensor>)] = new Dictionary<string, Tensor>(),
        [typeof(MetagradientResult)] = Metagradient.OfTraining(Problems.Ridge(), Problems.Ridge().Start(), 1),
    });

    private static object? Sample(ParameterInfo parameter)
    {
        var type = parameter.ParameterType;
        if (parameter.HasDefaultValue) return parameter.DefaultValue;
        if (type.IsValueType) return Activator.CreateInstance(type);
        if (Samples.Value.TryGetValue(type, out var sample)) return sample;
        if (type.IsAssignableTo(typeof(Delegate)))
        {
            var invoke = type.GetMethod("Invoke")!;
            var arguments = invoke.GetParameters().Select(p => Expression.Parameter(p.ParameterType));
            return Expression.Lambda(type, Expression.Default(invoke.ReturnType), arguments).Compile();
        }

        if (type.IsInterface && type.IsGenericType) return Array.CreateInstance(type.GenericTypeArguments[0], 1);
        throw new NotSupportedException($"no sample of {type}: add one");
    }

    private static string Short(Type type) => type.IsGenericType
        ? $"{type.Name.Split('`')[0]}<{string.Join(", ", type.GenericTypeArguments.Select(Short))}>"
        : type.Name;

    private static MethodBase Close(MethodBase method) =>
        method is MethodInfo { IsGenericMethodDefinition: true } open ? open.MakeGenericMethod([.. open.GetGenericArguments().Select(_ => typeof(int))]) : method;

    private static IEnumerable<MethodBase> Methods =>
        from type in typeof(BilevelSolver).Assembly.GetExportedTypes()
        where (type.IsAbstract && type.IsSealed && !type.IsNested) || type == typeof(BilevelSolver)
        from method in type.GetMethods(BindingFlags.Public | BindingFlags.Static).Cast<MethodBase>().Concat(type.GetConstructors())
        where !method.IsSpecialName || method.IsConstructor
        select Close(method);

    public static IEnumerable<Test> All =>
        from method in Methods
        from parameter in method.GetParameters()
        where !parameter.ParameterType.IsValueType && new NullabilityInfoContext().Create(parameter).WriteState == NullabilityState.NotNull
        select Case($"null as {parameter.Name} of {method.DeclaringType!.Name}.{method.Name} ({string.Join(", ", method.GetParameters().Select(p => Short(p.ParameterType)))})", () =>
        {
            var arguments = method.GetParameters().Select(p => p.Position == parameter.Position ? null : Sample(p)).ToArray();
            Refuses<ArgumentNullException>(parameter.Name!, () =>
            {
                if (method is ConstructorInfo constructor) constructor.Invoke(BindingFlags.DoNotWrapExceptions, null, arguments, null);
                else method.Invoke(null, BindingFlags.DoNotWrapExceptions, null, arguments, null);
            });
        });
}
