using TorchSharp;
using static Sama.Tests.Check;
using static Sama.Tests.Situation;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>The state of a run is the whole truth: buffers of every module, rules by name, steps that leave no trace.</summary>
internal static class StateSituations
{
    private static readonly Encoder Static = new();

    static StateSituations()
    {
    }

    private sealed class Holder
    {
        public Encoder Inner { get; } = new();

        public BilevelProblem Problem() => Encoded(x => Inner.call(x));
    }

    private static BilevelProblem Encoded(Func<Tensor, Tensor> encode, Func<Level, Level>? change = null)
    {
        Tensor Loss(Params theta) => (encode(X).mv(theta["w"]) - 1).square().mean();
        return BilevelProblem.Create(
            (change ?? (level => level))(Level.Create("low", [("w", Problems.Normal(72, 4))], UpdateRule.Adam(0.1), _ => 0, (_, theta, lambda, _) =>
                Loss(theta) * lambda["s"].exp().sum())),
            Level.Create("up", [("s", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, _, _) => Loss(theta)),
            HypergradientMethod.Sama());
    }

    private static Tensor Through(Tensor x) => Static.call(x);

    /// <summary>Base passes alone are tracked, and pure steps none.</summary>
    private static Test Outside(string where, Func<(Encoder, BilevelProblem)> make) => Case($"a module outside the levels: {where}", () =>
    {
        var (encoder, problem) = make();
        var before = encoder.Tracked;
        using (var run = new BilevelSolver(problem)) run.RunSteps(5);
        Equal(5, encoder.Tracked - before, "batches tracked by a run of 5 steps");
        using var start = problem.Start();
        using (problem.Step(start).Next) Equal(5, encoder.Tracked - before, "after a pure step");
        That(encoder.Lin.weight!.grad is null, "its parameters have no gradient");
    });

    private static BilevelProblem Ruled(UpdateRule rule, (string, Tensor)[]? theta = null, HypergradientMethod? method = null, int unroll = 1) => Two(
        (_, t, l, _) => (t.Vector * l["s"].exp().sum() - 0.5).square().mean(), (t, _) => (t.Vector + 1).square().mean(),
        method, rule, unroll, theta ?? [("w", ones(4, dtype: float64))]);

    private static Test Refused(string what, BilevelProblem from, BilevelProblem to, params string[] words) => Case($"a state of {what} is refused", () =>
    {
        using var run = new BilevelSolver(from);
        run.RunSteps(3);
        using var state = run.Snapshot();
        Refuses<ArgumentException>("initial", () => new BilevelSolver(to, new() { Initial = state }), ["'low'", .. words]);
    });

    private static UpdateRule Groups(bool swap, UpdateRule second)
    {
        (Func<string, bool>, UpdateRule) a = (name => name == "a", UpdateRule.Adam(0.1)), b = (name => name == "b", second);
        return swap ? UpdateRule.Groups(b, a) : UpdateRule.Groups(a, b);
    }

    private static readonly (string, Tensor)[] Two2 = [("a", ones(2, dtype: float64)), ("b", zeros(2, dtype: float64))];

    private static UpdateRule Own(Func<long, Tensor, Tensor, (string, Tensor)[]> next) => UpdateRule.Create(
        "own",
        theta => RuleState.Create(0, ("m", zeros_like(theta)), ("s", zeros_like(theta))),
        (state, g, theta) =>
        {
            var (m, s) = (state["m"] * 0.9 + g, state["s"] * 0.99 + g.square());
            return (m * 0.01 / ((s + 1e-12).sqrt() + 1), RuleState.Create(state.Count + 1, next(state.Count, m, s)));
        });

    private static UpdateRule Writing(Func<RuleState, Tensor, Tensor, Tensor> step) => UpdateRule.Create(
        "writes", theta => RuleState.Create(0, ("m", zeros_like(theta))), (state, g, theta) => (step(state, g, theta), state));

    public static IEnumerable<Test> All =>
    [
        Outside("captured by a lambda", () => { var e = new Encoder(); return (e, Encoded(x => e.call(x))); }),
        Outside("a method of an object", () => { var h = new Holder(); return (h.Inner, h.Problem()); }),
        Outside("captured as a delegate", () => { var e = new Encoder(); Func<Tensor, Tensor> f = e.call; return (e, Encoded(x => f(x))); }),
        Outside("in a list", () => { List<Encoder> all = [new()]; return (all[0], Encoded(x => all[0].call(x))); }),
        Outside("in a dictionary", () => { Dictionary<string, Encoder> all = new() { ["a"] = new() }; return (all["a"], Encoded(x => all["a"].call(x))); }),
        Outside("made late", () => { Lazy<Encoder> late = new(() => new()); var problem = Encoded(x => late.Value.call(x)); problem.Start().Dispose(); return (late.Value, problem); }),
        Outside("behind a data set", () =>
        {
            var rows = Enumerable.Range(0, 8000).Select(_ => (X, X)).ToList();
            var h = new Holder();
            return (h.Inner, Encoded(x => h.Inner.call(x) + 0 * rows[0].Item1.sum()));
        }),
        Outside("in a static field", () => (Static, Encoded(Through))),
        Outside("said by Observing", () => (Static, Encoded(Through, level => level.Observing(Static)))),

        Case("a data delegate that computes with a module says what to do", () =>
        {
            var encoder = new Encoder();
            BilevelProblem Features(Func<Tensor> batch) => BilevelProblem.Create(
                Level.Create("low", [("w", Problems.Normal(72, 4))], UpdateRule.Sgd(0.1), _ => batch(), (_, theta, lambda, x) =>
                    (x.mv(theta["w"]) - 1).square().mean() * lambda["s"].exp().sum()),
                Level.Create("up", [("s", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => batch(), (_, theta, _, x) => (x.mv(theta["w"]) + 1).square().mean()),
                HypergradientMethod.Sama());
            using var graph = new BilevelSolver(Features(() => encoder.call(X)));
            Throws<InvalidOperationException>(() => graph.Step(), "'low'", "no_grad", "batch");
            var before = encoder.Tracked;
            using var constant = new BilevelSolver(Features(() =>
            {
                using (no_grad()) return encoder.call(X);
            }));
            constant.RunSteps(5);
            Equal(5, encoder.Tracked - before, "batches tracked");
        }),

        Case("two runs of one module in turn each find their own statistics", () =>
        {
            var encoder = new Encoder();
            var net = nn.Sequential(("encoder", encoder), ("out", nn.Linear(4, 1, dtype: float64)));
            var problem = OfModule(net, () => (net.call(X).squeeze(1) - 1).square().mean());
            using var start = problem.Start();
            using var alone = new BilevelSolver(problem, new() { Initial = start });
            alone.RunSteps(6);
            using var end = alone.Snapshot();
            using var a = new BilevelSolver(problem, new() { Initial = start });
            using var b = new BilevelSolver(problem, new() { Initial = start });
            for (var i = 0; i < 6; i++)
            {
                a.Step();
                using (problem.Step(start).Next) b.Step();
            }

            using var ofA = a.Snapshot();
            using var ofB = b.Snapshot();
            foreach (var (name, value) in end.Buffers)
            {
                Same(value, ofA.Buffers[name], name);
                Same(value, ofB.Buffers[name], name);
            }

            Same(end.Theta, ofA.Theta, "theta");
            Same(end.Theta, ofB.Theta, "theta");
        }),

        Case("instance norm: a resumed run is the straight one", () =>
        {
            var norm = nn.InstanceNorm1d(4, affine: true, track_running_stats: true, dtype: float64);
            var net = nn.Sequential(("conv", nn.Conv1d(3, 4, 1, dtype: float64)), ("norm", norm));
            var y = Problems.Normal(73, 8, 3, 5);
            var problem = OfModule(net, () => (net.call(y) - 1).square().mean());
            using var straight = new BilevelSolver(problem);
            straight.RunSteps(3);
            using var half = straight.Snapshot();
            straight.RunSteps(3);
            using var mean = norm.get_buffer("running_mean")!.clone();
            using var resumed = new BilevelSolver(problem, new() { Initial = half });
            resumed.RunSteps(3);
            Same(mean, norm.get_buffer("running_mean")!, "running mean");
        }),

        Case("a buffer that is replaced or cast between steps is followed", () =>
        {
            var encoder = new Encoder();
            using var run = new BilevelSolver(Encoded(x => encoder.call(x.to_type(encoder.Lin.weight!.dtype)).to_type(float64)));
            run.RunSteps(2);
            encoder.Norm.running_mean = ones(4, dtype: float64);
            run.RunSteps(2);
            encoder.to(float32);
            run.RunSteps(2);
            Equal(6, encoder.Tracked, "batches tracked");
        }),

        Case("a score in training mode tracks nothing", () =>
        {
            var encoder = new Encoder();
            using var run = new BilevelSolver(Encoded(x => encoder.call(x)), new() { Validation = new() { Every = 1, Score = (_, _) => encoder.call(X).sum().item<double>() } });
            run.RunSteps(5);
            Equal(5, encoder.Tracked, "batches tracked");
        }),

        Case("going back to the best state leaves the live parameters where they are", () =>
        {
            using var run = new BilevelSolver(Ruled(UpdateRule.Adam(0.1)), new() { Validation = new() { Every = 1, Patience = 2, RestoreBest = true, Score = (_, _) => 1 } });
            var theta = run.Theta;
            run.RunSteps(50);
            Equal(1, run.StepsTaken, "steps");
            Same(theta["w"], run.Theta["w"], "theta");
        }),

        Refused("another rule", Ruled(UpdateRule.Adam(0.1)), Ruled(UpdateRule.Sgd(0.1)), "'adam'", "'sgd'"),
        Refused("the same rule with another state", Ruled(UpdateRule.Sgd(0.1, 0.9)), Ruled(UpdateRule.Sgd(0.1)), "momentum_buffer"),
        Refused("a maximum less", Ruled(UpdateRule.Adam(0.1)), Ruled(UpdateRule.Adam(0.1, amsGrad: true)), "lacks", "max_exp_avg_sq"),
        Refused("another order of a chain", Ruled(UpdateRule.Adam(0.1).InBox(0, 1)), Ruled(UpdateRule.Chain(UpdateRule.ClipByValue(1), UpdateRule.Adam(0.1))), "box", "clipByValue"),
        Refused("another nesting",
            Ruled(UpdateRule.Chain(UpdateRule.ClipByValue(1), UpdateRule.Chain(UpdateRule.AddDecay(0.1), UpdateRule.Adam(0.1)))),
            Ruled(UpdateRule.Chain(UpdateRule.Chain(UpdateRule.ClipByValue(1), UpdateRule.AddDecay(0.1)), UpdateRule.Adam(0.1))), "'adam"[1..]),
        Refused("groups of other rules", Ruled(Groups(false, UpdateRule.Sgd(0.1, 0.9)), Two2), Ruled(Groups(true, UpdateRule.Sgd(0.1, 0.9)), Two2), "('a') | ('b')", "('b') | ('a')"),
        Refused("groups of one rule in another order", Ruled(Groups(false, UpdateRule.Adam(0.2)), Two2), Ruled(Groups(true, UpdateRule.Adam(0.2)), Two2), "('a') | ('b')", "('b') | ('a')"),
        Refused("another shape", Ruled(UpdateRule.Adam(0.1)), Ruled(UpdateRule.Adam(0.1), [("w", ones([2, 2], float64))]), "[4]", "[2x2]"),
        Refused("another name", Ruled(UpdateRule.Adam(0.1)), Ruled(UpdateRule.Adam(0.1), [("v", ones(4, dtype: float64))]), "'w'", "'v'"),

        Case("a rule of one's own is matched by names, not by order", () =>
        {
            foreach (var (method, unroll) in new[] { (HypergradientMethod.Sama(), 1), (HypergradientMethod.T1T2(), 1), (HypergradientMethod.Unrolled(), 3) })
            {
                using var plain = new BilevelSolver(Ruled(Own((_, m, s) => [("m", m), ("s", s)]), method: method, unroll: unroll));
                using var turned = new BilevelSolver(Ruled(Own((_, m, s) => [("s", s), ("m", m)]), method: method, unroll: unroll));
                plain.RunSteps(9);
                turned.RunSteps(9);
                Same(plain.Theta.Vector, turned.Theta.Vector, "theta");
                Same(plain.Lambda.Vector, turned.Lambda.Vector, "lambda");
            }

            using var renames = new BilevelSolver(Ruled(Own((count, m, s) => count > 2 ? [("m", m), ("v", s)] : [("m", m), ("s", s)])));
            Throws<InvalidOperationException>(() => renames.RunSteps(9), "'own'", "names");
        }),

        Case("a rule of one's own that writes in place is refused", () =>
        {
            foreach (var (what, step) in new (string, Func<RuleState, Tensor, Tensor, Tensor>)[]
            {
                ("state", (state, g, _) => state["m"].mul_(0.9).add_(g)), ("gradient", (_, g, _) => g.mul_(0.1)), ("θ", (_, g, theta) => theta.add_(g)),
            })
            {
                using var run = new BilevelSolver(Ruled(Writing(step)));
                using var before = run.Snapshot();
                Throws<InvalidOperationException>(() => run.Step(), "'writes'", what, "in place");
                Same(before.Theta, run.Theta.Vector, "theta");
            }
        }),
    ];
}
