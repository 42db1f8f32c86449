using System.Reflection;
using static Sama.Tests.Check;

namespace Sama.Tests;

/// <summary>The facade's optional arguments have the defaults of the core's options records.</summary>
internal static class DefaultTests
{
    private const BindingFlags Static = BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly;

    /// <summary>Facade method and options record; names in the record that the facade fixes itself.</summary>
    private static readonly (Type Facade, string Method, object Options, string[] Fixed)[] Pairs =
    [
        (typeof(UpdateRuleExtensions), "Sgd", SgdOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Adam", AdamOptions.Default, ["DecoupledDecay"]),
        (typeof(UpdateRuleExtensions), "AdamW", AdamOptions.Default, ["DecoupledDecay", "WeightDecay"]),
        (typeof(UpdateRuleExtensions), "Adamax", AdamaxOptions.Default, []),
        (typeof(UpdateRuleExtensions), "NAdam", NAdamOptions.Default, []),
        (typeof(UpdateRuleExtensions), "RAdam", RAdamOptions.Default, []),
        (typeof(UpdateRuleExtensions), "RmsProp", RmsPropOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Adagrad", AdagradOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Adadelta", AdadeltaOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Lion", LionOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Asgd", AsgdOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Adafactor", AdafactorOptions.Default, []),
        (typeof(UpdateRuleExtensions), "Lamb", LambOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "Sama", SamaOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "SamaNa", SamaOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "SamaFisher", SamaFisherOptions.Default, ["Difference"]),
        (typeof(HypergradientMethodExtensions), "Exact", ExactOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "Neumann", NeumannOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "ConjugateGradient", ConjugateGradientOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "FixedPoint", FixedPointOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "Nystrom", NystromOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "Unrolled", UnrolledOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "F2sa", F2saOptions.Default, []),
        (typeof(HypergradientMethodExtensions), "Amigo", AmigoOptions.Default, []),
        (typeof(Metagradient), "OfTraining", MetagradientOptions.Default, []),
        (typeof(Metagradient), "Descend", DescentOptions.Default, ["Metagradient", "Folder", "Disk"]),
        (typeof(BilevelProblemExtensions), "Create", BilevelOptions.Default, []),
        (typeof(BilevelProblemExtensions), "OnRanks", ReductionOptions.Default, []),
    ];

    private static Dictionary<string, object?> Properties(object options) => options.GetType()
        .GetProperties(BindingFlags.Public | BindingFlags.Instance)
        .ToDictionary(p => p.Name, p => p.GetValue(options), StringComparer.OrdinalIgnoreCase);

    private static ParameterInfo[] Optional(Type facade, string method) => facade.GetMethods(Static)
        .Where(m => m.Name == method).Select(m => m.GetParameters().Where(p => p.HasDefaultValue).ToArray())
        .MaxBy(parameters => parameters.Length)!;

    /// <summary>An enum's default argument is its number.</summary>
    private static object? Value(ParameterInfo parameter) =>
        parameter.DefaultValue is { } value && parameter.ParameterType.IsEnum ? Enum.ToObject(parameter.ParameterType, value) : parameter.DefaultValue;

    private static void Agree(string method, ParameterInfo[] parameters, Dictionary<string, object?> options, string[] known)
    {
        foreach (var parameter in parameters.Where(p => !known.Contains(p.Name, StringComparer.OrdinalIgnoreCase)))
        {
            That(options.TryGetValue(parameter.Name!, out var own), $"{method} has an option {parameter.Name} that the core has not");
            Equal(own, Value(parameter), $"default of {method}'s {parameter.Name}");
        }
    }

    private static Test Pair((Type Facade, string Method, object Options, string[] Fixed) pair) =>
        Case($"{pair.Method}: optional arguments = {pair.Options.GetType().Name}.Default, none missing", () =>
        {
            var (facade, method, options, known) = pair;
            var (parameters, properties) = (Optional(facade, method), Properties(options));
            That(parameters.Length > 1, $"{method} has optional arguments");
            if (options is SamaFisherOptions fisher)
                foreach (var (name, value) in Properties(fisher.Difference).Where(p => p.Key != "Nudge")) properties[name] = value;
            if (options is DescentOptions descent)
                foreach (var (name, value) in Properties(descent.Metagradient)) properties[name] = value;
            Agree(method, parameters, properties, known);
            var missing = properties.Keys.Except(known).Except(parameters.Select(p => p.Name!), StringComparer.OrdinalIgnoreCase);
            Equal("", string.Join(", ", missing), $"options that {method} does not offer");
        });



    public static IEnumerable<Test> All =>
    [
        .. Pairs.Select(Pair),
        Case("every options record of the core is one of the facade's methods'", () =>
        {
            var records = typeof(SgdOptions).Assembly.GetExportedTypes()
                .Where(t => t.Namespace == "Sama" && t.Name.EndsWith("Options") && t.GetProperty("Default", Static) is not null);
            var seen = Pairs.Select(p => p.Options.GetType()).Append(typeof(GuardOptions)).Append(typeof(RankOptions)).ToHashSet();
            Equal("", string.Join(", ", records.Where(t => !seen.Contains(t)).Select(t => t.Name)), "records not compared");

        }),
        Case("options of guarded runs: the solver's and its checkpoints' defaults = the core's", () =>
        {
            var core = Properties(GuardOptions.Default);
            CheckpointOptions checkpoint = new() { Folder = "runs" };
            BilevelSolverOptions solver = new();
            Equal<object?>(core["Folder"], solver.Checkpoint);
            Equal(core["Every"], checkpoint.Every);
            Equal(core["Keep"], checkpoint.Keep);
            Equal<object?>(core["SkipAtMost"], solver.SkipAtMost);
            Equal(core["Rollbacks"], solver.Rollbacks);
            Equal(core["Best"], checkpoint.Best);
            Equal<object?>(core["Evaluation"], solver.Validation);
            Equal<object?>(core["Telemetry"], solver.Telemetry);
            Equal(8, core.Count, "options of the core");
        }),
        Case("options of evaluations: the facade's defaults = the core's", () =>
        {
            var facade = new Validation();
            foreach (var option in typeof(EvaluationOptions).GetProperties())
            {
                var own = typeof(Validation).GetProperty(option.Name)!.GetValue(facade);
                Equal(Convert.ToString(option.GetValue(new EvaluationOptions())), Convert.ToString(own), option.Name);
            }
        }),
        Case("a start without a launcher is a rank alone, whose problem is the same", () =>
        {
            using var ranks = Ranks.Start();
            Equal((0, 1, true), (ranks.Rank, ranks.Size, ranks.Any(true)));
            using var run = new BilevelSolver(Problems.Ridge().OnRanks(ranks));
            using var plain = new BilevelSolver(Problems.Ridge());
            run.RunSteps(3);
            plain.RunSteps(3);
            Same(plain.Theta.Vector, run.Theta.Vector, "theta");
            Throws<ArgumentException>(() => Ranks.Start(timeout: TimeSpan.Zero), "timeout");
            Throws<InvalidOperationException>(() => Ranks.Start(size: 2), "mpirun -n 2");
        }),
        Case("AdamW decays by PyTorch's 1e-2, clipping has PyTorch's slack", () =>
        {
            Equal<object?>(1e-2, Value(Optional(typeof(UpdateRuleExtensions), "AdamW").Single(p => p.Name == "weightDecay")));
            Equal<object?>(1e-6, Value(Optional(typeof(UpdateRuleExtensions), "ClipByGlobalNorm").Single()));
        }),
    ];
}
