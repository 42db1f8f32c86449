// Logistic regression with one regulariser per weight, chosen on a validation set, against a grid over one regulariser
// for all weights with the same number of base steps.
using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

const int Features = 20, Rows = 1000, BaseSteps = 100, Budget = 40;

Native.Initialize();
random.manual_seed(args.Length > 0 ? long.Parse(args[0]) : 0);

// y = 1[x·w₀ + e > 0], w₀ zero in its last 15 entries
var truth = cat([randn(5, dtype: float64), zeros(Features - 5, dtype: float64)]);
var (train, valid, test) = (Sample(100), Sample(Rows / 2), Sample(Rows * 5));

// the grid: each candidate trains from 0 for as many base steps as one meta step has
var candidates = Enumerable.Range(0, Budget).Select(i => Math.Pow(10, -4 + 5.0 * i / (Budget - 1))).ToArray();
var grid = candidates.Select(c => (Penalty: c, W: Train(full(Features, Math.Log(c), dtype: float64)))).MinBy(c => Bce(c.W, valid));
Console.WriteLine($"grid:      penalty {grid.Penalty:G3}, validation {Bce(grid.W, valid):F4}, test {Bce(grid.W, test):F4}");

// the hypergradient: log λ moves after every window of base steps
using var solver = new BilevelSolver(
    BilevelProblem.Create(
        Level.Create("weights", [("w", zeros(Features, dtype: float64))], UpdateRule.Sgd(0.1), _ => train, BaseLoss),
        Level.Create("penalties", [("log", full(Features, Math.Log(0.02), dtype: float64))], UpdateRule.Adam(0.1), _ => valid,
            (_, theta, _, batch) => Loss(theta["w"], batch)),
        HypergradientMethod.Sama(), unroll: BaseSteps),
    new()
    {
        OnMetaStep = step =>
        {
            if (step.Step % (10 * BaseSteps) == 0)
                Console.WriteLine($"step {step.Step,5}: validation {step.Meta!.MetaLoss:F4}, |h| {step.Meta.HypergradientNorm:E1}");
        },
    });
solver.RunSteps(Budget * BaseSteps);
var learned = solver.Theta["w"];
Console.WriteLine($"learned:   validation {Bce(learned, valid):F4}, test {Bce(learned, test):F4}");

(Tensor X, Tensor Y) Sample(int rows)
{
    var x = randn(rows, Features, dtype: float64);
    var y = (x.mv(truth) + randn(rows, dtype: float64) > 0).to_type(float64);
    return (x, y);
}

static Tensor Loss(Tensor w, (Tensor X, Tensor Y) data) => binary_cross_entropy_with_logits(data.X.mv(w), data.Y);

// mean BCE + ½ wᵀ diag(λ) w
static Tensor BaseLoss(Pass pass, Params theta, Params lambda, (Tensor X, Tensor Y) batch) =>
    Loss(theta["w"], batch) + 0.5 * (lambda["log"].exp() * theta["w"].square()).sum();

static double Bce(Tensor w, (Tensor X, Tensor Y) data) => Loss(w, data).item<double>();

Tensor Train(Tensor logPenalty)
{
    var w = zeros(Features, dtype: float64);
    for (var i = 0; i < BaseSteps; i++)
    {
        var residual = train.X.mv(w).sigmoid() - train.Y;
        w -= 0.1 * (train.X.t().mv(residual) / train.X.shape[0] + logPenalty.exp() * w);
    }

    return w;
}
