using System.Collections.ObjectModel;

namespace Sama;

/// <summary>What one step of a <see cref="BilevelSolver"/> did: numbers alone.</summary>
public sealed record BilevelStep
{
    /// <summary>Base steps taken, this one included.</summary>
    public required long Step { get; init; }

    /// <summary>The base loss at the parameters before the step; NaN if the step was skipped before it was finite.</summary>
    public required double BaseLoss { get; init; }

    /// <summary>The meta step that followed, of the highest level that took one; null if none was due.</summary>
    public MetaReport? Meta { get; init; }

    /// <summary>The steps of all levels above the lowest that were due, from the lowest up.</summary>
    public IReadOnlyList<MetaReport> Metas { get; init; } = [];

    /// <summary>Why the step was left out, under <see cref="NonFinitePolicy.Skip"/>; null if it was taken.</summary>
    public string? Skipped { get; init; }

    /// <summary>Time, work and memory of the step, under <see cref="BilevelSolverOptions.Telemetry"/>; else null.</summary>
    public StepTelemetry? Telemetry { get; init; }

    /// <summary>The validation score, if one was due.</summary>
    public double? Score { get; init; }

    /// <summary>Every metric that was found, by its name, the score of <see cref="Validation.Score"/> as "score"; empty if
    /// none was due.</summary>
    public IReadOnlyDictionary<string, double> Metrics { get; init; } = ReadOnlyDictionary<string, double>.Empty;

    /// <summary>True if the score is the best so far.</summary>
    public bool Improved { get; init; }

    /// <summary>True if the score has not improved for as long as patience allows: a run ends here.</summary>
    public bool Stop { get; init; }

    /// <summary>Its numbers in one line.</summary>
    /// <returns>That line.</returns>
    public override string ToString() => report?.ToString() ?? $"step {Step}: base loss {BaseLoss}";

    private StepReport? report;

    internal static BilevelStep Of(StepReport report)
    {
        var found = report.Evaluation;
        return new()
        {
            report = report,
            Step = report.Step,
            BaseLoss = report.BaseLoss,
            Meta = report.Meta,
            Metas = report.Metas,
            Skipped = report.Skipped,
            Telemetry = report.Telemetry,
            Score = found?.Score,
            Metrics = found?.Metrics ?? ReadOnlyDictionary<string, double>.Empty,
            Improved = found?.Improved ?? false,
            Stop = found?.Stop ?? false,
        };
    }
}
