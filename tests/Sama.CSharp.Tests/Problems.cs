using TorchSharp;
using static TorchSharp.torch;

namespace Sama.Tests;

/// <summary>Small problems that the suites share, all from fixed seeds.</summary>
internal static class Problems
{
    // with it, shared tensors are made at the first use of the class, outside every step
    static Problems()
    {
    }

    public static Tensor Normal(ulong seed, params long[] shape)
    {
        using var generator = new Generator(seed);
        return randn(shape, dtype: float64, generator: generator);
    }

    private static readonly Tensor X = Normal(1, 12, 4);
    private static readonly Tensor Y = Normal(2, 12);

    /// <summary>Rows of a draw.</summary>
    public static Tensor Rows(Draw draw)
    {
        using var generator = new Generator((ulong)draw.RandomSeed);
        return randint(12, 6, dtype: int64, generator: generator);
    }

    private static Tensor Error(Tensor w, Tensor rows) => (X[rows].mv(w) - Y[rows]).square().mean();

    public static Level RidgeBase(UpdateRule rule, Func<Draw, Tensor>? data = null) =>
        Level.Create("ridge", [("w", zeros(4, dtype: float64))], rule, data ?? Rows, (pass, theta, lambda, rows) =>
            Error(theta["w"], rows) + (lambda["log"].exp() * theta["w"].square()).sum());

    public static Level RidgeMeta(UpdateRule rule) =>
        Level.Create("penalty", [("log", zeros(4, dtype: float64))], rule, Rows, (pass, theta, lambda, rows) =>
            Error(theta["w"], rows) + 0.01 * lambda["log"].square().sum());

    /// <summary>One penalty per weight of a linear regression.</summary>
    public static BilevelProblem Ridge(
        UpdateRule? rule = null, HypergradientMethod? method = null, int unroll = 1, Func<Draw, Tensor>? data = null) =>
        BilevelProblem.Create(
            RidgeBase(rule ?? UpdateRule.Adam(1e-2), data),
            RidgeMeta(UpdateRule.Sgd(0.1)),
            method ?? HypergradientMethod.Sama(),
            unroll);

    /// <summary>A module whose losses another one weighs.</summary>
    public static BilevelProblem Weighing(nn.Module<Tensor, Tensor> model, nn.Module<Tensor, Tensor> weigh, UpdateRule? rule = null)
    {
        Tensor Losses(Tensor rows) => (model.call(X[rows]).squeeze(1) - Y[rows]).square();
        return BilevelProblem.Create(
            Level.OfModule("model", model, rule ?? UpdateRule.Adam(1e-2), Rows, (pass, rows) =>
            {
                var losses = Losses(rows);
                return (weigh.call(pass.Stop("losses", losses).unsqueeze(1)).squeeze(1).sigmoid() * losses).mean();
            }),
            Level.OfModule("weigh", weigh, UpdateRule.Adam(1e-2), Rows, (_, rows) => Losses(rows).mean()),
            HypergradientMethod.Sama());
    }

    public static nn.Module<Tensor, Tensor> Net(int inputs) =>
        nn.Sequential(nn.Linear(inputs, 5, dtype: float64), nn.Tanh(), nn.Linear(5, 1, dtype: float64));
}
