namespace Sama.Functional

open System
open System.Collections.Generic
open System.Diagnostics
open System.Diagnostics.Metrics
open Sama

/// The meter and the activity source "Sama", which OpenTelemetry and dotnet-counters find by that name.
module internal Instruments =

    let private version = string (typeof<RunPhase>.Assembly.GetName().Version)

    /// A span a step, and one a phase within it.
    let spans = new ActivitySource("Sama", version)

    let private meter = new Meter("Sama", version)

    let private counter (name, unit, what) =
        meter.CreateCounter<int64>(name, unit, what)

    let private gauge (name, unit, what) =
        meter.CreateGauge<float>(name, unit, what)

    let private seconds (name, what) =
        meter.CreateHistogram<float>(name, "s", what)

    let private steps = counter ("sama.steps", "{step}", "Base steps taken")

    let private skipped =
        counter ("sama.steps.skipped", "{step}", "Base steps left out, or taken back")

    let private examples =
        counter ("sama.examples", "{example}", "Rows of the lowest levels' batches")

    let private passes =
        counter ("sama.passes", "{pass}", "Passes that responses asked for")

    let private products =
        counter ("sama.products", "{product}", "Products with second derivatives")

    let private duration = seconds ("sama.step.duration", "Time of a base step")

    let private phase =
        seconds ("sama.phase.duration", "Time of a base step in a phase")

    let private rate =
        gauge ("sama.examples.rate", "{example}/s", "Rows of the lowest levels a second")

    let private loss = gauge ("sama.loss", null, "Loss of a level")

    let private hypergradient =
        gauge ("sama.hypergradient.norm", null, "Length of a level's hypergradient")

    let private cosine =
        gauge ("sama.hypergradient.cosine", null, "Cosine of a level's hypergradient to the one before it")

    let private norm =
        gauge ("sama.response.norm", null, "Length of v, which a response is taken of")

    let private epsilon = gauge ("sama.epsilon", null, "Epsilon of a finite difference")

    let private capped =
        gauge ("sama.coordinates.capped", "{coordinate}", "Coordinates that held epsilon down")

    let private dead =
        gauge ("sama.coordinates.dead", "{coordinate}", "Coordinates that a response leaves where they are")

    let private tensors = gauge ("sama.tensors", "{tensor}", "Tensors alive")

    let private native =
        gauge ("sama.memory.native", "By", "Bytes that the native allocator has handed out")

    let private resident =
        gauge ("sama.memory.resident", "By", "Bytes of the process in memory")

    let private metric = gauge ("sama.metric", null, "A metric of an evaluation")

    let private all: Instrument list =
        [ steps
          skipped
          examples
          passes
          products
          duration
          phase
          rate
          loss
          hypergradient
          cosine
          norm
          epsilon
          capped
          dead
          tensors
          native
          resident
          metric ]

    /// True if somebody listens.
    let watched () : bool =
        spans.HasListeners() || all |> List.exists _.Enabled

    let private tag (name: string) (value: string) = KeyValuePair(name, box value)

    let private recordMeta (meta: MetaReport) : unit =
        let level = tag "sama.level" meta.Level

        let known (gauge: Gauge<float>) (value: Nullable<float>) =
            if value.HasValue then
                gauge.Record(value.Value, level)

        loss.Record(meta.MetaLoss, level)
        hypergradient.Record(meta.HypergradientNorm, level)
        known cosine meta.Cosine
        known norm meta.Response.Norm
        known epsilon meta.Response.Epsilon
        capped.Record(float meta.Response.Capped, level)
        dead.Record(float meta.Response.Zeros, level)

    /// A step of a run whose lowest level has that name.
    let record (lowest: string) (report: StepReport) : unit =
        if isNull report.Skipped then
            steps.Add 1L
            loss.Record(report.BaseLoss, tag "sama.level" lowest)
        else
            skipped.Add 1L

        Seq.iter recordMeta report.Metas

        match report.Telemetry with
        | null -> ()
        | t ->
            examples.Add t.Examples
            passes.Add(int64 t.Passes)
            products.Add(int64 t.Products)
            duration.Record t.Duration.TotalSeconds
            rate.Record t.ExamplesPerSecond

            for struct (own, time) in t.Phases.Taken do
                phase.Record(time.TotalSeconds, tag "sama.phase" ((string own).ToLowerInvariant()))

            tensors.Record(float t.Tensors)
            resident.Record(float t.ResidentBytes)

            if t.NativeBytes.HasValue then
                native.Record(float t.NativeBytes.Value)

    /// A metric of an evaluation.
    let recordMetric (name: string) (value: float) : unit =
        metric.Record(value, tag "sama.metric" name)
