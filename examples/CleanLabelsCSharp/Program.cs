// Wrong labels of short texts, found and corrected with forty clean ones: first by the whole cleaning, which chooses
// among ways of training, then by hand, with one learner of weights above a classifier.
using Sama;
using Sama.DataOptimization;
using Sama.TextCleaning;
using static TorchSharp.torch;

Native.Initialize();
var random = new Random(0);
string[][] words = [["ball", "goal", "team", "match", "coach"], ["bank", "price", "stock", "trade", "profit"]];
string[] fillers = ["the", "a", "of", "new", "last", "about", "and"];
var truths = Enumerable.Range(0, 1240).Select(_ => random.Next(2)).ToArray();
var texts = truths.Select(truth => string.Join(' ', Enumerable.Range(0, 6).Select(i =>
    i % 2 == 0 ? fillers[random.Next(7)] : words[random.Next(8) == 0 ? 1 - truth : truth][random.Next(5)]))).ToArray();
var labels = truths[..1000].Select(truth => random.NextDouble() < 0.3 ? 1 - truth : truth).ToArray(); // 30 % flipped
var right = labels.Select((label, row) => label == truths[row]).ToArray();

// rows to clean, then clean ones, then those to predict, in one order for data and model
using IRowClassifier model = new WordClassifier(texts, classes: 2, vocabularyFrom: 1040);
var data = new CleaningData(2, labels, truths[1000..1040], others: 200);
var result = DataCleaning.Run(model, data, new CleaningOptions { Steps = 200 }, ["sport", "business"]);

foreach (var way in result.Candidates)
    Console.WriteLine($"{way.Name,-32} {way.HeldOut.Correct.Average():F2}");
var wrong = result.Wrong;
Console.WriteLine($"chosen: {result.Choice.Name}; accuracy {Accuracy.Share(Rows.Argmax(result.Predictions), truths[1040..]):F3}");
Console.WriteLine($"{wrong.Length} labels are likely wrong, AUROC {Ranking.Auroc([.. result.Rows.Select(row => row.Quality)], right):F3}");
Console.WriteLine($"the likeliest: '{texts[wrong[0].Row]}': {wrong[0].Why}");

// the same learner in a problem of one's own
var learner = ExampleWeights.FromFeatures(2);
using var table = new RowTable(2, [.. labels, .. truths[1000..1040]]);
var clean = Enumerable.Range(1000, 40).ToArray();
var start = model.Start(0).Select(parameter => (parameter.Item1, parameter.Item2)).ToArray();

var problem = BilevelProblem.Create(
    Level.Create("classifier", start, UpdateRule.Adam(1e-3),
        Batches.Shuffled(Batches.Rows(1000, row => (int)row, rows => table.At([.. rows])), 64),
        (pass, theta, lambda, batch) => learner.Loss(pass, lambda, batch, Read(theta, batch, training: true))),
    learner.Level<RowBatch>(UpdateRule.Adam(1e-2), _ => table.At(clean),
        (pass, theta, batch) => -(Read(theta, batch, training: false) * batch.Given).sum(1).mean()),
    HypergradientMethod.Sama());

using var solver = new BilevelSolver(problem);
await foreach (var _ in solver.RunAsync(400)) { }
using (no_grad())
{
    var rows = table.At([.. Enumerable.Range(0, 1000)]);
    var weights = learner.Weights(solver.Lambda, rows, Read(solver.Theta, rows, training: false));
    Console.WriteLine($"learned weights: AUROC {Ranking.Auroc(Rows.Vector(weights), right):F3}");
}

Tensor Read(Params theta, RowBatch batch, bool training)
{
    var rows = batch.Rows.data<long>().Select(row => (int)row).ToArray();
    return model.LogProbabilities(theta, model.Read(rows), training);
}
