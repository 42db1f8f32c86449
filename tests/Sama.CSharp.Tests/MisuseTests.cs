using TorchSharp;
using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Bad arguments: the right exception, with the argument's name.</summary>
internal static class MisuseTests
{
    private static readonly UpdateRule Sgd = UpdateRule.Sgd(0.1);
    private static readonly HypergradientMethod Sama = HypergradientMethod.Sama();

    private static Tensor Vector(ScalarType dtype = ScalarType.Float64, Device? device = null) => ones(4, dtype, device);

    private static Level Base(
        string name = "base", IEnumerable<(string, Tensor)>? parameters = null, UpdateRule? rule = null,
        Func<Pass, Params, Params, int, Tensor>? loss = null) =>
        Level.Create(name, parameters ?? [("w", Vector())], rule ?? Sgd, _ => 0, loss ?? ((_, theta, lambda, _) =>
            (theta["w"].square() * lambda["x"]).sum()));

    private static Level Meta(string name = "meta", Func<Pass, Params, Params, int, Tensor>? loss = null) =>
        Level.Create(name, [("x", Vector())], Sgd, _ => 0, loss ?? ((_, theta, _, _) => theta["w"].square().sum()));

    private static void Run(Level lower, Level? upper = null)
    {
        using var solver = new BilevelSolver(BilevelProblem.Create(lower, upper ?? Meta(), Sama));
        solver.RunSteps(2);
    }

    private static Tensor Disposed()
    {
        var tensor = Vector();
        tensor.Dispose();
        return tensor;
    }

    private static Validation Scoring => new() { Score = (_, _) => 0 };

    private static void Validates(string argument, Validation validation) => Refuses<ArgumentException>(
        argument, () => _ = new BilevelSolver(Problems.Ridge(), new() { Validation = validation }));

    private static Test Argument(string name, string argument, Action call, params string[] words) =>
        Case(name, () => Refuses<ArgumentException>(argument, call, words));

    private static Test Parameter(string state, Func<Tensor> bad, params string[] words) =>
        Argument($"a parameter that is {state}", "named", () => Base(parameters: [("v", Vector()), ("w", bad())]), ["'w'", .. words]);

    private static Test Loss(string name, Func<Pass, Params, Params, int, Tensor> loss, params string[] words) =>
        Case(name, () => Throws<InvalidOperationException>(() => Run(Base(loss: loss)), words));

    public static IEnumerable<Test> All =>
    [
        Parameter("null", () => null!, "null"),
        Parameter("disposed", Disposed, "disposed"),
        Parameter("of another dtype", () => Vector(ScalarType.Float32), "Float32", "Float64"),
        Parameter("an integer", () => Vector(ScalarType.Int64), "floating-point"),
        Parameter("on another device", () => Vector(device: new Device(DeviceType.META)), "meta", "cpu"),
        Argument("a parameter given twice", "shapes", () => Base(parameters: [("w", Vector()), ("w", Vector())]), "'w'", "2 times"),
        Argument("no parameter", "shapes", () => Base(parameters: []), "at least one"),
        Argument("a parameter without a name", "shapes", () => Base(parameters: [("", Vector())]), "empty"),
        Argument("a level without a name", "name", () => Base(name: "")),
        Argument("a module without trainable parameters", "m", () => Level.OfModule("relu", nn.ReLU(), Sgd, _ => 0, (_, _) => Vector()), "'relu'"),
        Case("a parameter disposed before the run", () =>
        {
            var w = Vector();
            var level = Base(parameters: [("w", w)]);
            w.Dispose();
            Refuses<ArgumentException>("named", () => Run(level), "'w'", "disposed");
        }),

        Argument("levels of one name", "levels", () => Run(Base("one"), Meta("one")), "'one'"),
        Argument("no base step per meta step", "options", () => BilevelProblem.Create(Base(), Meta(), Sama, unroll: 0), "Unroll (0)"),
        Argument("a negative warm-up", "options", () => BilevelProblem.Create(Base(), Meta(), Sama, warmUp: -1), "WarmUp (-1)"),
        Argument("no micro-batch", "options", () => BilevelProblem.Create(Base(), Meta(), Sama, accumulate: 0), "Accumulate (0)"),
        Case("a base parameter that no loss sees is named by a warning", () =>
        {
            var problem = BilevelProblem.Create(Base(parameters: [("w", Vector()), ("idle", Vector())]), Meta(), Sama);
            using var start = problem.Start();
            Equal("base/idle", string.Join(' ', Hypergradient.Unreached(problem, start)), "unreached");
            using var solver = new BilevelSolver(problem);
            var step = solver.RunSteps(10)!;
            That(step.Meta!.Warnings.Any(w => w.Contains("idle") && w.Contains("'base'")), string.Join('\n', step.Meta.Warnings));
        }),
        Case("a meta level that no loss sees is refused when it has not moved", () => Throws<InvalidOperationException>(() =>
        {
            using var solver = new BilevelSolver(BilevelProblem.Create(Base(loss: (_, theta, _, _) => theta["w"].sum()), Meta(), Sama));
            That(solver.RunSteps(99)!.Meta!.Warnings.Count > 0, "it is said");
            solver.Step();
        }, "'meta'", "can never move")),
        Argument("a name that no level has", "name", () => Run(Level.Create("base", [("w", Vector())], Sgd, _ => 0, (_, levels, _) => levels["other"].Vector.sum())), "'other'", "base, meta"),
        Argument("a name that no parameter has", "name", () => Run(Base(loss: (_, theta, _, _) => theta["u"].sum())), "'u'", "w"),

        Loss("a loss that is not one number", (_, theta, lambda, _) => theta["w"] * lambda["x"], "one number", "[4]"),
        Loss("a loss that is cut off", (_, theta, _, _) => theta["w"].detach().sum(), "no parameter"),
        Loss("a loss that is null", (_, _, _, _) => null!, "'base'", "null"),
        Case("shapes that do not fit in a loss", () => Throws<Exception>(
            () => Run(Base(loss: (_, theta, lambda, _) => (theta["w"].unsqueeze(1).mm(lambda["x"].unsqueeze(1))).sum())), "mat1")),
        Case("a stop-feature given twice in a pass", () => Refuses<ArgumentException>("name", () => Run(Base(loss: (pass, theta, lambda, _) =>
            (pass.Stop("f", theta["w"]) * pass.Stop("f", theta["w"]) * lambda["x"] * theta["w"]).sum())), "'f'")),
        Case("a loss that is not a number names step and level, and the state before it stays", () =>
        {
            using var solver = new BilevelSolver(BilevelProblem.Create(
                Base(loss: (pass, theta, lambda, _) =>
                    (theta["w"].square() * lambda["x"]).sum() * (pass.Draw.Step == 2 ? double.NaN : 1)),
                Meta(), Sama));
            solver.RunSteps(2);
            using var before = solver.Snapshot();
            var error = Throws<NonFiniteException>(() => solver.Step(), "step 2", "'base'", "not finite");
            Equal(("base", 2L, 2L), (error.Level, error.Step, solver.StepsTaken));
            using var after = solver.Snapshot();
            Same(before.Theta, after.Theta, "theta");
            Same(before.Lambda, after.Lambda, "lambda");
        }),

        Case("a step that is not finite can be skipped, and says why", () =>
        {
            using var solver = new BilevelSolver(BilevelProblem.Create(
                Base(loss: (pass, theta, lambda, _) =>
                    (theta["w"].square() * lambda["x"]).sum() * (pass.Draw.Step == 1 ? double.NaN : 1)),
                Meta(), Sama, nonFinite: NonFinitePolicy.Skip));
            var skipped = Enumerable.Range(0, 3).Select(_ => solver.Step().Skipped).ToList();
            That(skipped[0] is null && skipped[1]!.Contains("'base'") && skipped[2] is null, string.Join(" | ", skipped));
        }),

        Argument("a negative number of steps", "steps", () => new BilevelSolver(Problems.Ridge()).RunSteps(-1)),
        Argument("a negative number of asynchronous steps", "steps", () => new BilevelSolver(Problems.Ridge()).RunAsync(-1)),
        Case("a score every 0 steps", () => Validates("Every", Scoring with { Every = 0 })),
        Case("a negative gain", () => Validates("MinDelta", Scoring with { MinDelta = -1 })),
        Case("no patience", () => Validates("Patience", Scoring with { Patience = 0 })),
        Case("no score", () => Validates("Score", Scoring with { Score = null! })),
        Argument("a negative tolerance", "tolerance", () => Problems.Ridge().Solve(Problems.Ridge().Start(), -1)),
        Argument("no step to solve in", "maxSteps", () => Problems.Ridge().Solve(Problems.Ridge().Start(), maxSteps: 0)),
        Argument("a state of another problem", "initial", () =>
        {
            using var state = BilevelProblem.Create(Base(parameters: [("w", Vector()), ("v", Vector())],
                loss: (_, theta, lambda, _) => (theta["w"] * theta["v"] * lambda["x"]).sum()), Meta(), Sama).Start();
            _ = new BilevelSolver(Problems.Ridge(), new() { Initial = state });
        }, "'ridge'", "'base'"),
        Argument("a disposed state", "initial", () =>
        {
            var state = Problems.Ridge().Start();
            ((IDisposable)state).Dispose();
            _ = new BilevelSolver(Problems.Ridge(), new() { Initial = state });
        }, "'ridge'", "disposed"),
        Argument("no batch to cycle through", "batches", () => Batches.Cycle(Array.Empty<int>())),
        Argument("a negative rate", "LearningRate", () => UpdateRule.Sgd(-1)),
        Argument("a decay of moments above 1", "Beta1", () => UpdateRule.Adam(beta1: 1.5)),
        Argument("α that is not positive", "Alpha", () => HypergradientMethod.Sama(alpha: 0)),
        Argument("a rule in a chain that is null", "rules", () => UpdateRule.Chain(Sgd, null!)),
        Argument("no rule in a chain", "rules", () => UpdateRule.Chain()),
        Argument("a group without parameters", "groups", () => Base(rule: UpdateRule.Groups((_ => true, Sgd), (_ => true, Sgd))), "group 1"),
        Argument("a parameter in no group", "groups", () => Base(rule: UpdateRule.Groups((_ => false, Sgd))), "'w'"),
        .. NullTests.All,
    ];
}
