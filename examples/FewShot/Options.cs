using Microsoft.Extensions.Configuration;

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

    /// <summary>A png for the bars of all cells of the report.</summary>
    public string? Picture { get; init; }

    public string Device { get; init; } = "cpu";

    public static Options Of(string[] args)
    {
        var options = new ConfigurationBuilder().AddCommandLine(args).Build()
            .Get<Options>(binder => binder.ErrorOnUnknownConfiguration = true) ?? new();
        if (args.Length % 2 != 0 || args.Where((word, i) => i % 2 == 0 && !word.StartsWith("--")).Any())
            throw new ArgumentException("options come in pairs, --name value");
        if (options.Methods.Split(',').Except(Learner.Names).FirstOrDefault() is { } unknown)
            throw new ArgumentException($"no method is named '{unknown}'; there are {string.Join(", ", Learner.Names)}");
        return options;
    }

    public static int[] Numbers(string list) => [.. list.Split(',').Select(int.Parse)];
}
