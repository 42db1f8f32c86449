using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Rules and methods of one's own.</summary>
internal static class CustomTests
{
    /// <summary>SGD with momentum 0.9, written by hand.</summary>
    private static UpdateRule Momentum(Func<RuleState, Tensor, Tensor, Tensor, Tensor>? adapt = null) => UpdateRule.Create(
        "momentum",
        theta => RuleState.Create(0, ("b", zeros_like(theta))),
        (state, g, theta) =>
        {
            var b = state["b"] * 0.9 + g;
            return (b * 0.05, RuleState.Create(state.Count + 1, ("b", b)));
        },
        adapt);

    private static void SameRun(UpdateRule a, UpdateRule b, HypergradientMethod? ofA = null, HypergradientMethod? ofB = null)
    {
        using var first = new BilevelSolver(Problems.Ridge(a, ofA));
        using var second = new BilevelSolver(Problems.Ridge(b, ofB));
        for (var i = 0; i < 10; i++) Equal(first.Step().Meta!.HypergradientNorm, second.Step().Meta!.HypergradientNorm, "|h|");
        Same(first.Theta.Vector, second.Theta.Vector, "theta");
        Same(first.Lambda.Vector, second.Lambda.Vector, "lambda");
    }

    private static UpdateRule Returning(Func<Tensor, Tensor?> update) => UpdateRule.Create(
        "bad", _ => RuleState.Create(0), (state, g, theta) => (update(g)!, state));

    public static IEnumerable<Test> All =>
    [
        Case("a rule from its step alone is adapted by its derivative", () =>
            SameRun(Momentum(), UpdateRule.Sgd(0.05, momentum: 0.9))),

        Case("a rule with its own adaptation uses it", () =>
        {
            var used = 0;
            SameRun(
                Momentum((state, g, theta, v) =>
                {
                    used++;
                    return v * 0.05;
                }),
                UpdateRule.Sgd(0.05, momentum: 0.9));
            Equal(10, used, "adaptations");
        }),

        Case("chains, schedules and groups of rules compose", () =>
        {
            SameRun(
                UpdateRule.Chain(UpdateRule.ClipByGlobalNorm(1e6), UpdateRule.Sgd(0.1)).Scheduled(Schedule.Constant(0.5)),
                UpdateRule.Sgd(0.05));
            SameRun(
                UpdateRule.Groups((name => name == "w", UpdateRule.Adam(0.05))),
                UpdateRule.Adam(0.05));
        }),

        Case("a method of one's own: minus the mixed derivative of the adapted meta gradient is the limit of SAMA", () =>
        {
            var mixed = HypergradientMethod.Create(
                "mixed",
                (at, v) =>
                {
                    using var adapted = at.Adapt(v);
                    var linear = at.Linearize(at.ThetaBefore, false);
                    return (-linear.LambdaVjp(adapted), Report.Create("mixed", passes: 1, products: 1));
                },
                Need.Adaptation, Need.SecondDerivatives);
            using var exact = new BilevelSolver(Problems.Ridge(method: mixed));
            using var sama = new BilevelSolver(Problems.Ridge(method: HypergradientMethod.Sama(alpha: 1e-4)));
            for (var i = 0; i < 5; i++)
            {
                var (a, b) = (exact.Step().Meta!, sama.Step().Meta!);
                Equal("mixed", a.Response.Method);
                That(Math.Abs(a.HypergradientNorm - b.HypergradientNorm) <= 1e-7 * a.HypergradientNorm, $"|h| {a.HypergradientNorm} and {b.HypergradientNorm}");
            }

            Refuses<ArgumentException>("method", () => BilevelProblem.Create(
                Level.OfModule("net", Problems.Net(4), UpdateRule.Sgd(0.1), _ => 0, (_, _) => zeros(1)),
                Problems.RidgeMeta(UpdateRule.Sgd(0.1)), mixed), "mixed", "differentiated twice");
        }),

        Case("a step of the wrong shape is refused", () =>
            Throws<InvalidOperationException>(() => new BilevelSolver(Problems.Ridge(Returning(g => g.sum().unsqueeze(0)))).Step(), "'bad'", "[1]", "[4]")),

        Case("a step of the wrong dtype is refused", () =>
            Throws<InvalidOperationException>(() => new BilevelSolver(Problems.Ridge(Returning(g => g.to_type(float32)))).Step(), "'bad'", "Float32", "Float64")),

        Case("a step that returns null is refused", () =>
            Throws<InvalidOperationException>(() => new BilevelSolver(Problems.Ridge(Returning(_ => null))).Step(), "'bad'", "null")),

        Case("a response of the wrong shape is refused", () =>
        {
            var wrong = HypergradientMethod.Create("wrong", (at, v) => (zeros(3, dtype: float64), Report.Create("wrong")));
            Throws<InvalidOperationException>(() => new BilevelSolver(Problems.Ridge(method: wrong)).Step(), "'wrong'", "[3]", "[4]");
        }),

        Case("a response that is null is refused", () =>
        {
            var wrong = HypergradientMethod.Create("wrong", (at, v) => (null!, Report.Create("wrong")));
            Throws<InvalidOperationException>(() => new BilevelSolver(Problems.Ridge(method: wrong)).Step(), "'wrong'", "null");
        }),
    ];
}
