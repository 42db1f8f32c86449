/// What a plain step and a meta step of SAMA spend their time on, by phase, at K = 1.
module Sama.Benchmarks.Phases

open Sama
open Sama.Functional
open Sama.Benchmarks.Models

type Row =
    {
        Model: string
        Parameters: int64
        Step: string
        Phase: string
        Milliseconds: float
        /// in plain steps
        PerPlainStep: float
    }

let private rounds = 15

let private rowsOf (model: Model) (rows: int64) : Row list =
    let begun warmUp =
        let options =
            { BilevelOptions.Default with
                WarmUp = warmUp }

        let problem =
            problem TorchSharp.torch.CPU options (adam 1e-3) Hypergradient.sama rows model

        new BilevelRun(problem, 1L, Telemetry = TelemetryOptions()), problem.Levels[0].Layout.Length

    let plain, parameters = begun System.Int64.MaxValue
    use plain = plain
    let meta, _ = begun 0L
    use meta = meta

    // behind the steps that are taken again to be checked: 1, 2, 4, 8
    for _ in 1..9 do
        plain.Step() |> ignore
        meta.Step() |> ignore

    let times =
        [ for _ in 1..rounds do
              // behind a step of its own kind, as in a run
              for _ in 1..2 do
                  plain.Step() |> ignore

              let own = plain.Step().Telemetry.Phases

              for _ in 1..2 do
                  meta.Step() |> ignore

              own, meta.Step().Telemetry.Phases ]

    let median pick =
        Cost.median [ for round in times -> (pick round: System.TimeSpan).TotalMilliseconds ]

    let whole = median (fun (plain, _) -> plain.Total)

    [ for step, of' in [ "plain", fst; "sama", snd ] do
          for phase in System.Enum.GetValues<RunPhase>() do
              string phase, step, median (fun round -> (of' round: PhaseTimes)[phase])

          "all", step, median (fun round -> (of' round).Total) ]
    |> List.filter (fun (_, _, milliseconds) -> milliseconds > 0.0)
    |> List.map (fun (phase, step, milliseconds) ->
        { Model = $"{model.Name} {rows}"
          Parameters = parameters
          Step = step
          Phase = phase
          Milliseconds = milliseconds
          PerPlainStep = milliseconds / whole })

/// The encoder, the residual network and the MLP of `cost`.
let run (write: Row list -> unit) : int =
    let rows =
        [ encoder5M true 64L, 16L; cnn, 64L; mlp "mlp" 1024L 4, 64L ]
        |> List.collect (fun (model, rows) -> rowsOf model rows)

    for r in rows do
        printfn $"{r.Model, -14}{r.Step, -8}{r.Phase, -12}{r.Milliseconds, 9:F2} ms{r.PerPlainStep, 8:F3}"

    write rows
    0
