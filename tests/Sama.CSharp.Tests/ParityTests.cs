using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;
using static Sama.Tests.Check;
using static TorchSharp.torch;
using F = Sama.Functional;

namespace Sama.Tests;

/// <summary>Facade and core give the same bits.</summary>
internal static class ParityTests
{
    // with it, shared tensors are made at the first use of the class, outside every step
    static ParityTests()
    {
    }

    private static readonly Tensor X = Problems.Normal(1, 12, 4);
    private static readonly Tensor Y = Problems.Normal(2, 12);

    private static Tensor Error(Tensor w, Tensor rows) => (X[rows].mv(w) - Y[rows]).square().mean();

    /// <summary><see cref="Problems.Ridge"/> by the core's own functions.</summary>
    private static BilevelProblem Core(UpdateRule rule, HypergradientMethod method, int unroll)
    {
        var data = FuncConvert.FromFunc<Draw, Tensor>(Problems.Rows);
        Level Make(string name, string parameter, UpdateRule rule, Func<Pass, Params, Params, Tensor, Tensor> loss) =>
            F.Level.create(name, ListModule.OfSeq([Tuple.Create(parameter, zeros(4, dtype: float64))]), rule, data, FuncConvert.FromFunc(loss));
        return F.Problem.create(
            new BilevelOptions(unroll, 0, 1, NonFinitePolicy.Stop, Precision.Own),
            method,
            ListModule.OfSeq([
                Make("ridge", "w", rule, (_, theta, lambda, rows) => Error(theta["w"], rows) + (lambda["log"].exp() * theta["w"].square()).sum()),
                Make("penalty", "log", F.SgdRule.sgd(0.1), (_, theta, lambda, rows) => Error(theta["w"], rows) + 0.01 * lambda["log"].square().sum()),
            ]));
    }

    private static Test Parity(string name, UpdateRule facade, UpdateRule core, HypergradientMethod ofFacade, HypergradientMethod ofCore, int unroll) =>
        Case($"facade = core, bit for bit: {name}, K = {unroll}", () =>
        {
            var problem = Core(core, ofCore, unroll);
            using var start = F.Bilevel.start(4, problem);
            using var run = new F.BilevelRun(problem, start);
            using var solver = new BilevelSolver(Problems.Ridge(facade, ofFacade, unroll), new() { Seed = 4 });
            for (var i = 0; i < 50; i++)
            {
                var (a, b) = (solver.Step(), run.Step());
                Equal(b.BaseLoss, a.BaseLoss, "base loss");
                Equal(b.Meta?.MetaLoss, a.Meta?.MetaLoss, "meta loss");
                Same(run.Theta.Vector, solver.Theta.Vector, "theta");
                Same(run.Lambda.Vector, solver.Lambda.Vector, "lambda");
            }
        });

    public static IEnumerable<Test> All =>
    [
        Parity("adam, sama", UpdateRule.Adam(1e-2), F.AdamRule.adam(1e-2), HypergradientMethod.Sama(), F.Hypergradient.sama, 1),
        Parity("adamW, samaNa", UpdateRule.AdamW(1e-2), F.AdamRule.adamW(1e-2, 1e-2), HypergradientMethod.SamaNa(), F.Hypergradient.samaNa, 3),
        Parity("sgd, sama", UpdateRule.Sgd(1e-1), F.SgdRule.sgd(1e-1), HypergradientMethod.Sama(), F.Hypergradient.sama, 2),
        Parity("nadam, exact", UpdateRule.NAdam(1e-2), F.AdamVariants.nadam(1e-2), HypergradientMethod.Exact(), F.Hypergradient.exact, 1),
        Parity("lamb, unrolled", UpdateRule.Lamb(1e-2), F.LambRule.lamb(1e-2), HypergradientMethod.Unrolled(), F.Hypergradient.unrolled, 3),
        Parity("rmsprop, conjugate gradient", UpdateRule.RmsProp(1e-2), F.RmsPropRule.rmsprop(1e-2), HypergradientMethod.ConjugateGradient(5), F.Hypergradient.conjugateGradient(5), 1),
        Parity("adagrad, neumann", UpdateRule.Adagrad(1e-2), F.AdagradRule.adagrad(1e-2), HypergradientMethod.Neumann(3, 0.1), F.Hypergradient.neumann(3, 0.1), 1),
    ];
}
