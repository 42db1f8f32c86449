using Expecto;
using TorchSharp;
using static Sama.Tests.Check;
using static Sama.Tests.Situation;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>What delegates, options and callers promise, and what is said where they do not keep it.</summary>
internal static class ContractSituations
{
    private static BilevelProblem Pull(
        HypergradientMethod? method = null, UpdateRule? rule = null, Func<Params, Tensor>? factor = null, Func<Tensor, Tensor>? loss = null) =>
        Two(
            (_, t, l, _) => (loss ?? (x => x))((factor?.Invoke(t) ?? 1) * (l["s"].exp() * (t["w"] - 1).square()).sum()),
            (t, _) => (t["w"] + 1).square().sum(), method, rule);

    private static void Run(BilevelProblem problem)
    {
        using var run = new BilevelSolver(problem);
        run.RunSteps(2);
    }

    /// <summary>A loss that calls backward by itself, in a problem.</summary>
    private static Test Backward(string name, Func<Func<Tensor, Tensor>, BilevelProblem> problem, string level) => Case(
        $"a loss that calls backward: {name}", () =>
        {
            Tensor Differentiated(Tensor loss)
            {
                if (loss.requires_grad) loss.backward(retain_graph: true);
                return loss;
            }

            Throws<InvalidOperationException>(() => Run(problem(Differentiated)), $"'{level}'", "backward()", "returned");
        });

    private static UpdateRule Own(
        Func<Tensor, Tensor>? update = null, Func<Tensor, Tensor>? state = null, Func<Tensor, RuleState>? init = null,
        Func<RuleState, Tensor, Tensor, Tensor, Tensor>? adapt = null) => UpdateRule.Create(
        "mine",
        init ?? (theta => RuleState.Create(0, ("m", zeros_like(theta)))),
        (s, g, theta) => ((update ?? (x => x * 0.1))(g), RuleState.Create(s.Count + 1, ("m", (state ?? (x => x * 1))(g)))),
        adapt);

    private static Test Rule(string name, Func<UpdateRule> rule, params string[] words) => Case(
        $"a rule of one's own: {name}", () => Throws<InvalidOperationException>(() => Run(Pull(rule: rule())), words));

    private static Tensor Shorter(Tensor x) => x[..2] * 1;

    private static Test Unknown(string name, string argument, Action call) => Case(
        $"a number that is no {name}", () => Refuses<ArgumentException>(argument, call, "7", name));

    private static Test Off(string name, Func<IDisposable> scope) => Case($"steps within {name}", () =>
    {
        var problem = Pull();
        using (scope()) Throws<InvalidOperationException>(() => Run(problem), "'low'", "gradients are off", "no_grad()");
        Run(problem);
    });

    public static IEnumerable<Test> All =>
    [
        Backward("of the base level", own => Pull(loss: own), "low"),
        Backward("of the meta level", own => Two(
            (_, t, l, _) => (l["s"].exp() * t["w"].square()).sum(), (t, _) => own((t["w"] + 1).square().sum())), "up"),
        Backward("of a level alone", own => BilevelProblem.Create(
            Level.Create("alone", [("w", ones(3))], UpdateRule.Sgd(0.1), _ => 0, (Pass _, Params t, Params _, int _) => own(t["w"].square().sum()))), "alone"),
        Backward("over a module", own =>
        {
            var net = Problems.Net(3);
            return OfModule(net, () => own((net.call(X) - 1).square().mean()));
        }, "net"),
        Case("a loss that calls backward where it has no gradient", () => Throws<InvalidOperationException>(
            () => Run(Pull(loss: l =>
            {
                using (no_grad()) (l * 1).backward();
                return l;
            })), "'low'", "backward()")),
        Case("a gradient within a loss is that of autograd.grad", () =>
        {
            Tensor Penalty(Params t)
            {
                using var x = ones(3, dtype: float64).requires_grad_(true);
                return autograd.grad([(x * t["w"][..3]).square().sum()], [x], create_graph: true, retain_graph: true)[0].square().sum();
            }

            var plain = At(Pull(factor: t => 4 * t["w"][..3].pow(4).sum()));
            var within = At(Pull(factor: Penalty));
            That(plain.Zip(within).All(p => Math.Abs(p.First - p.Second) <= 1e-7 * Math.Abs(p.First)), $"{plain[0]} and {within[0]}");
        }),

        Rule("an update of another shape", () => Own(update: Shorter), "'mine'", "[2]", "[4]"),
        Rule("an update of another type", () => Own(update: g => g.to_type(float32)), "'mine'", "Float32"),
        Rule("one number as the update", () => Own(update: g => g.sum()), "'mine'", "[]"),
        Rule("no update", () => Own(update: _ => null!), "'mine'", "null"),
        Rule("a state of another shape", () => Own(state: Shorter), "'mine'", "'m'", "[2]"),
        Rule("a state of another type", () => Own(state: g => g.to_type(float32)), "'mine'", "'m'", "Float32"),
        Rule("a state that is null", () => Own(state: _ => null!), "'mine'", "'m'", "null"),
        Rule("no state to start with", () => Own(init: _ => null!), "start of rule 'mine'", "null"),
        Rule("a start after -5 steps", () => Own(init: x => RuleState.Create(-5, ("m", zeros_like(x)))), "'mine'", "-5"),
        Rule("an adaptation of another shape", () => Own(adapt: (_, _, _, v) => Shorter(v)), "adaptation of rule 'mine'", "[2]"),
        Rule("an adaptation of another type", () => Own(adapt: (_, _, _, v) => v.to_type(float32)), "adaptation of rule 'mine'", "Float32"),
        Rule("no adaptation", () => Own(adapt: (_, _, _, _) => null!), "adaptation of rule 'mine'", "null"),
        Rule("shapes that do not fit within it", () => Own(update: g => g + ones(3, dtype: float64)), "step of rule 'mine'", "size"),
        Rule("its gradient disposed", () => Own(update: g =>
        {
            var u = g * 0.1;
            g.Dispose();
            return u;
        }), "'mine'", "disposed"),
        Rule("a projection to another shape", () => UpdateRule.Sgd(0.1).ProjectedOnto(Shorter), "projection of rule 'sgd'", "[2]"),
        Rule("no projection", () => UpdateRule.Sgd(0.1).ProjectedOnto(_ => null!), "projection of rule 'sgd'", "null"),
        Rule("a schedule below 0", () => UpdateRule.Sgd(0.1).Scheduled(t => 0.5 - t), "schedule of rule 'sgd'", "-0.5", "step 1"),
        Rule("a schedule that is not finite", () => UpdateRule.Adam(0.1).Scheduled(_ => double.NaN), "schedule of rule 'adam'", "NaN", "step 0"),
        Case("a method of one's own: a response of another type", () => Throws<InvalidOperationException>(
            () => Run(Pull(HypergradientMethod.Create("mine", (at, v) => (at.Lambda.to_type(float32), Report.Create("mine"))))), "'mine'", "Float32", "Float64")),

        Case("tolerances by which 0 is an answer", () =>
        {
            foreach (var method in new Func<double, HypergradientMethod>[]
            {
                t => HypergradientMethod.ConjugateGradient(tolerance: t), t => HypergradientMethod.Neumann(tolerance: t),
                t => HypergradientMethod.FixedPoint(tolerance: t), t => HypergradientMethod.F2sa(tolerance: t),
            })
                foreach (var tolerance in new[] { 1, 2, -1, double.NaN, double.PositiveInfinity })
                    Refuses<ArgumentException>("Tolerance", () => method(tolerance), "[0, 1)");
        }),

        Unknown("PerturbationNorm", "Norm", () => HypergradientMethod.Sama(norm: (PerturbationNorm)7)),
        Unknown("Centre", "Centre", () => HypergradientMethod.SamaNa(centre: (Centre)7)),
        Unknown("ProductForm", "form", () => HypergradientMethod.Neumann().WithProducts((ProductForm)7)),
        Unknown("SignSurrogate", "Surrogate", () => UpdateRule.Lion(surrogate: (SignSurrogate)7)),
        Unknown("NonFinitePolicy", "NonFinite", () => BilevelProblem.Create(
            Level.Create("alone", [("w", ones(3))], UpdateRule.Sgd(0.1), _ => 0, (Pass _, Params t, Params _, int _) => t["w"].sum()), nonFinite: (NonFinitePolicy)7)),
        Unknown("MiddleResponse", "response", () => Problems.RidgeBase(UpdateRule.Sgd(0.1)).Responding((MiddleResponse)7)),

        Off("no_grad", () => no_grad()),
        Off("inference_mode", () => inference_mode()),

        Case("parameters that are sparse", () => Refuses<ArgumentException>(
            "named", () => Two((_, t, _, _) => t["w"].sum(), (t, _) => t["w"].sum(), theta: [("w", ones(3).to_sparse())]), "'w'", "sparse")),
        Case("a run on a device without values", () => Throws<InvalidOperationException>(
            () => Run(Pull().To(new Device(DeviceType.META))), "'low'", "meta")),
        Case("a state before the first step", () =>
        {
            using var start = Pull().Start();
            using var before = new RunState(start.Levels, start.Buffers, -1, 0);
            Refuses<ArgumentException>("initial", () => new BilevelSolver(Pull(), new() { Initial = before }), "-1");
        }),
        Case("parameters that are kept behind their run", () =>
        {
            Params theta;
            using (var run = new BilevelSolver(Pull())) theta = run.Theta;
            Throws<ObjectDisposedException>(() => _ = theta["w"], "disposed");
            Throws<ObjectDisposedException>(() => _ = theta.Vector, "disposed");
        }),
        Case("a window that starts at a matrix", () =>
        {
            double[] h(Func<Tensor, Tensor> shape) => At(BilevelProblem.Create(
                Level.Create("low", [("w", zeros(2, 3, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, t, _, _) => (t["w"] - 1).pow(4).sum())
                    .ResetTo(levels => shape(levels["up"]["w"])),
                Level.Create("up", [("w", Problems.Normal(131, 2, 3))], UpdateRule.Sgd(0.1), _ => 0, (_, t, _, _) => t["w"].square().sum()),
                HypergradientMethod.Unrolled(), 2));
            That(h(x => x.reshape(-1)).SequenceEqual(h(x => x)), "h is that of the flat one");
        }),

        Case("lambda in 16 bits under differences", () =>
        {
            foreach (var type in new[] { float16, bfloat16 })
                Refuses<ArgumentException>("method", () => Two(
                    (_, t, l, _) => (l["s"].to_type(float64) * t["w"].square()).sum(), (t, _) => t["w"].sum(),
                    lambda: [("s", zeros(4, dtype: type))]), "'up'", type.ToString());
        }),
        Case("lambda in float32 above parameters in float64: h to its precision", () =>
        {
            double[] h(ScalarType type) => At(Two(
                (_, t, l, _) => (l["s"].to_type(float64).exp() * (t["w"] - 1).square()).sum(), (t, _) => (t["w"] + 1).square().sum(),
                lambda: [("s", zeros(4, dtype: type))]));
            That(h(float64).Zip(h(float32)).All(p => Math.Abs(p.First - p.Second) < 1e-3 * Math.Abs(p.First)), "h");
        }),
        Case("a loss of a narrower type than its parameters is said", () =>
        {
            foreach (var (loss, said) in new[] { (float32, true), (bfloat16, true), (float64, false) })
            {
                using var run = new BilevelSolver(Pull(loss: l => l.to_type(loss)));
                Equal(said, run.Step().Meta!.Warnings.Any(w => w.Contains("'low'") && w.Contains(loss.ToString())), $"{loss}");
            }
        }),
        Case("meta gradients of any length", () =>
        {
            foreach (var (type, lengths) in new[] { (float32, new[] { 1e-37, 1e-28, 1e28 }), (float64, [1e-300, 1e-200, 1e200]) })
                foreach (var method in new[] { HypergradientMethod.ConjugateGradient(damping: 0.1), HypergradientMethod.ConjugateGradient() })
                    foreach (var length in lengths)
                    {
                        double[] h(double k) => At(Two(
                            (_, t, l, _) => (l["s"] * t["w"]).sum() + t["w"].square().sum(), (t, _) => (t["w"] * k).sum(), method,
                            theta: [("w", ones(4, dtype: type))], lambda: [("s", zeros(4, dtype: type))]));
                        That(h(1).Zip(h(length)).All(p => Math.Abs(p.First - p.Second / length) < 1e-5 * Math.Abs(p.First)), $"{type}, {length}");
                    }
        }),
        Case("Nystrom in 16 bits", () =>
        {
            foreach (var (type, within) in new[] { (bfloat16, 2e-2), (float16, 3e-3) })
            {
                double[] h(ScalarType own) => At(Two(
                    (_, t, l, _) => ((t["w"] - l["s"]).square() * (1 + t["w"].square())).sum(), (t, _) => (t["w"] - 1).square().sum(),
                    HypergradientMethod.Nystrom(), UpdateRule.Sgd(0.0625),
                    theta: [("w", arange(-4, 4).to_type(own) / 4)], lambda: [("s", full(8, 0.25, dtype: own))]));
                var (right, found) = (h(float32), h(type));
                That(right.Zip(found).All(p => Math.Abs(p.First - p.Second) < within * right.Max(Math.Abs)), $"{type}: {string.Join(' ', found)} for {string.Join(' ', right)}");
            }
        }),
        Case("parameters without elements under every rule that looks at them whole", () =>
        {
            foreach (var rule in new[]
            {
                UpdateRule.Adafactor(0.1), UpdateRule.Lamb(0.1), UpdateRule.Sgd(0.1).OnSimplex(),
                UpdateRule.Chain(UpdateRule.ClipByGlobalNorm(1), UpdateRule.Sgd(0.1)), UpdateRule.Chain(UpdateRule.Sgd(0.1), UpdateRule.TrustRatio),
            })
                foreach (var method in new[] { HypergradientMethod.Sama(), HypergradientMethod.T1T2() })
                {
                    using var run = new BilevelSolver(Two(
                        (_, t, l, _) => (l["s"].exp() * (t["w"] - 1).square()).sum(), (t, _) => t["w"].square().sum(), method, rule,
                        theta: [("none", zeros(0, 3, dtype: float64)), ("w", Problems.Normal(132, 3)), ("nothing", zeros(0, dtype: float64))]));
                    run.RunSteps(3);
                    That(Numbers(run.Theta.Vector).All(double.IsFinite), rule.ToString()!);
                }
        }),
    ];
}
