namespace Sama.Functional

open System
open System.Buffers
open System.IO
open System.Text.Json
open Sama

/// A file of lines of JSON, one a step, an evaluation or an event; appended to. A line is on its way to the disk before the
/// next step begins.
[<Sealed>]
type internal JsonLines(path: string) =
    let file =
        let folder = Path.GetDirectoryName(Path.GetFullPath path)
        Directory.CreateDirectory folder |> ignore

        let file =
            new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.ReadWrite)

        // a process that was killed while it wrote has left half a line
        if file.Length > 0L then
            file.Seek(-1L, SeekOrigin.End) |> ignore

            if file.ReadByte() <> int '\n' then
                file.WriteByte(byte '\n')

        file

    let buffer = ArrayBufferWriter<byte>()
    let json = new Utf8JsonWriter(buffer)

    let number (name: string) (value: float) =
        // JSON has no such numbers
        if Double.IsFinite value then
            json.WriteNumber(name, value)
        else
            json.WriteString(name, value.ToString Globalization.CultureInfo.InvariantCulture)

    let known (name: string) (value: Nullable<float>) =
        if value.HasValue then
            number name value.Value

    let line (kind: string) (body: unit -> unit) =
        buffer.Clear()
        json.Reset()
        json.WriteStartObject()
        json.WriteString("kind", kind)
        body ()
        json.WriteEndObject()
        json.Flush()
        buffer.Write(ReadOnlySpan [| byte '\n' |])
        file.Write buffer.WrittenSpan
        file.Flush()

    let response (report: Report) =
        json.WriteStartObject()
        json.WriteString("method", report.Method)
        known "norm" report.Norm
        known "activeNorm" report.ActiveNorm
        known "epsilon" report.Epsilon
        known "residual" report.Residual
        json.WriteNumber("capped", report.Capped)
        json.WriteNumber("dead", report.Zeros)

        if report.Converged.HasValue then
            json.WriteBoolean("converged", report.Converged.Value)

        json.WriteEndObject()

    let meta (report: MetaReport) =
        json.WriteStartObject()
        json.WriteString("level", report.Level)
        number "loss" report.MetaLoss
        number "hypergradientNorm" report.HypergradientNorm
        known "cosine" report.Cosine
        json.WriteStartArray "responses"
        Seq.iter response report.Responses
        json.WriteEndArray()

        if report.Warnings.Count > 0 then
            json.WriteStartArray "warnings"

            for warning in report.Warnings do
                json.WriteStringValue warning

            json.WriteEndArray()

        json.WriteEndObject()

    let measured (t: StepTelemetry) =
        number "seconds" t.Duration.TotalSeconds
        json.WriteNumber("examples", t.Examples)
        number "examplesPerSecond" t.ExamplesPerSecond
        json.WriteNumber("passes", t.Passes)
        json.WriteNumber("products", t.Products)
        json.WriteNumber("tensors", t.Tensors)

        if t.NativeBytes.HasValue then
            json.WriteNumber("nativeBytes", t.NativeBytes.Value)

        json.WriteNumber("residentBytes", t.ResidentBytes)
        json.WriteStartObject "phases"

        for struct (phase, time) in t.Phases.Taken do
            number ((string phase).ToLowerInvariant()) time.TotalSeconds

        json.WriteEndObject()

    do file.Seek(0L, SeekOrigin.End) |> ignore

    /// Where a run begins, or goes on: lines above it of later steps belong to a run that was cut off.
    member _.Start(step: int64, seed: int64, problem: string) : unit =
        line "start" (fun () ->
            json.WriteNumber("step", step)
            json.WriteNumber("seed", seed)
            json.WriteString("time", DateTimeOffset.UtcNow)
            json.WriteString("problem", problem))

    /// A step.
    member _.Step(report: StepReport) : unit =
        line "step" (fun () ->
            json.WriteNumber("step", report.Step)

            if isNull report.Skipped then
                number "baseLoss" report.BaseLoss
            else
                json.WriteString("skipped", report.Skipped)

            if not (isNull report.Telemetry) then
                measured report.Telemetry

            if report.Metas.Count > 0 then
                json.WriteStartArray "metas"
                Seq.iter meta report.Metas
                json.WriteEndArray())

    /// An evaluation.
    member _.Evaluation(found: Evaluation) : unit =
        line "evaluation" (fun () ->
            json.WriteNumber("step", found.Step)
            known "score" found.Score
            json.WriteBoolean("improved", found.Improved)
            json.WriteStartObject "metrics"

            for metric in found.Metrics do
                number metric.Key metric.Value

            json.WriteEndObject())

    interface IDisposable with
        member _.Dispose() =
            json.Dispose()
            file.Dispose()
