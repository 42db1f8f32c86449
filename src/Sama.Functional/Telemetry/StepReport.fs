namespace Sama

open System
open System.Collections.Generic

/// What one step of a level above the lowest did.
[<NoComparison; AllowNullLiteral; Sealed>]
type MetaReport
    internal (level: string, metaLoss: float, hypergradientNorm: float, responses: Report list, warnings: string list) =
    /// The level's name.
    member _.Level = level
    /// Its loss at the levels below after their steps, before its own.
    member _.MetaLoss = metaLoss
    /// ‖h‖, direct gradient included.
    member _.HypergradientNorm = hypergradientNorm
    /// Cosine of h to that of the level's step before; null without telemetry, at the first step, and where one is 0.
    member val Cosine: Nullable<float> = Nullable() with public get, internal set
    /// What the method did for the level right below.
    member _.Response = List.last responses
    /// What the methods did for each level below, from the lowest up.
    member _.Responses: IReadOnlyList<Report> = responses
    /// What a user should know before trusting the step: a method that did not converge, an h that is 0 and why,
    /// parameters that nothing has moved. Empty if there is nothing to say.
    member _.Warnings: IReadOnlyList<string> = warnings

    /// Its numbers and warnings in one line.
    override report.ToString() =
        let warnings = String.Join("", warnings |> List.map (fun w -> $"; {w}"))

        let cosine =
            if report.Cosine.HasValue then
                $", cosine {report.Cosine.Value:F3}"
            else
                ""

        $"'{level}': loss {metaLoss:G5}, ‖h‖ {hypergradientNorm:G4}{cosine} ({report.Response}){warnings}"

/// What was found between two steps.
[<NoComparison; AllowNullLiteral; Sealed>]
type Evaluation
    internal
    (
        step: int64,
        score: Nullable<float>,
        metrics: IReadOnlyDictionary<string, float>,
        improved: bool,
        best: Nullable<float>,
        bestStep: int64,
        stop: bool
    ) =
    /// Base steps taken when it was found.
    member _.Step = step
    /// What decides which state is the best; null where nothing is to decide.
    member _.Score = score
    /// Every metric by its name, the score among them as "score" where it is one of its own.
    member _.Metrics = metrics
    /// True if the score is the best so far.
    member _.Improved = improved
    /// The best score so far; null before the first.
    member _.Best = best
    /// Base steps taken when it was found; 0 before the first.
    member _.BestStep = bestStep
    /// True if the score has not improved for as long as patience allows: a run ends here.
    member _.Stop = stop

    /// Its metrics in one line.
    override _.ToString() =
        let metrics =
            String.Join(", ", [ for metric in metrics -> $"{metric.Key} {metric.Value:G5}" ])

        let best = if improved then " (the best so far)" else ""
        let stop = if stop then ", patience has ended" else ""
        $"step {step}: {metrics}{best}{stop}"

/// What one base step did, numbers alone.
[<NoComparison>]
type StepReport =
    {
        /// base steps taken, this one included
        Step: int64
        /// of the lowest level, the mean over several; NaN if the step was skipped before its loss was known to be finite
        BaseLoss: float
        /// the meta step that followed, of the highest level that took one, or null
        Meta: MetaReport
        /// those of all levels that took one, from the lowest up
        Metas: IReadOnlyList<MetaReport>
        /// why the step was left out, or null
        Skipped: string
        /// what was found behind it, where that was due; else null
        Evaluation: Evaluation
        /// time, work and memory, of a run that is watched; else null
        Telemetry: StepTelemetry
    }

    /// A step that was left out, for this reason.
    static member internal Without(step: int64, reason: string) : StepReport =
        { Step = step
          BaseLoss = nan
          Meta = null
          Metas = []
          Skipped = reason
          Evaluation = null
          Telemetry = null }

    /// Its numbers in one line.
    override report.ToString() =
        let evaluation =
            if isNull report.Evaluation then
                ""
            else
                $"; {report.Evaluation}"

        if not (isNull report.Skipped) then
            $"step {report.Step} left out: {report.Skipped}{evaluation}"
        else
            let metas = String.Join("", report.Metas |> Seq.map (fun meta -> $"; {meta}"))
            $"step {report.Step}: base loss {report.BaseLoss:G5}{metas}{evaluation}"
