/// `bench language --model FOLDER`: a training step of a pretrained encoder beside the same model of plain modules, SAMA and
/// adapters on it, time and memory.
module Sama.Benchmarks.Language.Bench

open System
open System.Diagnostics
open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language
open Sama.Benchmarks

type Row =
    { What: string
      Beside: string
      Ratio: float
      Seconds: float
      SecondsBeside: float
      Rounds: int
      PeakTensorBytes: int64
      PeakResidentBytes: int64 }

let private rows, private tokens, private labels = 32L, 24L, 6

/// Rows of real length, their labels, in the caller's scope; pads fill some of them, as batches of texts are.
let private data (config: EncoderConfig) (draw: Draw) : TokenBatch * Tensor =
    use generator = new torch.Generator(uint64 draw.RandomSeed)

    let ids =
        torch.randint (1000L, config.VocabularySize, [| rows; tokens |], dtype = torch.int64, generator = generator)

    let lengths =
        torch.randint (tokens / 2L, tokens + 1L, [| rows; 1L |], dtype = torch.int64, generator = generator)

    let mask = (torch.arange(tokens, dtype = torch.int64).unsqueeze 0L).lt lengths

    let ids =
        torch.where (mask, ids, torch.full_like (ids, Scalar.op_Implicit config.PadTokenId))

    let wanted =
        torch.randint (int64 labels, [| rows |], dtype = torch.int64, generator = generator)

    new TokenBatch(ids, mask.to_type torch.int64), wanted

let private problem (model: Encoder) (warmUp: int64) : BilevelProblem =
    let lambda =
        use generator = new torch.Generator 1UL

        [ "hidden", torch.randn (32L, 1L, generator = generator)
          "hiddenBias", torch.zeros 32L
          "out", torch.randn (1L, 32L, generator = generator) * 0.2 ]

    Problem.create
        { BilevelOptions.Default with
            WarmUp = warmUp }
        Hypergradient.sama
        [ Level.create
              "encoder"
              [ for struct (name, value) in model.Parameters -> name, value ]
              (adam 1e-5)
              (data model.Config)
              (fun pass theta lambda (batch, wanted) ->
                  let losses = model.Losses(theta, batch, wanted, true)
                  (Models.weights lambda (pass.Stop("losses", losses)) * losses).mean ())
          Level.create "weights" lambda (adam 1e-3) (data model.Config) (fun _ theta _ (batch, wanted) ->
              model.Loss(theta, batch, wanted, true)) ]

/// A way of stepping, and what ends it.
type private Stepper = (unit -> unit) * IDisposable

let private samaRun (model: Encoder) (warmUp: int64) : Stepper =
    let run = new BilevelRun(problem model warmUp, 1L)
    (run.Step >> ignore), run

/// A plain step through the library: the leaves' backward and the rule's in-place step.
let private libraryStep (model: Encoder) : Stepper = samaRun model Int64.MaxValue

let private maskOf (batch: TokenBatch) : Tensor =
    torch
        .zeros_like(batch.AttentionMask, dtype = torch.float32)
        .masked_fill(batch.AttentionMask.eq (Scalar.op_Implicit 0L), Scalar.op_Implicit Single.MinValue)
        .unsqueeze(1L)
        .unsqueeze
        1L

/// The loop of a PyTorch user over modules and an optimizer.
let private moduleStep (model: Encoder) : Stepper =
    let plain = PlainModules.Classifier.Of model
    plain.train ()
    let optimizer = torch.optim.Adam(plain.parameters (), 1e-5)
    let mutable step = 0L

    let body () =
        use _ = torch.NewDisposeScope()

        let batch, wanted =
            data
                model.Config
                { Seed = 1L
                  Step = step
                  Stream = 0
                  Rank = 0 }

        step <- step + 1L
        optimizer.zero_grad ()
        let logits = plain.call (batch.InputIds, batch.TokenTypeIds, maskOf batch)
        let loss = torch.nn.functional.cross_entropy (logits, wanted)
        loss.backward ()
        optimizer.step () |> ignore
        // a loop that watches its loss waits for it
        loss.item<float32> () |> ignore

    body,
    { new IDisposable with
        member _.Dispose() =
            optimizer.Dispose()
            plain.Dispose() }

/// Forward and backward alone, both ways, without an optimizer's step.
let private libraryPass (model: Encoder) : Stepper =
    let gradient = Scope.detach (torch.zeros_like model.Initial)
    let mutable step = 0L

    let body () =
        use _ = torch.NewDisposeScope()
        gradient.zero_ () |> ignore

        let batch, wanted =
            data
                model.Config
                { Seed = 1L
                  Step = step
                  Stream = 0
                  Rank = 0 }

        step <- step + 1L
        let theta = Params.leaves model.Layout model.Initial gradient
        Autodiff.backward (model.Loss(theta, batch, wanted, true)) theta.Views

    body, gradient

let private modulePass (model: Encoder) : Stepper =
    let plain = PlainModules.Classifier.Of model
    plain.train ()
    let mutable step = 0L

    let body () =
        use _ = torch.NewDisposeScope()

        let batch, wanted =
            data
                model.Config
                { Seed = 1L
                  Step = step
                  Stream = 0
                  Rank = 0 }

        step <- step + 1L
        plain.zero_grad ()
        let logits = plain.call (batch.InputIds, batch.TokenTypeIds, maskOf batch)
        (torch.nn.functional.cross_entropy (logits, wanted)).backward ()

    body, plain

let private load (folder: string) : Encoder =
    Encoder.Load(folder, labels = labels, resetHead = true)

let private withAdapters (model: Encoder) : Encoder = model.WithLora(LoraOptions(rank = 8))

/// What a row's name means: the model that it is begun on, and its steps.
let private steppers: (string * (Encoder -> Stepper)) list =
    [ "library step", libraryStep
      "module step", moduleStep
      "library forward and backward", libraryPass
      "module forward and backward", modulePass
      "sama K = 1", (fun model -> samaRun model 0L)
      "adapters step", withAdapters >> libraryStep
      "adapters sama K = 1", (fun model -> samaRun (withAdapters model) 0L) ]

let private stepperOf (name: string) =
    steppers |> List.find (fun (own, _) -> own = name) |> snd

/// The peak of a few steps, in a process of its own: `language|folder|name`.
let memory (row: string) : int =
    match row.Split '|' with
    | [| _; folder; name |] ->
        use model = load folder

        let train count =
            let step, ending = stepperOf name model
            use _ = ending

            for _ in 1..count do
                step ()

        // compiled code and pools of the runtime are not tensors
        train 1
        GC.Collect()
        GC.WaitForPendingFinalizers()
        let peak = Memory.measure (fun () -> train 3)
        printfn $"{JsonSerializer.Serialize peak}"
        0
    | _ -> invalidArg (nameof row) $"'{row}' is not language|folder|name"

/// Both in turn, each after the other as often, `rounds` times after warm-up: the median of the rounds' ratios.
let private interleaved (folder: string) (what: string) (beside: string) (rounds: int) : Row =
    use model = load folder
    let step, ending = stepperOf what model
    let other, otherEnding = stepperOf beside model
    use _ = ending
    use _ = otherEnding

    let timed (step: unit -> unit) =
        let clock = Stopwatch.StartNew()
        step ()
        clock.Elapsed.TotalSeconds

    for _ in 1..3 do
        step ()
        other ()

    let times =
        [ for round in 1..rounds do
              // who goes first changes: neither always pays for the other's caches
              if round % 2 = 0 then
                  let a = timed step
                  a, timed other
              else
                  let b = timed other
                  timed step, b ]

    let peak = Memory.inChild [ "language"; folder; what ]

    { What = what
      Beside = beside
      Ratio = Cost.median [ for a, b in times -> a / b ]
      Seconds = Cost.median (List.map fst times)
      SecondsBeside = Cost.median (List.map snd times)
      Rounds = rounds
      PeakTensorBytes = peak.PeakTensorBytes
      PeakResidentBytes = peak.PeakResidentBytes }

/// Largest difference of the two models' logits in evaluation: they are the same function.
let private difference (model: Encoder) : float =
    Scope.run (fun _ ->
        use _ = torch.no_grad ()
        use plain = PlainModules.Classifier.Of model
        plain.eval ()

        let batch, _ =
            data
                model.Config
                { Seed = 2L
                  Step = 0L
                  Stream = 0
                  Rank = 0 }

        let a = model.Logits(model.At(), batch)
        let b = plain.call (batch.InputIds, batch.TokenTypeIds, maskOf batch)
        Number.read ((a - b).abs().max ()))

/// The rows that start with `only` (all without), written and printed; 1 if the two models are not the same function.
let run (folder: string) (only: string option) (write: Row list -> unit) : int =
    use model = load folder
    let apart = difference model
    printfn $"{model.Layout.Length} parameters, {rows} x {tokens} tokens; logits differ by {apart:E1} from the modules'"

    let rows =
        [ for what, beside, rounds in
              [ "library step", "module step", 15
                "library forward and backward", "module forward and backward", 15
                "sama K = 1", "library step", 9
                "adapters step", "library step", 9
                "adapters sama K = 1", "adapters step", 9
                // for the memory of modules alone
                "module step", "library step", 3 ] do
              if only |> Option.forall what.StartsWith then
                  let row = interleaved folder what beside rounds

                  printfn
                      $"{row.What, -30} {row.Ratio, 6:F3} of {row.Beside, -28} {row.Seconds * 1e3, 7:F0} ms, {row.SecondsBeside * 1e3, 7:F0} ms; {float row.PeakTensorBytes / 1e6, 6:F0} MB of tensors"

                  row ]

    write rows
    if apart < 1e-4 then 0 else 1
