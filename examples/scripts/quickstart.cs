// One weight an example, learned where half the ones are labelled zero. In a clone of the repository:
//   ./build.sh run quickstart.cs
// or, once any verb of build.sh has run, dotnet run -c Release examples/scripts/quickstart.cs. Elsewhere, with the packages
// that ./build.sh pack wrote, these lines stand in place of the #:project line:
//   #:package Sama.CSharp@*
//   #:property RestoreAdditionalProjectSources=/path/to/artifacts
//   #:property RuntimeIdentifier=linux-x64
//   #:property ConcurrentGarbageCollection=false
#:project ../../src/Sama.CSharp
#:package libtorch-cpu-linux-x64@2.10.0
using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

Native.Initialize();
random.manual_seed(0);
var (x, truth) = Sample(1000);
var (clean, test) = (Sample(100), Sample(2000));
var wrong = (truth == 1) & (rand(1000) < 0.5);
var labels = where(wrong, 0, truth);

var model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2));
var problem = BilevelProblem.Create(
    Level.OfModule("classifier", model, UpdateRule.Adam(1e-3), Batches.Shuffled(Batches.Rows(x, labels, arange(1000)), 100),
        (_, levels, batch) => (levels["weights"]["logits"][batch.Z].sigmoid() * Losses(batch.X, batch.Y)).mean()),
    Level.Create("weights", [("logits", zeros(1000))], UpdateRule.Adam(0.1), _ => clean,
        (_, levels, batch) => Losses(batch.X, batch.Y).mean()),
    HypergradientMethod.Sama());

using var solver = new BilevelSolver(problem);
await foreach (var step in solver.RunAsync(1000))
    if (step.Step % 200 == 0)
        Console.WriteLine($"step {step.Step,4}: meta loss {step.Meta?.MetaLoss:F3}, test accuracy {Accuracy():F3}");

var weights = solver.Lambda["logits"].sigmoid();
Console.WriteLine($"mean weight: right labels {Mean(weights[~wrong]):F2}, wrong labels {Mean(weights[wrong]):F2}");

// two Gaussian classes in 8 dimensions
static (Tensor X, Tensor Y) Sample(int count)
{
    var y = randint(2, count, dtype: int64);
    return (randn(count, 8) + 0.8 * y.unsqueeze(1), y);
}

Tensor Losses(Tensor x, Tensor y) => cross_entropy(model.call(x), y, reduction: nn.Reduction.None);

double Accuracy() => Mean(model.call(test.X).argmax(1) == test.Y);

static double Mean(Tensor t) => t.to_type(float64).mean().item<double>();
