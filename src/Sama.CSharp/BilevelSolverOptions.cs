using Microsoft.Extensions.Logging;

namespace Sama;

/// <summary>Options of a <see cref="BilevelSolver"/>.</summary>
public sealed record BilevelSolverOptions
{
    /// <summary>Fixes batches and masks; unused with <see cref="Initial"/>, which has its own. Default 0.</summary>
    public long Seed { get; init; }

    /// <summary>Where the run starts; borrowed and copied. Default null: at the levels' initial parameters.</summary>
    public RunState? Initial { get; init; }

    /// <summary>A score taken between steps, and when to stop. Default null: none.</summary>
    public Validation? Validation { get; init; }

    /// <summary>Checkpoints, and going on from the last one. Default null: none.</summary>
    public CheckpointOptions? Checkpoint { get; init; }

    /// <summary>Steps in a row that may be left out under <see cref="NonFinitePolicy.Skip"/>. Default null: any number.</summary>
    public int? SkipAtMost { get; init; }

    /// <summary>How often the run goes back to its last checkpoint, with another seed, where a number is not finite. Default
    /// 0.</summary>
    public int Rollbacks { get; init; }

    /// <summary>What is measured of every step, and where it is written: <see cref="BilevelStep.Telemetry"/>, the meter and
    /// the activity source "Sama", JSON lines, TensorBoard. Default null: nothing, unless somebody listens to the meter or the
    /// source.</summary>
    public TelemetryOptions? Telemetry { get; init; }

    /// <summary>Called after every step, on the thread that stepped. Default null.</summary>
    public Action<BilevelStep>? OnStep { get; init; }

    /// <summary>Called after every step with a meta step, on the thread that stepped. Default null.</summary>
    public Action<BilevelStep>? OnMetaStep { get; init; }

    /// <summary>Told of every step; <see cref="Progress{T}"/> posts to the context it was made in. Default null.</summary>
    public IProgress<BilevelStep>? Progress { get; init; }

    /// <summary>Steps at Debug, scores and the end at Information, a skipped step or a method that did not
    /// converge at Warning, failures at
    /// Error. Default null: no log.</summary>
    public ILogger? Logger { get; init; }
}

/// <summary>A score, or several metrics, taken between steps, and early stopping by it.</summary>
/// <remarks>They are taken without gradients, with the modules that the losses call, and those that the functions below
/// captured, in eval mode; modes, buffers and the CPU's random generator are put back as they were.</remarks>
public sealed record Validation
{
    /// <summary>What decides which state is the best, at (θ, λ) of the lowest and the highest level, which are borrowed; a
    /// module's parameters are θ (or λ) already. Default null: the metric that <see cref="Best"/> names.</summary>
    public Func<Params, Params, double>? Score { get; init; }

    /// <summary>Several metrics by name at once, at (θ, λ). Default null: none.</summary>
    public Func<Params, Params, IReadOnlyDictionary<string, double>>? Metrics { get; init; }

    /// <summary>The metric that decides, without a <see cref="Score"/>. Default null: none does.</summary>
    public string? Best { get; init; }

    /// <summary>Base steps between scores, at least 1. Default 100.</summary>
    public int Every { get; init; } = 100;

    /// <summary>True if a larger score is better. Default false: the score is a loss.</summary>
    public bool Maximize { get; init; }

    /// <summary>By how much a score must be better to count. Default 0.</summary>
    public double MinDelta { get; init; }

    /// <summary>Scores in a row without improvement after which a run ends, at least 1. Default null: never.</summary>
    public int? Patience { get; init; }

    /// <summary>Keeps a copy of the state of the best score, for <see cref="BilevelSolver.BestState"/> and
    /// <see cref="BilevelSolver.RestoreBest"/>; with checkpoints as their <c>best.safetensors</c> too. Default false.</summary>
    public bool KeepBest { get; init; }

    /// <summary>Goes back to the state of the best score where the run ends, whether patience or the number of its steps
    /// ended it; keeps a copy of it. Default false.</summary>
    public bool RestoreBest { get; init; }

    /// <summary>The same for the core; <paramref name="scoring"/> is true on a thread while it scores.</summary>
    internal EvaluationOptions Evaluation(ThreadLocal<bool> scoring) => new()
    {
        Score = Score is { } score ? (theta, lambda) => Marked(scoring, () => score(theta, lambda)) : null!,
        Metrics = Metrics is { } metrics ? (theta, lambda) => Marked(scoring, () => metrics(theta, lambda)) : null!,
        Best = Best!,
        Every = Every,
        Maximize = Maximize,
        MinDelta = MinDelta,
        Patience = Patience,
        KeepBest = KeepBest,
        RestoreBest = RestoreBest,
    };

    private static T Marked<T>(ThreadLocal<bool> scoring, Func<T> score)
    {
        scoring.Value = true;
        try
        {
            return score();
        }
        finally
        {
            scoring.Value = false;
        }
    }
}
