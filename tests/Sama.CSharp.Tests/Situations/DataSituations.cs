using System.Collections.Concurrent;
using System.Collections.Immutable;
using System.Collections.ObjectModel;
using TorchSharp;
using static Sama.Tests.Check;
using static Sama.Tests.Situation;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Batches of any type from sources that free them, delegates that keep tensors, and random numbers.</summary>
internal static class DataSituations
{
    private sealed record Row(Tensor X, Tensor Y);

    private record struct Pair(Tensor X, Tensor Y);

    private sealed class Init
    {
        public required Tensor X { get; init; }

        public Init? Self { get; set; }
    }

    private sealed class Nested
    {
        public Dictionary<string, List<(Tensor, Tensor)>> Parts { get; } = [];
    }

    /// <summary>Batches that are disposed when the next is asked for.</summary>
    private static IEnumerable<T> Freed<T>(Func<Tensor, Tensor, T> make)
    {
        for (var i = 0; i < 5; i++)
        {
            using var x = Problems.Normal((ulong)(90 + i), 8, 3);
            using var y = Problems.Normal((ulong)(95 + i), 8);
            yield return make(x, y);
        }
    }

    private static readonly Lazy<double[]> Plain = new(() => Run((x, y) => x, x => x));

    private static double[] Run<T>(Func<Tensor, Tensor, T> make, Func<T, Tensor> rows)
    {
        using var run = new BilevelSolver(BilevelProblem.Create(
            Level.Create("low", [("w", zeros(3, dtype: float64))], UpdateRule.Sgd(0.1), Batches.Stream(Freed(make)), (_, theta, lambda, batch) =>
                (rows(batch).mv(theta["w"]) - 1).square().mean() + (lambda["r"].exp() * theta["w"].square()).sum()),
            Level.Create("up", [("r", zeros(3, dtype: float64))], UpdateRule.Sgd(0.5), Batches.Stream(Freed(make)), (_, theta, _, batch) =>
                (rows(batch).mv(theta["w"]) + 1).square().mean()),
            HypergradientMethod.Unrolled(), 3, accumulate: 2));
        run.RunSteps(6);
        return Numbers(run.Lambda.Vector);
    }

    private static Test Batch<T>(string type, Func<Tensor, Tensor, T> make, Func<T, Tensor> rows) => Case($"a batch that is {type} is held", () =>
        That(Plain.Value.SequenceEqual(Run(make, rows)), "lambda"));

    private static BilevelProblem Penalised(Func<Pass, Params, Params, long, Tensor> extra, HypergradientMethod? method = null, int unroll = 1) => Two(
        (pass, t, l, step) => (l["r"].exp() * t["w"].square()).sum() + extra(pass, t, l, step), (t, _) => (t["w"] - 1).square().sum(),
        method, unroll: unroll, theta: [("w", Problems.Normal(99, 3))], lambda: [("r", zeros(3, dtype: float64))]);

    private static double[] After(BilevelProblem problem, int steps = 6)
    {
        using var run = new BilevelSolver(problem);
        run.RunSteps(steps);
        return Numbers(run.Lambda.Vector);
    }

    private static Test Noisy(string what, Func<BilevelProblem> problem, string level = "'low'") => Case($"noise in a loss is named: {what}", () =>
        Throws<InvalidOperationException>(() => After(problem()), level, "RandomSeed", "noise"));

    private static Test Kept(string what, Func<Func<Pass, Params, Params, long, Tensor>> make) => Case($"a tensor that a delegate keeps: {what}", () =>
        Throws<InvalidOperationException>(() => After(Penalised(make())), "'low'", "disposed", "DetachFromDisposeScope"));

    private static Test Stops(string what, Func<Pass, Tensor, Tensor> feature) => Case($"a stop-feature {what}", () =>
    {
        foreach (var (method, unroll) in new[] { (HypergradientMethod.Sama(), 1), (HypergradientMethod.Unrolled(), 3), (HypergradientMethod.Exact(), 1) })
        {
            var plain = After(Penalised((pass, t, l, _) => (pass.Stop("f", t["w"].sigmoid()) * t["w"] * l["r"].exp()).sum(), method, unroll));
            var own = After(Penalised((pass, t, l, _) => feature(pass, t["w"]) is var f ? (f * l["r"].exp()).sum() : f, method, unroll));
            That(plain.Zip(own, (a, b) => Math.Abs(a - b)).Max() < 1e-12, $"{method}");
        }
    });

    private static readonly Random Dice = new(1);

    public static IEnumerable<Test> All =>
    [
        Batch("a tuple", (x, y) => (x, y), b => b.x),
        Batch("a record", (x, y) => new Row(x, y), b => b.X),
        Batch("a struct", (x, y) => new Pair(x, y), b => b.X),
        Batch("a nullable struct", (x, y) => (Pair?)new Pair(x, y), b => b!.Value.X),
        Batch("a class with init properties, referring to itself", (x, y) => { var b = new Init { X = x }; b.Self = b; return b; }, b => b.Self!.Self!.X),
        Batch("nested", (x, y) => { var b = new Nested(); b.Parts["a"] = [(x, y)]; return b; }, b => b.Parts["a"][0].Item1),
        Batch("an array of two dimensions", (x, y) => new[,] { { y }, { x } }, b => b[1, 0]),
        Batch("a read-only list", (x, y) => new ReadOnlyCollection<Tensor>([x, y]), b => b[0]),
        Batch("an immutable array", (x, y) => ImmutableArray.Create(x, y), b => b[0]),
        Batch("an immutable dictionary", (x, y) => ImmutableDictionary<string, Tensor>.Empty.Add("x", x), b => b["x"]),
        Batch("a dictionary with a comparer", (x, y) => new Dictionary<string, Tensor>(StringComparer.OrdinalIgnoreCase) { ["x"] = x }, b => b["X"]),
        Batch("a sorted dictionary with a comparer", (x, y) => new SortedDictionary<string, Tensor>(StringComparer.OrdinalIgnoreCase) { ["x"] = x }, b => b["X"]),
        Batch("a concurrent dictionary", (x, y) => new ConcurrentDictionary<string, Tensor> { ["x"] = x }, b => b["x"]),
        Batch("a key and a value", (x, y) => KeyValuePair.Create("x", x), b => b.Value),
        Batch("a linked list", (x, y) => new LinkedList<Tensor>([x, y]), b => b.First!.Value),
        Batch("a lazy value", (x, y) => new Lazy<Tensor>(x), b => b.Value),
        Batch("memory", (x, y) => new Memory<Tensor>([x, y]), b => b.Span[0]),
        Batch("an object of no name", (x, y) => (object)new { x, y }, b => ((dynamic)b).x),
        Batch("a list of 12,000 rows", (x, y) => Enumerable.Range(0, 12_000).Select(_ => new Row(x, y)).ToList(), b => b[^1].X),

        Case("a batch that is a whole data set is refused", () =>
        {
            var rows = Enumerable.Range(0, 120_000).Select(_ => new Row(X, X)).ToList();
            using var run = new BilevelSolver(BilevelProblem.Create(
                Level.Create("low", [("w", ones(3, dtype: float64))], UpdateRule.Sgd(0.1), _ => rows, (_, t, l, b) => (b[0].X.mv(t["w"]) * l["r"].exp().sum()).square().mean()),
                Level.Create("up", [("r", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, t, _, _) => t["w"].square().sum()),
                HypergradientMethod.Sama()));
            Throws<InvalidOperationException>(() => run.Step(), "'low'", "100,000");
        }),

        Case("a stream whose iterator throws begins anew", () =>
        {
            static IEnumerable<int> Failing()
            {
                yield return 1;
                throw new IOException("disk");
            }

            var next = Batches.Stream(Failing());
            for (var i = 0; i < 3; i++)
            {
                Equal(1, next(default), "item");
                Throws<IOException>(() => next(default));
            }
        }),

        Kept("in the loss", () =>
        {
            Tensor? memo = null;
            return (_, t, _, _) => (t["w"] * (memo ??= ones(3, dtype: float64))).sum();
        }),
        Kept("of the parameters", () =>
        {
            Tensor? memo = null;
            return (_, t, _, _) => (t["w"] - (memo ??= t["w"])).square().sum();
        }),
        Kept("by closing a scope around the loss", () => (_, t, _, _) =>
        {
            using var scope = NewDisposeScope();
            return ones(1, dtype: float64) is var one ? one : t["w"];
        }),

        Case("a view of the parameters that a loss disposes", () =>
        {
            var plain = After(Penalised((_, t, _, _) => t["w"].sum()));
            var disposing = After(Penalised((_, t, _, _) =>
            {
                using var w = t["w"].alias();
                return w.sum();
            }));
            That(plain.SequenceEqual(disposing), "lambda");
            var own = After(Two(
                (_, t, l, _) =>
                {
                    using var w = t["w"];
                    using var r = l["r"];
                    return (r.exp() * w.square()).sum() + w.sum();
                },
                (t, _) =>
                {
                    using var w = t["w"];
                    return (w - 1).square().sum();
                },
                theta: [("w", Problems.Normal(99, 3))], lambda: [("r", zeros(3, dtype: float64))]));
            That(plain.SequenceEqual(own), "lambda");
        }),

        Stops("in a scope of one's own", (pass, w) =>
        {
            using var scope = NewDisposeScope();
            return (pass.Stop("f", w.sigmoid()) * w).MoveToOuterDisposeScope();
        }),
        Stops("that the loss disposes", (pass, w) =>
        {
            using var feature = w.sigmoid();
            using var stopped = pass.Stop("f", feature);
            return stopped * w;
        }),

        Noisy("System.Random", () => Penalised((_, t, _, _) => t["w"].sum() * Dice.NextDouble())),
        Noisy("a hundred-thousandth", () => Penalised((_, t, _, _) => t["w"].sum() * (1 + 1e-5 * Dice.NextDouble()))),
        Noisy("in lambda's part alone", () => Penalised((_, _, l, _) => (l["r"] * Dice.NextDouble()).sum())),
        Noisy("a generator made outside", () =>
        {
            var generator = new Generator(3);
            return Penalised((_, t, _, _) => (t["w"] * (rand(3, dtype: float64, generator: generator) > 0.5)).sum());
        }),
        Noisy("a count of calls", () =>
        {
            var calls = 0;
            return Penalised((_, t, _, _) => t["w"].sum() * calls++);
        }),
        Noisy("where weights of 0 hide it at first", () => Two(
            (_, t, l, _) => (l["r"] * (t["w"] - Dice.NextDouble()).square()).sum(), (t, _) => (t["w"] - 1).square().sum(),
            theta: [("w", Problems.Normal(99, 3))], lambda: [("r", zeros(3, dtype: float64))])),
        Noisy("in a level between", () => BilevelProblem.Create(
            [
                Level.Create("a", [("w", Problems.Normal(99, 3))], UpdateRule.Sgd(0.1), _ => 0, (Pass _, Levels t, int _) => (t["b"]["r"].exp() * t["a"]["w"].square()).sum()),
                Level.Create("b", [("r", zeros(3, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (Pass _, Levels t, int _) =>
                    (t["a"]["w"] - 1).square().sum() + t["c"]["q"].exp().sum() * (t["b"]["r"] + Dice.NextDouble()).square().sum()),
                Level.Create("c", [("q", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (Pass _, Levels t, int _) => (t["a"]["w"] - 1).square().sum()),
            ],
            HypergradientMethod.Sama()), "'b'"),

        Case("random numbers in the data, in the meta loss and torch's own are fine", () =>
        {
            After(Two(
                (_, t, l, batch) => (l["r"].exp() * t["w"].square()).sum() * (1 + batch % 7) + (t["w"] * rand(3, dtype: float64)).sum(),
                (t, _) => (t["w"] - Dice.NextDouble()).square().sum(),
                theta: [("w", Problems.Normal(99, 3))], lambda: [("r", zeros(3, dtype: float64))], data: _ => Dice.NextInt64(100)), 20);
        }),
    ];
}
