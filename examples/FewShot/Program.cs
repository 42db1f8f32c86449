// Few-shot classification of unseen characters: MAML, Meta-SGD, ANIL, iMAML, SAMA in iMAML's place, and nearest neighbours.
using System.Diagnostics;
using System.Text.Json;
using Sama;
using TorchSharp;
using static TorchSharp.torch;

try
{
    var options = Options.Of(args);
    Native.Initialize();
    set_default_device(options.Device);
    using var line = new LiveLine("characters");
    var characters = options.Data is { } path ? Characters.OfZip(path) : Characters.Generated();
    using var stop = new StopSignal();

    List<Cell> cells = options.Report is { } report && File.Exists(report)
        ? [.. File.ReadLines(report).Select(text => JsonSerializer.Deserialize<Cell>(text)!)]
        : [];
    foreach (var shots in Options.Numbers(options.Shots))
        foreach (var method in options.Methods.Split(','))
            foreach (var seed in Options.Numbers(options.Seeds))
            {
                if (cells.Any(cell => (cell.Method, cell.Shots, cell.Seed) == (method, shots, seed)))
                    continue;
                var done = Run(new(method, options, shots, characters.Training), seed);
                cells.Add(done);
                if (options.Report is not null)
                    File.AppendAllText(options.Report, JsonSerializer.Serialize(done) + "\n");
                Console.WriteLine(done);
            }

    if (options.Picture is not null)
        Cell.Draw(cells, options.Picture);
    return 0;

    Cell Run(Learner learner, int seed)
    {
        var name = $"{learner.Name}, {learner.Shots} shots, seed {seed}";
        var clock = Stopwatch.StartNew();
        Memory.Reset();
        BilevelSolver? solver = null;
        if (learner.Name != "pixels")
        {
            solver = new(learner.Problem(seed), new() { Seed = seed });
            for (var i = 0; i < options.MetaSteps; i++)
            {
                var step = solver.RunSteps(learner.Steps, stop.Token)!;
                line.At((double)i / options.MetaSteps, $"{name}: query loss {step.Meta!.MetaLoss:F3}");
            }
        }

        var (seconds, bytes) = (clock.Elapsed.TotalSeconds, Memory.Peak());
        var scores = new double[options.Episodes];
        for (var i = 0; i < scores.Length; i++)
        {
            stop.Token.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            // the same episodes for all
            var (support, query) = Episode.Draw(characters.Unseen, options.Ways, learner.Shots, options.Queries, 1_000_000 + i);
            scores[i] = solver is null ? Learner.Pixels(support, query) : learner.Judge(solver.Lambda, support, query);
            line.At((double)i / scores.Length, $"{name}: unseen characters");
        }

        solver?.Dispose();
        var mean = scores.Average();
        var spread = Math.Sqrt(scores.Sum(s => (s - mean) * (s - mean)) / (scores.Length - 1));
        return new(learner.Name, learner.Shots, seed, mean, 1.96 * spread / Math.Sqrt(scores.Length),
            learner.Name == "pixels" ? 0 : seconds / options.MetaSteps, bytes);
    }
}
catch (OperationCanceledException)
{
    Console.Error.WriteLine("FewShot: stopped; the report has the cells that were done");
    return 130;
}
catch (Exception e) when (e is ArgumentException or IOException or InvalidOperationException or InvalidDataException or FormatException)
{
    Console.Error.WriteLine($"FewShot: {e.Message}");
    return 2;
}
