namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// Curves for TensorBoard, by TorchSharp's writer, which opens its file for every point, counts steps in 32 bits and time
/// in whole seconds.
[<Sealed>]
type internal TensorBoard(folder: string, every: int64) =
    let writer = torch.utils.tensorboard.SummaryWriter folder
    // meta steps since the last points, the newest of each level
    let metas = Dictionary<string, MetaReport>()

    let add (step: int64) (tag: string) (value: float) =
        let now = DateTimeOffset.UtcNow.ToUnixTimeSeconds()
        writer.add_scalar (tag, float32 value, int (min step (int64 Int32.MaxValue)), Nullable now)

    let known step tag (value: Nullable<float>) =
        if value.HasValue then
            add step tag value.Value

    let meta step (report: MetaReport) =
        add step $"loss/{report.Level}" report.MetaLoss
        add step $"hypergradient/{report.Level}/norm" report.HypergradientNorm
        known step $"hypergradient/{report.Level}/cosine" report.Cosine
        known step $"response/{report.Level}/norm" report.Response.Norm
        known step $"response/{report.Level}/epsilon" report.Response.Epsilon
        add step $"response/{report.Level}/capped" (float report.Response.Capped)
        add step $"response/{report.Level}/dead" (float report.Response.Zeros)

    let measured step (t: StepTelemetry) =
        add step "examples per second" t.ExamplesPerSecond
        add step "seconds/step" t.Duration.TotalSeconds

        for struct (phase, time) in t.Phases.Taken do
            add step $"seconds/{(string phase).ToLowerInvariant()}" time.TotalSeconds

        add step "work/passes" (float t.Passes)
        add step "work/products" (float t.Products)
        add step "memory/tensors" (float t.Tensors)
        add step "memory/resident" (float t.ResidentBytes)

        if t.NativeBytes.HasValue then
            add step "memory/native" (float t.NativeBytes.Value)

    /// A step of a run whose lowest level has that name.
    member _.Step(lowest: string, report: StepReport) : unit =
        for own in report.Metas do
            metas[own.Level] <- own

        if report.Step % every = 0L && isNull report.Skipped then
            add report.Step $"loss/{lowest}" report.BaseLoss
            Seq.iter (meta report.Step) metas.Values
            metas.Clear()

            if not (isNull report.Telemetry) then
                measured report.Step report.Telemetry

    /// An evaluation.
    member _.Evaluation(found: Evaluation) : unit =
        for metric in found.Metrics do
            add found.Step $"metric/{metric.Key}" metric.Value
