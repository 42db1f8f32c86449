using static Sama.Tests.Check;
using F = Sama.Functional;

namespace Sama.Tests;

/// <summary>Metagradients and the methods beside them, from C#.</summary>
internal static class MetagradientTests
{
    public static IEnumerable<Test> All =>
    [
        Case("a metagradient is the slope of the training's loss, and the core's own, bit for bit", () =>
        {
            var problem = Problems.Ridge(UpdateRule.Adam(1e-2), HypergradientMethod.Sama(), 3);
            using var state = problem.Start(4);
            using var found = Metagradient.OfTraining(problem, state, 40, memory: 3);
            using var core = F.Metagradient.ofTraining(problem, state, 40);
            Same(core.Lambda, found.Lambda, "λ");
            Same(core.Theta, found.Theta, "θ₀");
            Equal(Metagradient.LossOfTraining(problem, state, 40), found.Loss, "loss");
            var tried = Metagradient.Smoothness(problem, state, 40, found, 1e-5);
            That(tried[0].RelativeError < 1e-3, $"{tried[0]}");
        }),
        Case("counterfactual trainings score what predicts them", () =>
        {
            double[] truth = [3, -1, 4, 1, -5, 9];
            var found = Metagradient.Retrained(6, 0.5, 8, keep => truth.Where((_, i) => keep[i]).Sum());
            That(Math.Abs(found.Lds(truth) - 1) < 1e-12, $"{found.Lds(truth)}");
        }),
        Case("two-phase descent and warm-started solvers run, and reports name which ran", () =>
        {
            var method = HypergradientMethod.EveryNth(2, HypergradientMethod.Soba(0.5), HypergradientMethod.Sama());
            using var solver = new BilevelSolver(Problems.Ridge(UpdateRule.Adam(1e-2), method, 1), new() { Seed = 4 });
            string[] names = [.. Enumerable.Range(0, 4).Select(_ => solver.Step().Meta!.Response.Method)];
            Equal("soba sama soba sama", string.Join(' ', names), "names");
            method = HypergradientMethod.Switching(1, HypergradientMethod.Sama(), HypergradientMethod.Amigo(2, 0.5));
            using var other = new BilevelSolver(Problems.Ridge(UpdateRule.Adam(1e-2), method, 1), new() { Seed = 4 });
            names = [.. Enumerable.Range(0, 3).Select(_ => other.Step().Meta!.Response.Method)];
            Equal("sama amigo amigo", string.Join(' ', names), "names");
        }),
    ];
}
