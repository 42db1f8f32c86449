using TorchSharp;
using TorchSharp.Modules;
using static Sama.Tests.Check;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Modules: trained in place, with their modes, buffers, frozen and tied parameters as they are.</summary>
internal static class ModuleTests
{
    // with it, shared tensors are made at the first use of the class, outside every step
    static ModuleTests()
    {
    }

    /// <summary>Two inputs, a batch norm, dropout, a frozen scale, and one weight under two names.</summary>
    private sealed class Net : nn.Module<Tensor, Tensor, Tensor>
    {
        public readonly Linear First = nn.Linear(3, 3, dtype: float64);
        public readonly Linear Second = nn.Linear(3, 3, hasBias: false, dtype: float64);
        public readonly Parameter Scale = new(ones(3, dtype: float64), requires_grad: false);
        public readonly BatchNorm1d Norm = nn.BatchNorm1d(3, dtype: float64);
        public readonly Dropout Drop = nn.Dropout(0.5);

        public Net() : base("net")
        {
            Second.weight = First.weight;
            RegisterComponents();
        }

        public override Tensor forward(Tensor x, Tensor shift) =>
            Second.call(Drop.call(Norm.call(First.call(x) * Scale + shift)).tanh());
    }

    private static readonly Tensor X = Problems.Normal(7, 16, 3);
    private static readonly Tensor Shift = Problems.Normal(8, 3);

    private static BilevelProblem Problem(Net net) => BilevelProblem.Create(
        Level.OfModule("net", net, UpdateRule.Sgd(0.1), _ => (X, Shift), (pass, levels, batch) =>
            net.call(batch.X, batch.Shift).square().mean() * levels["factor"]["log"].exp().sum()),
        Level.Create("factor", [("log", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => (X, Shift), (pass, levels, batch) =>
            (net.call(batch.X, batch.Shift) - 1).square().mean() + levels["factor"]["log"].square().sum()),
        HypergradientMethod.Sama());

    public static IEnumerable<Test> All =>
    [
        Case("the module itself is trained, and stays usable when the solver is gone", () =>
        {
            var net = Problems.Net(4);
            var first = net.parameters().First();
            var before = first.detach().clone();
            using (var solver = new BilevelSolver(Problems.Weighing(net, Problems.Net(1))))
            {
                solver.RunSteps(5);
                Same(solver.Theta["0.weight"], first.detach(), "the live parameter");
            }

            That(!before.Equals(first.detach()), "it moved");
            That(ReferenceEquals(first, net.parameters().First()) && first.requires_grad, "it is the same, trainable parameter");
            Equal(1L, net.call(Problems.Normal(9, 2, 4)).shape[1]);
        }),

        Case("a tied parameter counts once and stays tied", () =>
        {
            var net = new Net();
            using var solver = new BilevelSolver(Problem(net));
            solver.RunSteps(3);
            var names = solver.Theta.Layout.Slices.Select(s => s.Name).ToArray();
            Equal(1, names.Count(n => n is "First.weight" or "Second.weight"), string.Join(' ', names));
            Same(net.First.weight!.detach(), net.Second.weight!.detach(), "the tie");
        }),

        Case("a frozen parameter stays outside and as it was", () =>
        {
            var net = new Net();
            using var solver = new BilevelSolver(Problem(net));
            solver.RunSteps(3);
            That(solver.Theta.Layout.Slices.All(s => s.Name != "Scale"), "not in the layout");
            Same(ones(3, dtype: float64), net.Scale, "the scale");
            That(!net.Scale.requires_grad, "frozen");
        }),

        Case("in train mode one base pass updates the buffers once; in eval mode nothing does", () =>
        {
            var net = new Net();
            using var solver = new BilevelSolver(Problem(net));
            long Tracked() => net.Norm.num_batches_tracked!.to_type(int64).item<long>();
            var start = Tracked();
            solver.RunSteps(4);
            Equal(4, Tracked() - start, "train");
            net.eval();
            solver.RunSteps(4);
            Equal(4, Tracked() - start, "eval");
            That(!net.training, "the mode is the user's");
        }),

        Case("a parameter that no loss depends on is named", () =>
        {
            var (used, unused) = (nn.Linear(3, 1, dtype: float64), nn.Linear(3, 1, dtype: float64));
            var both = nn.Sequential(("used", used), ("unused", unused));
            var problem = BilevelProblem.Create(
                Level.OfModule("both", both, UpdateRule.Sgd(0.1), _ => 0, (_, levels, _) =>
                    used.call(X).square().mean() * levels["factor"]["x"].sum()),
                Level.Create("factor", [("x", ones(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, levels, _) =>
                    used.call(X).mean() + levels["factor"]["x"].sum()),
                HypergradientMethod.Sama());
            using var start = problem.Start();
            Equal("both/unused.weight both/unused.bias", string.Join(' ', Hypergradient.Unreached(problem, start)), "unreached");
        }),
    ];
}
