// What K, lambda's rate and alpha do to weights of examples: the tables of docs/choosing.md. Two minutes on two cores.
//   ./build.sh run choosing.cs
// How to run it elsewhere stands in quickstart.cs.
#:project ../../src/Sama.CSharp
#:package libtorch-cpu-linux-x64@2.10.0
using Sama;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

const int Rows = 5000, Size = 100;
Native.Initialize();
random.manual_seed(0);
var (x, truth) = Sample(Rows);
var (clean, test) = (Sample(200), Sample(4000));
var wrong = rand(Rows) < 0.4;
var labels = where(wrong, 1 - truth, truth);

Console.WriteLine("weights    epochs   K  rate  alpha  moved  AUROC  accuracy");
Train("none", rate: 0);
foreach (var k in new[] { 1, 2, 5, 10, 20 }) Train("one a row", k);
foreach (var rate in new[] { 1e-3, 1e-2, 1, 10 }) Train("one a row", rate: rate);
foreach (var k in new[] { 1, 10 }) Train("one a row", k, epochs: 4);
foreach (var (k, rate) in new[] { (1, 1e-2), (1, 1e-3), (10, 1e-2), (10, 1e-3) }) Train("a net", k, rate);
Train("a net", 10, 1e-2, epochs: 4);
foreach (var alpha in new[] { 1e-6, 1e-4, 1e-2, 1, 100 }) Train("one a row", alpha: alpha);

void Train(string weights, int k = 1, double rate = 0.1, int epochs = 20, double alpha = 1e-3)
{
    random.manual_seed(1);
    var model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2));
    var net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1));
    Tensor Losses(Tensor x, Tensor y) => cross_entropy(model.call(x), y, reduction: nn.Reduction.None);
    Tensor Judged(Tensor losses, Tensor y) => net.call(stack([losses, y], 1)).squeeze(1).sigmoid();

    var data = Batches.Shuffled(Batches.Rows(x, labels, arange(Rows)), Size);
    var rule = UpdateRule.Adam(rate);
    var problem = BilevelProblem.Create(
        Level.OfModule("classifier", model, UpdateRule.Adam(1e-3), data, (pass, levels, batch) =>
        {
            var losses = Losses(batch.X, batch.Y);
            return (losses * (weights == "a net"
                ? Judged(pass.Stop("losses", losses), batch.Y)
                : levels["weights"]["logits"][batch.Z].sigmoid())).mean();
        }),
        weights == "a net"
            ? Level.OfModule("weights", net, rule, _ => clean, (_, batch) => Losses(batch.X, batch.Y).mean())
            : Level.Create("weights", [("logits", zeros(Rows))], rule, _ => clean, (_, levels, batch) => Losses(batch.X, batch.Y).mean()),
        HypergradientMethod.Sama(alpha), unroll: k);

    using var solver = new BilevelSolver(problem);
    solver.RunSteps(epochs * Rows / Size);
    var learned = weights == "a net" ? Judged(Losses(x, labels), labels) : solver.Lambda["logits"].alias();
    var moved = weights == "a net" ? "" : $"{(learned != 0).sum().item<long>()}";
    Console.WriteLine($"{weights,-12} {epochs,4} {k,3} {rate,5} {alpha,6} {moved,6}  {Auroc(learned):F3}  {Mean(model.call(test.X).argmax(1) == test.Y):F3}");
}

// the chance that a right label weighs more than a wrong one, ties half
double Auroc(Tensor weights)
{
    var (right, other) = (weights[~wrong].unsqueeze(1), weights[wrong].unsqueeze(0));
    return Mean(right > other) + 0.5 * Mean(right == other);
}

// two Gaussian classes in 20 dimensions
static (Tensor X, Tensor Y) Sample(int count)
{
    var y = randint(2, count, dtype: int64);
    return (randn(count, 20) + 0.6 * y.unsqueeze(1), y);
}

static double Mean(Tensor t) => t.to_type(float64).mean().item<double>();
