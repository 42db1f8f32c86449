using TorchSharp;
using TorchSharp.Modules;
using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Situations of ordinary use that once gave a wrong answer or a message about something else.</summary>
internal static class ReportedSituations
{
    private static double[] Numbers(Tensor x) => x.to_type(float64).data<double>().ToArray();

    private static void Near(double[] expected, double[] actual, double tolerance, string what)
    {
        var size = Math.Sqrt(expected.Sum(e => e * e));
        var error = Math.Sqrt(expected.Zip(actual, (e, a) => (e - a) * (e - a)).Sum());
        That(error <= tolerance * size, $"{what}: {string.Join(' ', actual)} for {string.Join(' ', expected)}");
    }

    /// <summary>h of a problem at its start.</summary>
    private static double[] At(BilevelProblem problem, HypergradientMethod? method = null)
    {
        using var start = problem.Start();
        using var found = Hypergradient.Compute(problem, start, method);
        return Numbers(found.Total);
    }

    /// <summary>Rows of 64, one at a time, whose loader disposes a batch when the next is asked for.</summary>
    private sealed class Rows : utils.data.Dataset
    {
        private readonly Tensor x = Problems.Normal(41, 64, 3), y = Problems.Normal(42, 64);

        public override long Count => 64;

        public override Dictionary<string, Tensor> GetTensor(long i) => new() { ["x"] = x[i].clone(), ["y"] = y[i].clone() };
    }

    /// <summary>One penalty a weight on batches of a loader, one stream of them for both levels if they share it.</summary>
    private static void Loads(HypergradientMethod method, int unroll, int accumulate, bool shared)
    {
        using var rows = new Rows();
        using var first = utils.data.DataLoader(rows, 8);
        using var second = utils.data.DataLoader(rows, 8);
        var data = Batches.Stream(first);
        static Tensor Error(Params theta, Dictionary<string, Tensor> batch) => (batch["x"].mv(theta["w"]) - batch["y"]).square().mean();
        using var run = new BilevelSolver(BilevelProblem.Create(
            Level.Create("w", [("w", zeros(3, dtype: float64))], UpdateRule.Sgd(0.1), data, (_, theta, lambda, batch) =>
                Error(theta, batch) + (lambda["r"].exp() * theta["w"].square()).sum()),
            Level.Create("m", [("r", zeros(3, dtype: float64))], UpdateRule.Sgd(0.5), shared ? data : Batches.Stream(second), (_, theta, _, batch) =>
                Error(theta, batch)),
            method, unroll, accumulate: accumulate));
        var last = run.RunSteps(12)!;
        That(last.Meta is { HypergradientNorm: > 0 }, "a meta step");
    }

    private static Test LoadsCase(string name, HypergradientMethod method, int unroll = 1, int accumulate = 1, bool shared = false) =>
        Case($"a DataLoader, {name}", () => Loads(method, unroll, accumulate, shared));

    /// <summary>Penalties in float32 that the window's steps see, on batches that may be bad.</summary>
    private static BilevelProblem Penalised(HypergradientMethod method, Func<Draw, double>? factor = null)
    {
        var (a, y) = (Problems.Normal(43, 8, 3), Problems.Normal(44, 8));
        var (b, z) = (Problems.Normal(45, 8, 3), Problems.Normal(46, 8));
        return BilevelProblem.Create(
            Level.Create("w", [("w", Problems.Normal(47, 3))], UpdateRule.Sgd(0.1), factor ?? (_ => 1), (_, theta, lambda, f) =>
                (a.mv(theta["w"]) - y).square().mean() * f + (lambda["r"].exp() * theta["w"].square()).sum()),
            Level.Create("m", [("r", zeros(3, dtype: float64))], UpdateRule.Sgd(1), _ => 0, (_, theta, _, _) =>
                (b.mv(theta["w"]) - z).square().mean()),
            method, unroll: 4, nonFinite: NonFinitePolicy.Skip);
    }

    private static BilevelProblem OfLinear(Linear linear) => BilevelProblem.Create(
        Level.OfModule("b", linear, UpdateRule.Sgd(0.1), _ => 0, (_, levels, _) => Error(linear) * levels["m"]["s"].exp()),
        Level.Create("m", [("s", zeros(1))], UpdateRule.Sgd(0), _ => 0, (_, _, _) => Error(linear)),
        HypergradientMethod.Sama());

    private static Tensor Error(Linear linear) =>
        (linear.call(Problems.Normal(48, 16, 3).to_type(linear.weight!.dtype)) - 1).square().mean();

    /// <summary>A decoupled coordinate: the meta loss sees it, the base loss does not.</summary>
    private static BilevelProblem Decoupled(HypergradientMethod method)
    {
        var (x, y) = (Problems.Normal(49, 6, 2), Problems.Normal(50, 6));
        static Tensor Two(Params theta) => theta["w"][..2];
        return BilevelProblem.Create(
            Level.Create("w", [("w", Problems.Normal(51, 3))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, lambda, _) =>
                (lambda["s"].exp() * (x.mv(Two(theta)) - y).square()).mean() + 0.0 * theta["w"].sum()),
            Level.Create("m", [("s", zeros(6, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, _, _) =>
                (x.mv(Two(theta)) - 0.5 * y).square().mean() + theta["w"][2].square()),
            method);
    }

    /// <summary>A linear regression in one type, every example weighed.</summary>
    private static BilevelProblem Weighed(ScalarType type, HypergradientMethod method)
    {
        var (x, y, w) = (Problems.Normal(52, 64, 8).to_type(type), Problems.Normal(53, 64).to_type(type), Problems.Normal(54, 8));
        return BilevelProblem.Create(
            Level.Create("w", [("w", w.to_type(type))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, lambda, _) =>
                (lambda["s"].exp() * (x.mv(theta["w"]) - y).square()).mean()),
            Level.Create("m", [("s", zeros(64, dtype: type))], UpdateRule.Sgd(1), _ => 0, (_, theta, _, _) =>
                (x.mv(theta["w"]) - 0.5 * y).square().mean()),
            method);
    }

    private static Test ZeroWeights(string name, UpdateRule rule) => Case($"weights of examples that start at 0, {name}", () =>
    {
        var (x, y, xv, yv) = (Problems.Normal(55, 6, 3), Problems.Normal(56, 6), Problems.Normal(57, 4, 3), Problems.Normal(58, 4));
        using var run = new BilevelSolver(BilevelProblem.Create(
            Level.Create("base", [("w", Problems.Normal(59, 3))], rule, _ => 0, (_, theta, lambda, _) =>
                (lambda["e"] * (x.mv(theta["w"]) - y).square()).sum()),
            Level.Create("weights", [("e", zeros(6, dtype: float64))], UpdateRule.Sgd(1).InBox(0, 1), _ => 0, (_, theta, _, _) =>
                (xv.mv(theta["w"]) - yv).square().mean()),
            HypergradientMethod.Sama()));
        var first = run.Step().Meta!;
        if (first.HypergradientNorm > 0)
        {
            run.RunSteps(20);
            That(Numbers(run.Lambda.Vector).Max() > 0, "the weights of good examples grow");
            return;
        }

        That(first.Warnings.Any(w => w.Contains("every gradient of level 'base' is 0")), string.Join("; ", first.Warnings));
        Throws<InvalidOperationException>(() => run.RunSteps(50), "'weights'", "cannot", "above 0");
    });

    /// <summary>A net with batch norm whose first batch of step 4 may be bad, and whose meta loss may throw.</summary>
    private sealed class Normed
    {
        private readonly Tensor x = Problems.Normal(60, 32, 3), y = Problems.Normal(61, 32);
        private readonly nn.Module<Tensor, Tensor> net;
        public readonly BatchNorm1d Norm = nn.BatchNorm1d(4, dtype: float64);
        public bool Fails;
        public long BadStep = -1;

        public Normed() => net = nn.Sequential(nn.Linear(3, 4, dtype: float64), Norm, nn.ReLU(), nn.Linear(4, 1, dtype: float64));

        public long Tracked => Norm.num_batches_tracked!.to_type(int64).item<long>();

        public double Score()
        {
            net.eval();
            using var loss = Loss(x);
            net.train();
            return loss.item<double>();
        }

        private Tensor Loss(Tensor input) => (net.call(input).squeeze(1) - y).square().mean();

        public BilevelProblem Problem => BilevelProblem.Create(
            Level.OfModule(
                "net", net, UpdateRule.Adam(0.05),
                draw => (x + 0.3 * draw.Step) * (draw.Step == BadStep ? double.PositiveInfinity : 1),
                (_, levels, batch) => Loss(batch) * levels["m"]["s"].exp()),
            Level.Create("m", [("s", zeros(1, dtype: float64))], UpdateRule.Sgd(0), _ => 0, (_, _, _) => Fails ? throw new IOException("disk") : Loss(x)),
            HypergradientMethod.Sama(), nonFinite: NonFinitePolicy.Skip);
    }

    public static IEnumerable<Test> All =>
    [
        Case("weights of exactly 0 whose rows of theta no other example touches", () =>
        {
            var clean = tensor(new[] { 1e-5, 1 });
            BilevelProblem Words(HypergradientMethod method) => BilevelProblem.Create(
                Level.Create("words", [("w", tensor(new[] { 0.3, -0.2 }))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, lambda, _) =>
                    (lambda["e"] * (1 - theta["w"].tanh()).square()).sum()),
                Level.Create("weights", [("e", tensor(new[] { 1.0, 0 }))], UpdateRule.Sgd(1).InBox(0, 1), _ => 0, (_, theta, _, _) =>
                    (1 - (clean * theta["w"]).sum()).square()),
                method);
            var limit = At(Words(HypergradientMethod.T1T2()));
            Near(limit, At(Words(HypergradientMethod.Sama())), 1e-4, "SAMA");
            Near(limit, At(Words(HypergradientMethod.Sama(norm: PerturbationNorm.All))), 1e-4, "SAMA over all coordinates");
        }),

        ZeroWeights("Sgd", UpdateRule.Sgd(0.1)),
        ZeroWeights("RAdam", UpdateRule.RAdam(0.1)),
        ZeroWeights("Adam", UpdateRule.Adam(0.1)),
        ZeroWeights("AdamW", UpdateRule.AdamW(0.1)),
        ZeroWeights("RmsProp", UpdateRule.RmsProp(0.1)),
        ZeroWeights("Adagrad", UpdateRule.Adagrad(0.1)),
        ZeroWeights("Lamb", UpdateRule.Lamb(0.1)),
        ZeroWeights("Adafactor", UpdateRule.Adafactor(0.1)),

        Case("batch norm: a pure step and a check track nothing", () =>
        {
            var net = new Normed();
            using var start = net.Problem.Start();
            net.Problem.Step(start).Next.Dispose();
            Hypergradient.Check(net.Problem, start, 1e-9, 10, 1);
            Equal(0, net.Tracked, "batches tracked");
        }),

        Case("batch norm: the restored net has the best score", () =>
        {
            var net = new Normed();
            using var run = new BilevelSolver(net.Problem, new() { Validation = new() { Every = 1, Patience = 5, RestoreBest = true, Score = (_, _) => net.Score() } });
            That(run.RunSteps(100)!.Stop, "patience ended");
            Equal(run.BestScore!.Value, net.Score(), "score");
        }),

        Case("batch norm: a resumed run has the straight run's statistics", () =>
        {
            var net = new Normed();
            using var straight = new BilevelSolver(net.Problem);
            straight.RunSteps(5);
            using var half = straight.Snapshot();
            straight.RunSteps(5);
            using var mean = net.Norm.running_mean!.clone();
            using var resumed = new BilevelSolver(net.Problem, new() { Initial = half });
            resumed.RunSteps(5);
            Same(mean, net.Norm.running_mean!, "running mean");
        }),

        Case("batch norm: a skipped step and a delegate that throws leave no trace", () =>
        {
            var net = new Normed { BadStep = 4 };
            using var run = new BilevelSolver(net.Problem);
            run.RunSteps(3);
            net.Fails = true;
            Throws<IOException>(() => run.Step());
            net.Fails = false;
            Equal((3L, 3L), (run.StepsTaken, net.Tracked), "steps, batches tracked");
            run.RunSteps(4);
            Equal((7L, 6L), (run.StepsTaken, net.Tracked), "steps, batches tracked");
            That(double.IsFinite(net.Score()), "the loss in eval mode is finite");
        }),

        Case("a coordinate that the meta loss alone sees: h is that of the others", () =>
        {
            var right = At(Decoupled(HypergradientMethod.Neumann(2000, 0.3)));
            Near(right, At(Decoupled(HypergradientMethod.ConjugateGradient())), 1e-5, "conjugate gradients");
            Near(right, At(Decoupled(HypergradientMethod.Exact())), 1e-6, "exact");
            That(At(Decoupled(HypergradientMethod.Nystrom(3))).All(double.IsFinite), "nystrom");
            using var run = new BilevelSolver(Decoupled(HypergradientMethod.ConjugateGradient()));
            var step = run.Step().Meta!;
            That(step.Warnings.Count > 0 && Numbers(run.Lambda.Vector).All(l => Math.Abs(l) < 10), "it is said, and bounded");
        }),

        LoadsCase("sama", HypergradientMethod.Sama()),
        LoadsCase("two micro-batches", HypergradientMethod.Sama(), accumulate: 2),
        LoadsCase("one for both levels", HypergradientMethod.Sama(), shared: true),
        LoadsCase("unrolled", HypergradientMethod.Unrolled(), unroll: 3),

        Case("parameters of 16 bits: to the type's precision, or refused", () =>
        {
            var right = At(Weighed(float64, HypergradientMethod.T1T2()));
            Near(right, At(Weighed(float64, HypergradientMethod.Sama())), 1e-6, "SAMA in float64");
            foreach (var (type, precision) in new[] { (bfloat16, 2e-2), (float16, 2e-3) })
            {
                Near(right, At(Weighed(type, HypergradientMethod.T1T2())), precision, $"T1-T2 in {type}");
                Refuses<ArgumentException>("method", () => Weighed(type, HypergradientMethod.Sama()), "'w'", $"{type}", "float32");
            }

            var linear = nn.Linear(3, 1);
            Refuses<ArgumentException>("options", () => BilevelProblem.Create(
                Level.OfModule("net", linear, UpdateRule.Sgd(0.1), _ => 0, (_, _) => Error(linear)),
                Level.Create("m", [("s", zeros(1))], UpdateRule.Sgd(0), _ => 0, (_, _, _) => Error(linear)),
                HypergradientMethod.SamaNa(), precision: Precision.BFloat16), "'net'", "named tensors");
        }),

        Case("a net below and its encoder, or itself, above", () =>
        {
            var encoder = nn.Linear(3, 4);
            var net = nn.Sequential(("enc", encoder), ("t", nn.Tanh()), ("head", nn.Linear(4, 1)));
            foreach (var (above, name) in new (nn.Module, string)[] { (encoder, "'weight'"), (net, "'enc.weight'") })
                Refuses<ArgumentException>("levels", () => BilevelProblem.Create(
                    Level.OfModule("b", net, UpdateRule.Sgd(0.1), _ => 0, (_, _) => zeros(1)),
                    Level.OfModule("m", above, UpdateRule.Sgd(0.1), _ => 0, (_, _) => zeros(1)),
                    HypergradientMethod.Sama()), name, "'b'", "'m'");
        }),

        Case("a module that is cast, or given another weight, after its level was made", () =>
        {
            var linear = nn.Linear(3, 1);
            var problem = OfLinear(linear);
            linear.to(float64);
            Throws<InvalidOperationException>(() => new BilevelSolver(problem), "'b'", "'weight'", "again");

            var other = nn.Linear(3, 1);
            using var run = new BilevelSolver(OfLinear(other));
            run.RunSteps(2);
            other.weight = new Parameter(zeros(1, 3));
            Throws<InvalidOperationException>(() => run.Step(), "'b'", "'weight'", "again");
        }),

        Case("unrolled, taken up inside its window, goes through the steps that were taken", () =>
        {
            var problem = Penalised(HypergradientMethod.Unrolled());
            using var straight = new BilevelSolver(problem);
            straight.RunSteps(2);
            using var half = straight.Snapshot();
            Equal(4, straight.RunSteps(2)!.Meta!.Response.Passes, "steps differentiated");
            using var resumed = new BilevelSolver(problem, new() { Initial = half });
            Equal(4, resumed.RunSteps(2)!.Meta!.Response.Passes, "steps differentiated");
            Same(straight.Lambda.Vector, resumed.Lambda.Vector, "lambda resumed");
            var (next, _) = problem.Step(half);
            using (next) Same(straight.Lambda.Vector, next.Lambda, "lambda of a pure step");
        }),

        Case("unrolled leaves a skipped step of its window out", () =>
        {
            using var run = new BilevelSolver(Penalised(HypergradientMethod.Unrolled(), draw => draw.Step == 1 ? double.NaN : 1));
            var steps = Enumerable.Range(0, 4).Select(_ => run.Step()).ToArray();
            That(steps[1].Skipped is not null && steps.Count(s => s.Skipped is not null) == 1, "one step is left out");
            Equal(3, steps[3].Meta!.Response.Passes, "steps differentiated");
        }),

        Case("a part of lambda that some batches alone use", () =>
        {
            var (x, y) = (Problems.Normal(62, 16, 3), Problems.Normal(63, 16));
            Tensor Loss(Params theta) => (x.mv(theta["w"]) - y).square().mean();
            using var run = new BilevelSolver(BilevelProblem.Create(
                Level.Create("w", [("w", zeros(3, dtype: float64))], UpdateRule.Adam(0.01), draw => (int)(draw.Step % 2), (_, theta, lambda, task) =>
                    Loss(theta) * lambda[$"task{task}"].exp().sum()),
                Level.Create("m", [("task0", zeros(1, dtype: float64)), ("task1", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, theta, _, _) => Loss(theta)),
                HypergradientMethod.Sama()));
            run.RunSteps(20);
            That(Numbers(run.Lambda.Vector).All(l => l != 0), "both move");
        }),
    ];
}
