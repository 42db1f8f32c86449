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
        $"'{level}': loss {metaLoss:G5}, ‖h‖ {hypergradientNorm:G4} ({report.Response}){warnings}"

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
    }

    /// Its numbers in one line.
    override report.ToString() =
        if not (isNull report.Skipped) then
            $"step {report.Step} left out: {report.Skipped}"
        else
            let metas = String.Join("", report.Metas |> Seq.map (fun meta -> $"; {meta}"))
            $"step {report.Step}: base loss {report.BaseLoss:G5}{metas}"
