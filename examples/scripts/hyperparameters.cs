// One regulariser a weight of a linear model, chosen on a validation set. In a clone of the repository:
//   ./build.sh run hyperparameters.cs
// How to run it elsewhere stands in quickstart.cs.
#:project ../../src/Sama.CSharp
#:package libtorch-cpu-linux-x64@2.10.0
using Sama;
using TorchSharp;
using static TorchSharp.torch;

Native.Initialize();
random.manual_seed(0);

// 20 features of which 5 matter, 40 rows to train on and 40 to choose on
var truth = cat([ones(5), zeros(15)]);
var (train, valid, test) = (Sample(40), Sample(40), Sample(2000));

var problem = BilevelProblem.Create(
    Level.Create("weights", [("w", zeros(20))], UpdateRule.Adam(1e-2), _ => train, (_, theta, lambda, rows) =>
        Error(rows, theta["w"]) + (lambda["log"].exp() * theta["w"].square()).sum()),
    Level.Create("penalties", [("log", full(20, -4.0))], UpdateRule.Adam(0.1), _ => valid, (_, theta, _, rows) =>
        Error(rows, theta["w"])),
    HypergradientMethod.Sama(), unroll: 5);

using var solver = new BilevelSolver(problem);
await foreach (var step in solver.RunAsync(2000))
    if (step.Step % 400 == 0)
        Console.WriteLine($"step {step.Step,4}: train {On(train):F3}, validation {On(valid):F3}, test {On(test):F3}");

var penalties = solver.Lambda["log"].exp();
Console.WriteLine($"mean penalty: features that matter {Mean(penalties[..5]):G3}, others {Mean(penalties[5..]):G3}");

(Tensor X, Tensor Y) Sample(int rows)
{
    var x = randn(rows, 20);
    return (x, x.mv(truth) + randn(rows));
}

static Tensor Error((Tensor X, Tensor Y) rows, Tensor w) => (rows.X.mv(w) - rows.Y).square().mean();

double On((Tensor X, Tensor Y) rows) => Error(rows, solver.Theta["w"]).item<float>();

static double Mean(Tensor t) => t.mean().item<float>();
