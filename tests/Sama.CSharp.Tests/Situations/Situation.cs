using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>What the situations share.</summary>
internal static class Situation
{
    /// <summary>A layer with batch norm, such as a frozen part of a model, in training mode.</summary>
    public sealed class Encoder : nn.Module<Tensor, Tensor>
    {
        public readonly Linear Lin = nn.Linear(3, 4, dtype: float64);
        public readonly BatchNorm1d Norm = nn.BatchNorm1d(4, dtype: float64);

        public Encoder() : base("encoder") => RegisterComponents();

        public long Tracked => Norm.num_batches_tracked!.to_type(int64).item<long>();

        public override Tensor forward(Tensor x) => Norm.call(Lin.call(x));
    }

    public static readonly Tensor X = Problems.Normal(71, 16, 3);

    // with it, shared tensors are made at the first use of the class, outside every step
    static Situation()
    {
    }

    public static double[] Numbers(Tensor x) => x.detach().to_type(float64).reshape(-1).data<double>().ToArray();

    public static double Distance(Tensor a, Tensor b) => (a.detach() - b.detach()).abs().max().to_type(float64).item<double>();

    /// <summary>h of a problem at its start.</summary>
    public static double[] At(BilevelProblem problem, HypergradientMethod? method = null)
    {
        using var start = problem.Start();
        using var found = Hypergradient.Compute(problem, start, method);
        return Numbers(found.Total);
    }

    /// <summary>Two levels over named tensors in float64: a base loss, a meta loss, and what they start from.</summary>
    public static BilevelProblem Two(
        Func<Pass, Params, Params, long, Tensor> lower, Func<Params, Params, Tensor> upper,
        HypergradientMethod? method = null, UpdateRule? rule = null, int unroll = 1,
        (string, Tensor)[]? theta = null, (string, Tensor)[]? lambda = null, Func<Draw, long>? data = null) =>
        BilevelProblem.Create(
            Level.Create("low", theta ?? [("w", Problems.Normal(72, 4))], rule ?? UpdateRule.Sgd(0.1), data ?? (d => d.Step), lower),
            Level.Create("up", lambda ?? [("s", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, t, l, _) => upper(t, l)),
            method ?? HypergradientMethod.Sama(), unroll);

    /// <summary>A level over a module, and a factor of its loss.</summary>
    public static BilevelProblem OfModule(nn.Module module, Func<Tensor> loss, UpdateRule? rule = null) => BilevelProblem.Create(
        Level.OfModule("net", module, rule ?? UpdateRule.Adam(0.05), _ => 0, (_, levels, _) => loss() * levels["up"]["s"].exp().sum()),
        Level.Create("up", [("s", zeros(1, dtype: float64))], UpdateRule.Sgd(0.1), _ => 0, (_, _, _) => loss()),
        HypergradientMethod.Sama());
}
