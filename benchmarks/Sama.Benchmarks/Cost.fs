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

let private concatenated = "sama(concatenated)"

[<NoComparison; NoEquality>]
type private Algorithm =
    { Name: string
      Method: HypergradientMethod
      Options: BilevelOptions }

/// Neumann and CG with as many products as the names say, none for the residual.
let private algorithms: Algorithm list =
    let options = BilevelOptions.Default

    let algorithm name method =
        { Name = name
          Method = method
          Options = options }

    [ { algorithm "plain" Hypergradient.sama with
          Options = { options with WarmUp = Int64.MaxValue } }
      algorithm "sama" Hypergradient.sama
      algorithm "samaNa" Hypergradient.samaNa
      algorithm "t1t2" Hypergradient.t1t2
      yield!
          [ for name, method in
                [ "neumann(5)",
                  Hypergradient.neumannWith
                      { NeumannOptions.Default with
                          Step = 0.1
                          MeasureResidual = false }
                  "conjugateGradient(5)",
                  Hypergradient.conjugateGradientWith
                      { ConjugateGradientOptions.Default with
                          Iterations = 5
                          Tolerance = 0.0 }
                  "unrolled", Hypergradient.unrolled ] do
                algorithm name method
                algorithm $"{name} by differences" (Hypergradient.withProducts ProductForm.Differences method) ]
      algorithm
          "unrolled(recompute)"
          (Hypergradient.unrolledWith
              { UnrolledOptions.Default with
                  Recompute = true })
      algorithm
          "sama(oneSided)"
          (Hypergradient.samaWith
              { SamaOptions.Default with
                  OneSided = true })
      { algorithm
            "sama(microBatches=1of4)"
            (Hypergradient.samaWith
                { SamaOptions.Default with
                    MicroBatches = 1 }) with
          Options = { options with Accumulate = 4 } }
      // by hand: `Concatenated`
      algorithm concatenated Hypergradient.sama
      { algorithm "sama(bfloat16)" Hypergradient.sama with
          Options =
              { options with
                  Precision = Precision.BFloat16 } } ]

let private named (algorithm: string) : Algorithm =
    match algorithms |> List.tryFind (fun a -> a.Name = algorithm) with
    | Some found -> found
    | None -> invalidArg (nameof algorithm) $"no algorithm is named '{algorithm}'"

/// No second derivatives: attention may be fused.
let private firstOrder (algorithm: string) =
    algorithm = "plain"
    || algorithm.StartsWith "sama"
    || algorithm.EndsWith "by differences"

let private modelOf (model: string) (algorithm: string) (batch: string) : Model * int64 =
    let sizes = batch.Split 'x' |> Array.map int64

    let model =
        match model with
        | "encoder"
        | "products" -> encoder5M (firstOrder algorithm) sizes[1]
        | "cnn" -> cnn
        | "mlp" -> mlp "mlp" 1024L 4
        | "growth" -> mlp "growth" sizes[1] 2
        | other -> invalidArg (nameof model) $"no model is named '{other}'"

    model, sizes[0]

let private problemOf (device: torch.Device) (model: Model, rows) (algorithm: Algorithm) k : BilevelProblem =
    problem device { algorithm.Options with Unroll = k } (adam 1e-3) algorithm.Method rows model

/// Steps of an algorithm, and what ends them.
let private begun (device: torch.Device) model (algorithm: string) k batch : (unit -> unit) * IDisposable * int64 =
    let own = modelOf model algorithm batch
    let problem = problemOf device own (named algorithm) k
    // a run looks twice at its 1st, 2nd, 4th, 8th, … meta step; what is measured are the others
    problem.Replays.Value <- 32L

    if algorithm = concatenated then
        let run = new Concatenated.Run(device, snd own, fst own, problem)
        run.Step, run, problem.Levels[0].Layout.Length
    else
        let run = new BilevelRun(problem, 1L)
        (run.Step >> ignore), run, problem.Levels[0].Layout.Length

/// What a child process measures: `model|batch|algorithm|k`.
let memory (device: torch.Device) (row: string) : int =
    match row.Split '|' with
    | [| model; batch; algorithm; k |] ->
        let train model batch =
            let step, run, _ = begun device model algorithm (int k) batch
            use _ = run

            for _ in 1 .. 2 * int k do
                step ()

        // a small model first: compiled code and pools of the runtime are not tensors
        train "growth" "16x32"
        let peak = Memory.measure (fun () -> train model batch)
        printfn $"{JsonSerializer.Serialize peak}"
        0
    | _ -> invalidArg (nameof row) $"'{row}' is not model|batch|algorithm|k"

let median (values: float seq) : float =
    let sorted = Seq.sort values |> Array.ofSeq
    (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

/// Cosine of an option's hypergradient to that of the central difference on the whole batch in float32, at every fifth of
/// 50 steps of SAMA on labels that can be learned: the median.
let private cosine device model (algorithm: string) batch : Nullable<float> =
    if not (algorithm.StartsWith "sama(") then
        Nullable()
    else
        let model, rows = modelOf model algorithm batch
        let own = learnable model, rows
        let option = named algorithm

        let reference =
            problemOf
                device
                own
                { option with
                    Method = Hypergradient.sama
                    Options =
                        { option.Options with
                            Precision = Precision.Own } }
                1

        let optional = problemOf device own option 1
        use run = new BilevelRun(reference, 1L)

        let cosines =
            [ for _ in 1..10 do
                  for _ in 1..5 do
                      run.Step() |> ignore

                  use state = run.Snapshot()

                  Scope.run (fun _ ->
                      let truth, _, _ = (Hypergradient.compute reference state).Parts

                      let found =
                          if algorithm = concatenated then
                              Concatenated.hypergradient device rows (fst own) reference state
                          else
                              let h, _, _ = (Hypergradient.compute optional state).Parts
                              h

                      Number.read (truth.dot found / (truth.norm () * found.norm ()))) ]

        Nullable(median cosines)

/// All algorithms in turn, a window of K base steps and a meta step each, `rounds` times after one warm-up; the medians of
/// the ratios to K plain steps of the same round.
let private measured (device: torch.Device) model batch k algorithms rounds : Row list =
    let runs =
        [ for algorithm in "plain" :: algorithms -> begun device model algorithm k batch ]

    let synchronise () =
        if device.``type`` = DeviceType.CUDA then
            torch.cuda.synchronize ()

    let plain, _, _ = runs.Head

    // a plain step before each: no window pays for what the one before it left in caches and allocator
    let window step =
        plain ()
        synchronise ()
        let clock = Stopwatch.StartNew()

        for _ in 1..k do
            step ()

        synchronise ()
        clock.Elapsed.TotalSeconds

    let times =
        [ for round in 0..rounds do
              eprintf "\r%-60s" $"{model} {batch} K = {k}, round {round} of {rounds}"
              let seconds = [ for step, _, _ in runs -> window step ]

              if round > 0 then
                  seconds ]

    let _, _, parameters = runs.Head

    for _, run, _ in runs do
        run.Dispose()

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

/// By default the encoder at two batches; `full` adds the other algorithms, models and sizes. `only`: rows that
/// start so: model, batch, K.
let run (device: torch.Device) (full: bool) (only: string option) (path: string) : int =
    let usual = [ "sama"; "neumann(5)"; "conjugateGradient(5)" ]

    let byDifferences names =
        names @ [ for name in names -> $"{name} by differences" ]

    let cases =
        [ "encoder", "16x64", 1, usual, 9
          "encoder", "16x64", 10, usual, 3
          "encoder", "64x128", 1, usual, 3
          "encoder", "64x128", 10, usual, 1
          "products", "16x64", 1, byDifferences [ "neumann(5)"; "conjugateGradient(5)" ], 3
          "products", "16x64", 10, byDifferences [ "unrolled" ], 1
          "products", "64x128", 1, byDifferences [ "neumann(5)"; "conjugateGradient(5)" ], 1
          "products", "64x128", 10, byDifferences [ "unrolled" ], 1
          if full then
              "encoder", "16x64", 1, [ "samaNa"; "t1t2"; "sama(oneSided)"; concatenated; "sama(bfloat16)" ], 7

              "encoder", "16x64", 5, usual, 3
              "encoder", "16x64", 10, [ "unrolled"; "unrolled(recompute)" ], 2
              "encoder", "64x128", 1, [ "sama(microBatches=1of4)" ], 3
              "encoder", "64x128", 10, [ "unrolled(recompute)" ], 1
              "cnn", "64", 1, usual, 5
              "mlp", "64", 1, usual, 9

              for width, rounds in [ 64, 41; 224, 41; 704, 41; 2240, 15; 7072, 5 ] do
                  "growth", $"32x{width}", 1, [ "sama" ], rounds ]

    let rows = ResizeArray()

    let label (model, batch, k, _, _) = $"{model} {batch} K={k}"
    let words (text: string) = List.ofArray (text.Split ' ')

    let wanted case =
        only
        |> Option.forall (fun only -> List.truncate (words only).Length (words (label case)) = words only)

    let chosen = List.filter wanted cases

    if chosen.IsEmpty then
        let known = String.Join(", ", cases |> List.map label |> List.distinct)
        invalidArg (nameof only) $"no row starts with '{only.Value}'; there are: {known}"

    for model, batch, k, algorithms, rounds in chosen do
        let measured = measured device model batch k algorithms rounds
        rows.AddRange measured
        Rows.write path rows
        eprintf "\r%-60s\r" ""

        for r in measured do
            let megabytes = float r.PeakTensorBytes / 1e6

            printfn
                $"{r.Model, -8} {r.Batch, -7} {r.Algorithm, -22} K = {r.K, -3} {r.TimePerPlainStep, 6:F3} plain steps  {megabytes, 8:F1} MB  {r.SamplesPerSecond, 8:F1} samples/s"

    0
