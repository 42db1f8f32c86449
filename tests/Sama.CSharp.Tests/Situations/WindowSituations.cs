using TorchSharp;
using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>A window is recorded: reverse passes go through the steps that were taken, on the batches that they saw.</summary>
internal static class WindowSituations
{
    private static readonly Tensor A = Problems.Normal(81, 8, 3), Y = Problems.Normal(82, 8), B = Problems.Normal(83, 8, 3), Z = Problems.Normal(84, 8);

    static WindowSituations()
    {
    }

    private static Tensor Rows(long key)
    {
        using var generator = new Generator((ulong)key + 1);
        return randint(8, 5, dtype: int64, generator: generator);
    }

    private static BilevelProblem Problem(
        HypergradientMethod method, int unroll = 4, Func<Draw, double>? factor = null, int accumulate = 1, Func<Draw, Tensor>? rows = null) => BilevelProblem.Create(
        Level.Create(
            "low", [("w", Problems.Normal(85, 3))], UpdateRule.Adam(0.1),
            draw => ((rows ?? (d => Rows(d.Step)))(draw), factor?.Invoke(draw) ?? 1),
            (_, theta, lambda, batch) =>
                (A[batch.Item1].mv(theta["w"]) - Y[batch.Item1]).square().mean() * batch.Item2 + (lambda["r"].exp() * theta["w"].square()).sum()),
        Level.Create("up", [("r", zeros(3, dtype: float64))], UpdateRule.Adam(0.1), _ => 0, (_, theta, _, _) => (B.mv(theta["w"]) - Z).square().mean()),
        method, unroll, accumulate: accumulate, nonFinite: NonFinitePolicy.Skip);

    private static readonly (string Name, HypergradientMethod Method, int Steps)[] Methods =
    [
        ("unrolled", HypergradientMethod.Unrolled(), 4), ("recomputed", HypergradientMethod.Unrolled(recompute: true), 4),
        ("truncated(2)", HypergradientMethod.Truncated(2), 2), ("the last 2 of 3", HypergradientMethod.Unrolled(3, 2), 2), ("truncated(1)", HypergradientMethod.Truncated(1), 1),
    ];

    /// <summary>Where a step was left out, where a meta step went through how many.</summary>
    private static string Told(BilevelSolver run, int steps) => string.Join(' ', Enumerable.Range(0, steps).Select(_ =>
        run.Step() is var step && step.Skipped is not null ? "skip" : step.Meta is { } meta ? $"{meta.Response.Passes}" : "."));

    private static Test Resumed(string name, HypergradientMethod method, int steps) => Case($"{name}, taken up at each place of its window", () =>
    {
        var problem = Problem(method);
        for (var place = 1; place < 4; place++)
        {
            using var straight = new BilevelSolver(problem);
            straight.RunSteps(4 + place);
            using var half = straight.Snapshot();
            straight.RunSteps(4 - place);
            using var resumed = new BilevelSolver(problem, new() { Initial = half });
            Equal(steps, resumed.RunSteps(4 - place)!.Meta!.Response.Passes, "steps");
            Same(straight.Lambda.Vector, resumed.Lambda.Vector, $"lambda at {place}");
            using (var pure = problem.Step(half).Next) Same(straight.Lambda.Vector, pure.Lambda, $"lambda of a pure step at {place}");
        }
    });

    private static Test Another(string what, HypergradientMethod from, int at, int k, HypergradientMethod to, int k2, int? passes) => Case($"a window of {what}", () =>
    {
        using var run = new BilevelSolver(Problem(from, k));
        run.RunSteps(at);
        using var state = run.Snapshot();
        if (passes is null)
        {
            Refuses<ArgumentException>("initial", () => new BilevelSolver(Problem(to, k2), new() { Initial = state }), "inside a window", "beginning");
            return;
        }

        using var other = new BilevelSolver(Problem(to, k2), new() { Initial = state });
        BilevelStep step;
        do step = other.Step();
        while (step.Meta is null);
        Equal(passes.Value, step.Meta.Response.Passes, "steps");
    });

    public static IEnumerable<Test> All =>
    [
        .. Methods.Select(m => Resumed(m.Name, m.Method, m.Steps)),
        Another("truncated(3) is too short for unrolled", HypergradientMethod.Truncated(3), 2, 4, HypergradientMethod.Unrolled(), 4, null),
        Another("K = 4 is too short for K = 10", HypergradientMethod.Unrolled(), 5, 4, HypergradientMethod.Unrolled(), 10, null),
        Another("sama has no beginning", HypergradientMethod.Sama(), 2, 4, HypergradientMethod.Unrolled(), 4, null),
        Another("unrolled is cut to truncated(2)", HypergradientMethod.Unrolled(), 3, 4, HypergradientMethod.Truncated(2), 4, 2),
        Another("K = 4 is cut to K = 5's", HypergradientMethod.Unrolled(), 6, 4, HypergradientMethod.Unrolled(), 5, 5),

        Case("a step is skipped at each place", () =>
        {
            foreach (var (bad, unrolled, truncated) in new[] { (0, "skip . . 3", "skip . . 2"), (1, ". skip . 3", ". skip . 2"), (2, ". . skip 3", ". . skip 1"), (3, ". . . skip", ". . . skip") })
                foreach (var (method, told, whole) in new[] { (HypergradientMethod.Unrolled(), unrolled, 4), (HypergradientMethod.Truncated(2), truncated, 2) })
                {
                    using var run = new BilevelSolver(Problem(method, factor: d => d.Step == bad ? double.NaN : 1));
                    Equal($"{told} . . . {whole}", Told(run, 8), "steps");
                }

            using var all = new BilevelSolver(Problem(HypergradientMethod.Unrolled(), factor: d => d.Step < 4 ? double.NaN : 1));
            Equal("skip skip skip skip . . . 4", Told(all, 8), "steps");
        }),

        Case("a skipped step at the end says that the meta step is left out too", () =>
        {
            using var run = new BilevelSolver(Problem(HypergradientMethod.Sama(), 2, d => d.Step == 1 ? double.NaN : 1));
            run.Step();
            That(run.Step().Skipped!.Contains("meta step"), "it is said");
        }),

        Case("the steps around a skipped one are those of a shorter window", () =>
        {
            using var skipped = new BilevelSolver(Problem(HypergradientMethod.Unrolled(), factor: d => d.Step == 1 ? double.NaN : 1));
            using var shorter = new BilevelSolver(Problem(HypergradientMethod.Unrolled(), 3, rows: d => Rows(d.Step == 0 ? 0 : d.Step + 1)));
            skipped.RunSteps(4);
            shorter.RunSteps(3);
            Same(shorter.Lambda.Vector, skipped.Lambda.Vector, "lambda");
        }),

        Case("two snapshots of one window, each disposed before its run, one of them twice", () =>
        {
            var problem = Problem(HypergradientMethod.Unrolled(), accumulate: 2);
            var straight = new BilevelSolver(problem);
            straight.RunSteps(2);
            var second = straight.Snapshot();
            straight.Step();
            var third = straight.Snapshot();
            straight.Step();
            using var end = straight.Snapshot();
            straight.Dispose();
            using var fromSecond = new BilevelSolver(problem, new() { Initial = second });
            second.Dispose();
            second.Dispose();
            using var fromThird = new BilevelSolver(problem, new() { Initial = third });
            third.Dispose();
            fromThird.Step();
            fromSecond.RunSteps(2);
            Same(end.Lambda, fromSecond.Lambda.Vector, "lambda");
            Same(end.Lambda, fromThird.Lambda.Vector, "lambda");
            Refuses<ArgumentException>("initial", () => new BilevelSolver(problem, new() { Initial = second }), "disposed");
        }),

        Case("unrolled, fed by a stream", () =>
        {
            var batches = Enumerable.Range(0, 7).Select(i => Rows(i)).ToArray();
            using var stream = new BilevelSolver(Problem(HypergradientMethod.Unrolled(), rows: Batches.Stream(batches.Where(_ => true))));
            using var list = new BilevelSolver(Problem(HypergradientMethod.Unrolled(), rows: Batches.Cycle(batches)));
            stream.RunSteps(12);
            list.RunSteps(12);
            Same(list.Lambda.Vector, stream.Lambda.Vector, "lambda");
        }),

        Case("delegates that throw inside a window", () =>
        {
            var fails = false;
            using var plain = new BilevelSolver(Problem(HypergradientMethod.Unrolled()));
            using var failing = new BilevelSolver(Problem(HypergradientMethod.Unrolled(), factor: _ => fails ? throw new IOException() : 1));
            for (var i = 0; i < 8; i++)
            {
                fails = true;
                Throws<IOException>(() => failing.Step());
                fails = false;
                failing.Step();
                plain.Step();
            }

            Same(plain.Lambda.Vector, failing.Lambda.Vector, "lambda");
        }),

        Case("a hypergradient asked for inside a window", () =>
        {
            var problem = Problem(HypergradientMethod.Unrolled());
            using var run = new BilevelSolver(problem);
            run.RunSteps(2);
            using var inside = run.Snapshot();
            using var found = Hypergradient.Compute(problem, inside, HypergradientMethod.Truncated(1));
            using var limit = Hypergradient.Compute(problem, inside, HypergradientMethod.T1T2());
            That(Situation.Distance(found.Total, limit.Total) < 1e-12, "one step is T1-T2");
            Throws<InvalidOperationException>(() => inside.To(CPU), "inside a window");
        }),
    ];
}
