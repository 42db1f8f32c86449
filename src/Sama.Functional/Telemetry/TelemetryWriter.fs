namespace Sama.Functional

open System
open Sama

/// The files of a run's telemetry. ArgumentException for options out of range.
[<Sealed; AllowNullLiteral>]
type internal TelemetryWriter(options: TelemetryOptions, lowest: string) =
    let atLeastOne (name: string) (value: int64) =
        if value < 1L then
            invalidArg name $"{name} is at least 1, not {value}"

    do
        atLeastOne "Every" options.Every
        atLeastOne "TensorBoardEvery" options.TensorBoardEvery

    let every = options.Every

    let lines =
        if isNull options.JsonLines then
            None
        else
            Some(new JsonLines(options.JsonLines))

    let board =
        if isNull options.TensorBoard then
            None
        else
            Some(TensorBoard(options.TensorBoard, options.TensorBoardEvery))

    /// A run begins, or goes on.
    member _.Start(step: int64, seed: int64, problem: string) : unit =
        lines |> Option.iter _.Start(step, seed, problem)

    /// A step; one that was left out is always written.
    member _.Step(report: StepReport) : unit =
        match lines with
        | Some lines when report.Step % every = 0L || not (isNull report.Skipped) -> lines.Step report
        | _ -> ()

        board |> Option.iter _.Step(lowest, report)

    /// An evaluation.
    member _.Evaluation(found: Evaluation) : unit =
        lines |> Option.iter _.Evaluation(found)
        board |> Option.iter _.Evaluation(found)

    interface IDisposable with
        member _.Dispose() =
            lines |> Option.iter (fun lines -> (lines :> IDisposable).Dispose())
