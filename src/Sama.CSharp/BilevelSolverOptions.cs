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

/// <summary>A score taken between steps without gradients, and early stopping by it.</summary>
public sealed record Validation
{
    /// <summary>The score at (θ, λ) of the lowest and the highest level, which are borrowed. A module's parameters are θ (or λ) already: set it to
    /// <c>eval()</c> and back here if it has dropout or batch statistics.</summary>
    public required Func<Params, Params, double> Score { get; init; }

    /// <summary>Base steps between scores, at least 1. Default 100.</summary>
    public int Every { get; init; } = 100;

    /// <summary>True if a larger score is better. Default false: the score is a loss.</summary>
    public bool Maximize { get; init; }

    /// <summary>By how much a score must be better to count. Default 0.</summary>
    public double MinDelta { get; init; }

    /// <summary>Scores in a row without improvement after which a run ends, at least 1. Default null: never.</summary>
    public int? Patience { get; init; }

    /// <summary>Keeps a copy of the state of the best score, for <see cref="BilevelSolver.BestState"/> and
    /// <see cref="BilevelSolver.RestoreBest"/>. Default false.</summary>
    public bool KeepBest { get; init; }

    /// <summary>Goes back to the state of the best score when patience ends; keeps a copy of it. Default false.</summary>
    public bool RestoreBest { get; init; }
}
