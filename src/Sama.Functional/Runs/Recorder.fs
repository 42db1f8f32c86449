namespace Sama.Functional

open System
open System.Diagnostics
open TorchSharp
open Sama

/// What is measured of a run's steps, if it is asked for, or somebody listens.
[<Sealed>]
type internal Recorder(problem: BilevelProblem) =
    let lowest = problem.LevelNames[0]
    // each level's last h, its own
    let last: Tensor[] = Array.create problem.Levels.Length null

    let cosine (a: Tensor) (b: Tensor) : Nullable<float> =
        Scope.run (fun _ ->
            let wide (x: Tensor) = x.to_type torch.float64
            let a, b = wide a, wide b

            match Number.readAll [ a.dot b; a.dot a; b.dot b ] with
            | [| product; ofA; ofB |] when ofA > 0.0 && ofB > 0.0 -> Nullable(product / sqrt (ofA * ofB))
            | _ -> Nullable())

    let measured (clock: PhaseClock) (started: int64) : StepTelemetry =
        let phases = clock.Read()

        StepTelemetry(
            Stopwatch.GetElapsedTime started,
            phases,
            clock.Examples,
            clock.Passes,
            clock.Products,
            Tensor.TotalCount,
            ProcessMemory.native (),
            ProcessMemory.resident ()
        )

    /// What is asked for; null for nothing.
    member val Options: TelemetryOptions = null with get, set

    /// Runs a step, with a clock if it is watched: then its report has what was measured, and the instruments are told. A
    /// step of a run that is not lasting (a pure one, a diagnostic) is nobody's.
    member recorder.Observe(lasting: bool, number: int64, step: PhaseClock -> StepReport) : StepReport =
        if not (lasting && (not (isNull recorder.Options) || Instruments.watched ())) then
            step null
        else
            let started = Stopwatch.GetTimestamp()
            use span = Instruments.spans.StartActivity "sama.step"

            if not (isNull span) then
                span.SetTag("sama.step", number + 1L) |> ignore

            let synchronize =
                not (isNull recorder.Options)
                && recorder.Options.Synchronize
                && problem.Levels[0].Device.``type`` = DeviceType.CUDA

            let clock = PhaseClock(Instruments.spans, synchronize)

            try
                let report =
                    { step clock with
                        Telemetry = measured clock started }

                Instruments.record lowest report
                report
            with e ->
                if not (isNull span) then
                    span.SetStatus(ActivityStatusCode.Error, e.Message) |> ignore

                reraise ()

    /// The report with the cosine of h, which is in the level's gradient vector, to the one before it.
    member _.Compared(live: LiveStep, level: int, report: MetaReport) : MetaReport =
        if not (isNull live.Clock) then
            let h = live.Levels[level].Gradient

            if isNull last[level] then
                last[level] <- Scope.copy h
            else
                report.Cosine <- live.Clock.Within(RunPhase.Reading, (fun () -> cosine last[level] h))
                last[level].copy_ h |> ignore

        report

    /// The run goes on from elsewhere, or is over.
    member _.Forget() : unit =
        for i in 0 .. last.Length - 1 do
            if not (isNull last[i]) then
                last[i].Dispose()
                last[i] <- null
