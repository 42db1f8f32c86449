/// Time and memory of a meta step, beside plain training in the same process.
module Sama.Benchmarks.Cost

open System
open System.Diagnostics
open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks.Models

type Row =
    {
        Model: string
        Batch: string
        Parameters: int64
        Algorithm: string
        K: int
        TimePerPlainStep: float
        SamplesPerSecond: float
        /// to SAMA's central difference over the measured meta steps; null for other methods
        Cosine: Nullable<float>
        PeakTensorBytes: int64
        PeakResidentBytes: int64
    }

/// Neumann and CG with as many products as the names say, none for the residual.
let private methods: (string * HypergradientMethod) list =
    [ "sama", Hypergradient.sama
      "samaNa", Hypergradient.samaNa
      "t1t2", Hypergradient.t1t2
      "neumann(5)",
      Hypergradient.neumannWith
          { NeumannOptions.Default with
              Step = 0.1
              MeasureResidual = false }
      "conjugateGradient(5)",
      Hypergradient.conjugateGradientWith
          { ConjugateGradientOptions.Default with
              Iterations = 5
              Tolerance = 0.0 }
      "unrolled", Hypergradient.unrolled
      "unrolled(recompute)",
      Hypergradient.unrolledWith
          { UnrolledOptions.Default with
              Recompute = true }
      "sama(oneSided)",
      Hypergradient.samaWith
          { SamaOptions.Default with
              OneSided = true }
      "sama(bfloat16)", Hypergradient.sama ]

let private firstOrder (algorithm: string) =
    algorithm = "plain" || algorithm.StartsWith "sama"

let private modelOf (model: string) (algorithm: string) (batch: string) : Model * int64 =
    let sizes = batch.Split 'x' |> Array.map int64

    let model =
        match model with
        | "encoder" -> encoder5M (firstOrder algorithm) sizes[1]
        | "cnn" -> cnn
        | "mlp" -> mlp "mlp" 1024L 4
        | "growth" -> mlp "growth" sizes[1] 2
        | other -> invalidArg (nameof model) $"no model is named '{other}'"

    model, sizes[0]

let problemOf (device: torch.Device) model algorithm k batch : BilevelProblem =
    let options =
        { BilevelOptions.Default with
            Unroll = k
            Precision =
                (if algorithm = "sama(bfloat16)" then
                     Precision.BFloat16
                 else
                     Precision.Own)
            WarmUp = (if algorithm = "plain" then Int64.MaxValue else 0L) }

    let method =
        match List.tryFind (fst >> (=) algorithm) methods with
        | Some(_, method) -> method
        | None when algorithm = "plain" -> Hypergradient.sama
        | None -> invalidArg (nameof algorithm) $"no algorithm is named '{algorithm}'"

    let model, rows = modelOf model algorithm batch
    problem device options (adam 1e-3) method rows model

let private begun (problem: BilevelProblem) =
    use start = Bilevel.start 1L problem
    new BilevelRun(problem, start)

/// What a child process measures: `model|batch|algorithm|k`.
let memory (device: torch.Device) (row: string) : int =
    match row.Split '|' with
    | [| model; batch; algorithm; k |] ->
        let peak =
            Memory.measure (fun () ->
                use run = begun (problemOf device model algorithm (int k) batch)

                for _ in 1 .. 2 * int k do
                    run.Step() |> ignore)

        printfn $"{JsonSerializer.Serialize peak}"
        0
    | _ -> invalidArg (nameof row) $"'{row}' is not model|batch|algorithm|k"

let median (values: float seq) : float =
    let sorted = Seq.sort values |> Array.ofSeq
    (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

/// Cosine of an approximation of SAMA's central difference to it, at a few states of a run.
let private cosine device model algorithm batch : Nullable<float> =
    match algorithm with
    | "sama(oneSided)" ->
        let problem = problemOf device model "sama" 1 batch
        use run = begun problem

        let values =
            [ for _ in 1..3 do
                  for _ in 1..5 do
                      run.Step() |> ignore

                  use state = run.Snapshot()

                  (Hypergradient.compare
                      problem
                      state
                      Hypergradient.sama
                      [ List.find (fst >> (=) algorithm) methods |> snd ])
                      .Head.Cosine ]

        Nullable(median values)
    | _ -> Nullable()

/// All algorithms in turn, a window of K base steps and a meta step each, `rounds` times after one warm-up; the medians of
/// the ratios to K plain steps of the same round.
let private measured (device: torch.Device) model batch k algorithms rounds : Row list =
    let runs =
        [ for algorithm in "plain" :: algorithms -> algorithm, begun (problemOf device model algorithm k batch) ]

    let synchronise () =
        if device.``type`` = DeviceType.CUDA then
            torch.cuda.synchronize ()

    let window (run: BilevelRun) =
        synchronise ()
        let clock = Stopwatch.StartNew()

        for _ in 1..k do
            run.Step() |> ignore

        synchronise ()
        clock.Elapsed.TotalSeconds

    let times =
        [ for round in 0..rounds do
              eprintf "\r%-60s" $"{model} {batch} K = {k}, round {round} of {rounds}"
              let seconds = [ for _, run in runs -> window run ]

              if round > 0 then
                  seconds ]

    let parameters = (snd runs.Head).Theta.Layout.Length

    for _, run in runs do
        (run :> IDisposable).Dispose()

    GC.Collect()
    let rows = float (modelOf model "plain" batch |> snd)

    [ for i, algorithm in List.indexed ("plain" :: algorithms) do
          let peak = Memory.inChild [ model; batch; algorithm; string k ]

          { Model = model
            Batch = batch
            Parameters = parameters
            Algorithm = algorithm
            K = k
            TimePerPlainStep = median [ for round in times -> round[i] / round[0] ]
            SamplesPerSecond = rows * float k / median [ for round in times -> round[i] ]
            Cosine = cosine device model algorithm batch
            PeakTensorBytes = peak.PeakTensorBytes
            PeakResidentBytes = peak.PeakResidentBytes } ]

/// By default the encoder at two batches; `full` adds the other algorithms, models and sizes.
let run (device: torch.Device) (full: bool) (path: string) : int =
    let usual = [ "sama"; "neumann(5)"; "conjugateGradient(5)" ]

    let cases =
        [ "encoder", "16x64", 1, usual, 9
          "encoder", "16x64", 10, usual, 3
          "encoder", "64x128", 1, usual, 3
          "encoder", "64x128", 10, usual, 1
          if full then
              "encoder", "16x64", 1, [ "samaNa"; "t1t2"; "sama(oneSided)"; "sama(bfloat16)" ], 7
              "encoder", "16x64", 5, usual, 3
              "encoder", "16x64", 10, [ "unrolled"; "unrolled(recompute)" ], 2
              "encoder", "64x128", 10, [ "unrolled(recompute)" ], 1
              "cnn", "64", 1, usual, 5
              "mlp", "64", 1, usual, 9

              for width in [ 64; 192; 640; 2048; 5760 ] do
                  "growth", $"64x{width}", 1, [ "sama" ], 5 ]

    let rows = ResizeArray()

    for model, batch, k, algorithms, rounds in cases do
        let measured = measured device model batch k algorithms rounds
        rows.AddRange measured
        Rows.write path rows
        eprintf "\r%-60s\r" ""

        for r in measured do
            let megabytes = float r.PeakTensorBytes / 1e6

            printfn
                $"{r.Model, -8} {r.Batch, -7} {r.Algorithm, -22} K = {r.K, -3} {r.TimePerPlainStep, 6:F3} plain steps  {megabytes, 8:F1} MB  {r.SamplesPerSecond, 8:F1} samples/s"

    0
