// Few-shot classification of unseen characters: MAML, Meta-SGD, ANIL, iMAML, SAMA in iMAML's place, and nearest neighbours.
using System.Diagnostics;
using Microsoft.Extensions.Configuration;
using Microsoft.FSharp.Core;
using Sama;
using static TorchSharp.torch;

return Ending.run("FewShot", "with --report the same command goes on from here",
    FuncConvert.FromFunc((CancellationToken token) =>
    {
        var options = Options.Of(args);
        Native.Initialize();
        set_default_device(Native.Device(options.Device));
        Pictures.Require(options.Picture);
        var characters = new Lazy<Characters>(() => options.Data is { } path ? Characters.OfZip(path) : Characters.Generated());
        var asked =
            from shots in Numbers.parse("--shots", options.Shots)
            from seed in Numbers.parse("--seeds", options.Seeds)
            from method in options.Methods.Split(',')
            select ($"{method}, {shots} shots, seed {seed}", (Func<Action<double>, Cell>)(watch =>
                Judged(options, characters.Value, new(method, options, shots, characters.Value.Training), seed, watch, token)));
        Results.Complete(options.Report, options.Setting, [.. asked], cells => Cell.Show(cells, options.Picture));
        return 0;
    }));

// a method's training, and its mean accuracy over unseen episodes, which are the same for all
static Cell Judged(Options options, Characters characters, Learner learner, int seed, Action<double> watch, CancellationToken token)
{
    var usage = new Usage();
    var clock = Stopwatch.StartNew();
    using var solver = learner.Name == "pixels" ? null : learner.Training(seed);
    for (var i = 0; solver is not null && i < options.MetaSteps; i++)
    {
        solver.RunSteps(learner.Steps, token);
        watch((double)i / options.MetaSteps);
    }

    var (elapsed, seconds, megabytes) = (clock.Elapsed.TotalSeconds, usage.Seconds, usage.PeakMegabytes);
    var scores = new double[options.Episodes];
    for (var i = 0; i < scores.Length; i++)
    {
        token.ThrowIfCancellationRequested();
        using var scope = NewDisposeScope();
        var (support, query) = Episode.Draw(characters.Unseen, options.Ways, learner.Shots, options.Queries, 1_000_000 + i);
        scores[i] = solver is null ? Learner.Pixels(support, query) : learner.Judge(solver.Lambda, support, query);
    }

    var mean = scores.Average();
    var spread = Math.Sqrt(scores.Sum(s => (s - mean) * (s - mean)) / (scores.Length - 1));
    return new(learner.Name, learner.Shots, seed, mean, 1.96 * spread / Math.Sqrt(scores.Length),
        seconds / options.MetaSteps, megabytes);
}

/// <summary>What the command line says, as in <c>--shots 5</c>.</summary>
sealed record Options
{
    /// <summary>Omniglot's zip of images; null: generated characters.</summary>
    public string? Data { get; init; }

    public string Methods { get; init; } = string.Join(',', Learner.Names);
    public string Seeds { get; init; } = "0";
    public string Shots { get; init; } = "1,5";
    public int Ways { get; init; } = 5;

    /// <summary>Query drawings a class.</summary>
    public int Queries { get; init; } = 10;

    /// <summary>Channels of the net.</summary>
    public int Width { get; init; } = 32;

    /// <summary>Tasks a meta step.</summary>
    public int Tasks { get; init; } = 4;

    public int MetaSteps { get; init; } = 400;

    /// <summary>Unseen episodes of the judgement.</summary>
    public int Episodes { get; init; } = 600;

    /// <summary>A file that gets a line a cell, and whose cells are not done again.</summary>
    public string? Report { get; init; }

    /// <summary>A png for the bars of all cells.</summary>
    public string? Picture { get; init; }

    public string Device { get; init; } = "cpu";

    /// <summary>What cells of one report have in common.</summary>
    public string Setting =>
        $"{(Data is null ? "generated" : Path.GetFileName(Data))}, {Ways} ways, {Queries} queries, width {Width}, "
        + $"{MetaSteps} meta steps of {Tasks} tasks, {Episodes} episodes";

    public static Options Of(string[] args)
    {
        try
        {
            var options = new ConfigurationBuilder().AddCommandLine(args).Build()
                .Get<Options>(binder => binder.ErrorOnUnknownConfiguration = true) ?? new();
            if (args.Length % 2 != 0 || args.Where((word, i) => i % 2 == 0 && !word.StartsWith("--")).Any())
                throw new ArgumentException("options come in pairs, --name value: "
                    + string.Join(", ", typeof(Options).GetProperties().Where(p => p.CanWrite).Select(p => $"--{p.Name.ToLowerInvariant()}")));
            if (options.Methods.Split(',').Except(Learner.Names).FirstOrDefault() is { } unknown)
                throw new ArgumentException($"no method is named '{unknown}'; there are {string.Join(", ", Learner.Names)}");
            return options;
        }
        catch (InvalidOperationException e)
        {
            throw new ArgumentException(e.Message); // an option that there is not, or a value that is no number
        }
    }
}
