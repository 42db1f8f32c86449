// A classifier learns from labels of which half the ones were turned into zeros. A small net weighs each example by its
// label and loss, and is itself trained so that the classifier does well on 64 clean examples: the hypergradient is SAMA's.
using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

Native.Initialize();
random.manual_seed(0);

var (x, truth) = Sample(2000);
var (clean, test) = (Sample(64), Sample(2000));
var flipped = (truth == 1) & (rand(2000) < 0.5);
var labels = where(flipped, 0, truth);

var model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2));
var weigh = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid());

var problem = BilevelProblem.Create(
    Level.OfModule("classifier", model, UpdateRule.Adam(1e-2), Batches.Shuffled((x, labels), 100), (pass, batch) =>
    {
        var losses = Losses(batch);
        return (Weights(pass.Stop("losses", losses), batch.Y) * losses).mean();
    }),
    Level.OfModule("weights", weigh, UpdateRule.Adam(1e-2), _ => clean, (_, batch) => Losses(batch).mean()),
    HypergradientMethod.Sama());

await using var solver = new BilevelSolver(problem, new() { Seed = 1 });
await foreach (var step in solver.RunAsync(1000))
    if (step.Step % 200 == 0)
        Console.WriteLine($"step {step.Step,4}: base {step.BaseLoss:F3}, meta {step.Meta?.MetaLoss:F3}, test accuracy {Accuracy():F3}");

var weights = Weights(Losses((x, labels)), labels);
Console.WriteLine($"mean weight: right labels {Mean(weights[~flipped]):F2}, wrong labels {Mean(weights[flipped]):F2}");

// two Gaussian classes in 8 dimensions
static (Tensor X, Tensor Y) Sample(int count)
{
    var y = randint(2, count, dtype: int64);
    return (randn(count, 8) + 0.8 * y.unsqueeze(1), y);
}

Tensor Losses((Tensor X, Tensor Y) batch) => cross_entropy(model.call(batch.X), batch.Y, reduction: nn.Reduction.None);

Tensor Weights(Tensor losses, Tensor y) => weigh.call(stack([losses, y], 1)).squeeze(1);

double Accuracy() => Mean(model.call(test.X).argmax(1) == test.Y);

static double Mean(Tensor t) => t.to_type(float64).mean().item<double>();
