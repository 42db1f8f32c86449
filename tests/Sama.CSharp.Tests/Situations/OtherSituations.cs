using TorchSharp;
using TorchSharp.Modules;
using static Sama.Tests.Check;
using static Sama.Tests.Situation;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Connections between levels, what modules are, numbers at the edge, lifetimes.</summary>
internal static class OtherSituations
{
    private sealed class TiedEmbedding : nn.Module<Tensor, Tensor>
    {
        public readonly Embedding Words = nn.Embedding(6, 4);
        public readonly Linear Out = nn.Linear(4, 6, hasBias: false);

        public TiedEmbedding() : base("tied")
        {
            Out.weight = Words.weight!;
            RegisterComponents();
        }

        public override Tensor forward(Tensor x) => Out.call(Words.call(x).mean([1]));
    }

    private sealed class TiedConvolutions : nn.Module<Tensor, Tensor>
    {
        private readonly Conv1d first = nn.Conv1d(3, 3, 1), second = nn.Conv1d(3, 3, 1, bias: false);

        public TiedConvolutions() : base("tied")
        {
            second.weight = first.weight;
            RegisterComponents();
        }

        public override Tensor forward(Tensor x) => second.call(first.call(x).tanh());
    }

    private sealed class Lists : nn.Module<Tensor, Tensor>
    {
        private readonly ParameterList scales = new(new Parameter(ones(3)), new Parameter(zeros(3)));
        private readonly ModuleList<nn.Module<Tensor, Tensor>> layers = new(nn.Linear(3, 3), nn.Linear(3, 3));
        private readonly Parameter empty = new(zeros(0));

        public Lists() : base("lists") => RegisterComponents();

        public override Tensor forward(Tensor x) => layers[1].call(layers[0].call(x) * scales[0] + scales[1]) + empty.sum();
    }

    private static readonly Tensor Narrow = X.to_type(float32);

    static OtherSituations()
    {
    }

    private static Tensor Error(nn.Module<Tensor, Tensor> net, Tensor? x = null) => (net.call(x ?? Narrow) - 1).square().mean();

    private static Test Trains(string what, Func<nn.Module<Tensor, Tensor>> make, Func<Tensor>? x = null) => Case($"a module with {what} is trained", () =>
    {
        var (net, input) = (make(), x?.Invoke());
        var before = Error(net, input).item<float>();
        using var run = new BilevelSolver(OfModule(net, () => Error(net, input)));
        run.RunSteps(10);
        That(Error(net, input).item<float>() < before, "the loss falls");
    });

    private static Test Changed(string what, Action<Linear> before, Action<Linear> after, string word) => Case($"a module that is {what} between steps", () =>
    {
        var net = nn.Linear(3, 3);
        before(net);
        using var run = new BilevelSolver(OfModule(net, () => Error(net)));
        run.RunSteps(2);
        after(net);
        Throws<InvalidOperationException>(() => run.Step(), "'net'", "'bias'", word, "again");
    });

    private static Tensor Error(Tensor w) => (X.mv(w) - 1).square().mean();

    private static BilevelProblem Regression(Func<Params, Params, long, Tensor> lower, Func<Params, Params, Tensor>? upper = null) => Two(
        (_, t, l, step) => lower(t, l, step), upper ?? ((t, _) => Error(t["w"] * 2)),
        theta: [("w", Problems.Normal(99, 3))], lambda: [("a", zeros(1, dtype: float64)), ("b", zeros(1, dtype: float64))]);

    private static Test Unseen(string what, Func<Params, Tensor> upper) => Case($"a meta loss that sees nothing is refused: {what}", () =>
        Throws<InvalidOperationException>(() =>
        {
            using var run = new BilevelSolver(Regression((t, l, _) => Error(t["w"]) * l["a"].exp().sum() * l["b"].exp().sum(), (t, _) => upper(t)));
            run.Step();
        }, "'up'"));

    private static Test Reached(string what, Func<long, bool> when) => Case($"lambda that is reached {what} moves", () =>
    {
        using var run = new BilevelSolver(Regression((t, l, step) => when(step) ? Error(t["w"]) * (l["a"].exp() + l["b"].exp()).sum() : Error(t["w"])));
        run.RunSteps(20);
        That(Numbers(run.Lambda.Vector).All(l => l != 0), "it moved");
    });

    private static Test Singular(string what, int length, int rows, Func<Params, Tensor> residuals, Func<Params, Tensor> upper) => Case($"a base Hessian that is singular: {what}", () =>
    {
        BilevelProblem Problem(HypergradientMethod method) => Two(
            (_, t, l, _) => (l["s"].exp() * residuals(t).square()).mean(), (t, _) => upper(t), method,
            theta: [("w", Problems.Normal(100, length))], lambda: [("s", zeros(rows, dtype: float64))]);
        var exact = At(Problem(HypergradientMethod.Exact()));
        var descent = At(Problem(HypergradientMethod.ConjugateGradient(50)));
        var size = Math.Sqrt(exact.Sum(e => e * e));
        That(size < 1e6 && exact.Zip(descent, (a, b) => Math.Abs(a - b)).Max() <= 1e-6 * size, $"{string.Join(' ', exact)} and {string.Join(' ', descent)}");
        using var start = Problem(HypergradientMethod.Nystrom(length - 1, 1e-6)).Start();
        using var nystrom = Hypergradient.Compute(Problem(HypergradientMethod.Nystrom(length - 1, 1e-6)), start);
        That(nystrom.Report.Residual < 1 || nystrom.Report.Note is not null, "nystrom says when it is of no use");
    });

    private static readonly Tensor Wide = Problems.Normal(101, 3, 6), Twice = cat([X, X[.., 0].unsqueeze(1)], 1);

    private static Test Overflows(string rule, UpdateRule of) => Case($"an update that overflows is named alike in place and pure: {rule}", () =>
    {
        BilevelProblem Problem() => Two(
            (_, t, l, _) => 1e155 * t["w"].square().sum() * l["s"].exp().sum(), (t, l) => (t["w"] * 1e-200).square().sum() + l["s"].square().sum(),
            HypergradientMethod.SamaNa(), of, theta: [("w", ones(2, dtype: float64))]);
        using var run = new BilevelSolver(Problem());
        using var start = Problem().Start();
        var inPlace = Throws<NonFiniteException>(() => run.Step(), "'low'");
        Equal(inPlace.Message, Throws<NonFiniteException>(() => Problem().Step(start)).Message, "message");
    });

    private static Test Counts(string what, Func<(Action Step, Action End)> make) => Case($"live tensors stay as many over 2,000 steps: {what}", () =>
    {
        var (step, end) = make();
        long After(int steps)
        {
            using (NewDisposeScope())
                for (var i = 0; i < steps; i++) step();
            for (var i = 0; i < 3; i++)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
            }

            return Tensor.TotalCount;
        }

        var before = After(120);
        Equal(before, After(2_040), "live tensors");
        end();
    });

    private static (Action, Action) Reading(BilevelSolver run) => (() =>
    {
        run.Step();
        _ = run.Theta["w"].shape;
        run.Lambda.Vector.Dispose();
    }, run.Dispose);

    private static BilevelProblem Windowed(Func<Draw, double>? factor = null) => BilevelProblem.Create(
        Level.Create("low", [("w", Problems.Normal(99, 3))], UpdateRule.Adam(0.01), factor ?? (_ => 1), (_, t, l, f) => Error(t["w"]) * f + (l["r"].exp() * t["w"].square()).sum()),
        Level.Create("up", [("r", zeros(3, dtype: float64))], UpdateRule.Adam(0.01), _ => 0, (_, t, _, _) => Error(t["w"] * 2)),
        HypergradientMethod.Unrolled(), 4, nonFinite: NonFinitePolicy.Skip);

    public static IEnumerable<Test> All =>
    [
        Reached("by every fifth batch alone", step => step % 5 == 4),
        Reached("from step 12 on", step => step >= 12),
        Unseen("detached", t => Error(t["w"].detach())),
        Unseen("an accuracy", t => (X.mv(t["w"]) > 0).to_type(float64).mean()),
        Unseen("an integer", t => X.mv(t["w"]).argmax()),
        Unseen("a constant", _ => ones(1, dtype: float64)),

        Case("lambda that the base loss reads as a number is said not to move", () =>
        {
            using var run = new BilevelSolver(Regression((t, l, _) => Error(t["w"]) * Math.Exp(l["a"].item<double>())));
            That(run.Step().Meta!.Warnings.Any(w => w.Contains("'up'")), "a warning at the first step");
            Throws<InvalidOperationException>(() => run.RunSteps(100), "'up'", "can never move");
        }),

        Case("the flat vectors in a loss have gradients too", () =>
        {
            BilevelProblem Problem(bool flat) => Two(
                (_, t, l, _) => (t["a"] - 2).square().sum() + (flat ? t.Vector : cat([t["a"], t["b"]])).square().sum() * (flat ? l.Vector : l["s"]).exp().sum(),
                (t, _) => (t["a"] - 1).square().sum() + (flat ? t.Vector : cat([t["a"], t["b"]])).sum(),
                theta: [("a", ones(3, dtype: float64)), ("b", ones(2, dtype: float64))]);
            foreach (var method in new[] { HypergradientMethod.Sama(), HypergradientMethod.T1T2(), HypergradientMethod.Exact() })
                That(At(Problem(true), method).Zip(At(Problem(false), method), (a, b) => Math.Abs(a - b)).Max() < 1e-12, $"{method}");
        }),

        Trains("an embedding tied to its output", () => new TiedEmbedding(), () => arange(40).remainder(6).reshape(8, 5)),
        Trains("tied convolutions", () => new TiedConvolutions(), () => Problems.Normal(102, 4, 3, 5).to_type(float32)),
        Trains("lists of parameters and modules, and an empty parameter", () => new Lists()),
        Changed("frozen", _ => { }, net => net.bias!.requires_grad = false, "frozen"),
        Changed("unfrozen", net => net.bias!.requires_grad = false, net => net.bias!.requires_grad = true, "unfrozen"),

        Case("parameters that share storage but are not the same are refused", () =>
        {
            var (a, b) = (nn.Linear(3, 3), nn.Linear(3, 3));
            using (no_grad()) b.weight!.set_(a.weight!.t());
            Throws<InvalidOperationException>(() => OfModule(nn.Sequential(a, b), () => zeros(1)), "'0.weight'", "'1.weight'", "transposed");
            using (no_grad()) b.weight!.set_(zeros(3, 3));
            using (no_grad()) b.bias!.set_(a.weight!.reshape(9)[3..6]);
            Throws<InvalidOperationException>(() => OfModule(nn.Sequential(a, b), () => zeros(1)), "'0.weight'", "'1.bias'", "part of their storage");
        }),

        Singular("a column twice", 4, 16, t => Twice.mv(t["w"]) - 1, t => (Twice.mv(t["w"]) + 0.5).square().mean()),
        Singular("more columns than rows", 6, 3, t => Wide.mv(t["w"]) - 1, t => (Wide.mv(t["w"]) + 0.5).square().mean()),
        Singular("a meta gradient outside its range", 4, 16, t => Twice.mv(t["w"]) - 1, t => t["w"].square().sum()),

        Case("a start so far from the simplex that the step is rounding is refused", () =>
        {
            BilevelProblem From(float size, UpdateRule rule) => BilevelProblem.Create(
                Level.Create("low", [("w", full(3, size))], rule, _ => 0, (_, t, l, _) => (t["w"] - l["s"]).square().sum()),
                Level.Create("up", [("s", zeros(3))], UpdateRule.Sgd(0), _ => 0, (_, t, _, _) => t["w"].square().sum()), HypergradientMethod.SamaNa());
            foreach (var rule in new[] { UpdateRule.Sgd(0.1).OnSimplex(), UpdateRule.Sgd(0.1).InBox(0, 1) })
            {
                Refuses<ArgumentException>("parameters", () => From(1e9f, rule).Start().Dispose(), "'w'", "rounding");
                using var run = new BilevelSolver(From(100, rule));
                run.Step();
                That(Numbers(run.Theta.Vector).All(w => w is >= 0 and <= 1), "it is inside");
            }
        }),

        Case("a perturbation that rounding takes away is said", () =>
        {
            using var run = new BilevelSolver(Two(
                (_, t, l, _) => (l["s"].exp() * t["w"].square()).sum(), (t, _) => (t["w"] - 1).square().sum(), HypergradientMethod.Sama(),
                UpdateRule.Sgd(1e-12), theta: [("w", tensor(new[] { 1e15, 1, 1 }))]));
            That(run.Step().Meta!.Warnings.Any(w => w.Contains("rounding") && w.Contains("'low'")), "a warning");
        }),

        Overflows("sgd", UpdateRule.Sgd(1e300)),
        Overflows("momentum", UpdateRule.Sgd(1e300, 0.9)),
        Overflows("adam", UpdateRule.Adam(0.1)),
        Overflows("adadelta", UpdateRule.Adadelta()),
        Overflows("box", UpdateRule.Sgd(1e300).InBox(-1, 1)),
        Overflows("groups", UpdateRule.Groups((_ => true, UpdateRule.Sgd(1e300)))),
        Overflows("chain", UpdateRule.Chain(UpdateRule.ClipByValue(1e305), UpdateRule.Sgd(1e300))),

        Case("live parameters may be disposed by whoever reads them", () =>
        {
            using var run = new BilevelSolver(Windowed());
            run.Theta["w"].Dispose();
            run.Lambda.Vector.Dispose();
            run.RunSteps(4);
            That(Numbers(run.Theta["w"]).Concat(Numbers(run.Lambda.Vector)).All(double.IsFinite), "they are there");
            run.Dispose();
            Throws<ObjectDisposedException>(() => run.BestState());
        }),

        Case("callbacks that throw leave a step that was taken", () =>
        {
            var fails = false;
            void Fail(object? _)
            {
                if (fails) throw new IOException();
            }

            foreach (var options in new BilevelSolverOptions[]
            {
                new() { OnStep = Fail }, new() { OnMetaStep = Fail }, new() { Validation = new() { Every = 1, Score = (_, _) => { Fail(null); return 0; } } },
            })
            {
                using var plain = new BilevelSolver(Windowed());
                using var run = new BilevelSolver(Windowed(), options);
                for (var i = 0; i < 8; i++)
                {
                    fails = i is 3 or 5;
                    try
                    {
                        run.Step();
                    }
                    catch (IOException)
                    {
                    }

                    plain.Step();
                }

                Same(plain.Lambda.Vector, run.Lambda.Vector, "lambda");
            }
        }),

        Counts("windows and reads", () => Reading(new(Windowed()))),
        Counts("skips", () => Reading(new(Windowed(d => d.Step % 3 == 1 ? double.NaN : 1)))),
        Counts("exceptions", () =>
        {
            var (calls, run) = (0, default(BilevelSolver)!);
            run = new(Windowed(_ => calls++ % 3 == 1 ? throw new IOException() : 1));
            return (() =>
            {
                try
                {
                    run.Step();
                }
                catch (IOException)
                {
                }
            }, run.Dispose);
        }),
        Counts("snapshots", () =>
        {
            var run = new BilevelSolver(Windowed());
            return (() =>
            {
                run.Step();
                run.Snapshot().Dispose();
            }, run.Dispose);
        }),
        Counts("two runs of a module in turn, scores, going back", () =>
        {
            var encoder = new Encoder();
            var problem = OfModule(encoder, () => (encoder.call(X) - 1).square().mean());
            var (a, b) = (new BilevelSolver(problem, new() { Validation = new() { Every = 3, KeepBest = true, Score = (_, _) => encoder.call(X).sum().item<double>() } }), new BilevelSolver(problem));
            return (() =>
            {
                a.Step();
                b.Step();
                if (a.StepsTaken % 5 == 0) a.RestoreBest();
            }, () =>
            {
                a.Dispose();
                b.Dispose();
            });
        }),
    ];
}
