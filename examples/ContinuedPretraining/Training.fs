/// One training by one way of using the auxiliary tasks.
module ContinuedPretraining.Training

open System
open System.Threading
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.Language
open ContinuedPretraining.Tasks

[<NoComparison>]
type Settings =
    { Steps: int
      Rate: float
      MetaRate: float }

/// Rows of the end task a step; of each auxiliary task a quarter.
let private batch = 16

/// What one training reached.
type Row =
    {
        Way: string
        Seed: int
        /// macro-F1 of training rows that were left out, and of the test rows
        HeldOut: float
        Test: float
        /// mean weight of each task's rows, the end task's first: [step][task]; empty where none is learned
        Weights: float[][]
        Seconds: float
        PeakMegabytes: int64
    }

let alone = "end task alone"
let equal = "all tasks, equal weights"

/// Names; tasks that are trained on for as many steps before the end task; tasks beside it; what weighs their rows, which
/// knows of a row its task, as label and source, and its loss.
let ways: (string * int list * int list * DataLearner option) list =
    let byRow =
        ExampleWeights.FromFeatures(names.Length, features = (RowFeatures.Loss ||| RowFeatures.Label))

    [ alone, [], [], None
      "domain text, then the end task", [ 1 ], [], None
      "domain text beside, equal weights", [], [ 1 ], None
      equal, [], [ 1; 2; 3 ], None
      "all tasks, SAMA weighs tasks", [], [ 1; 2; 3 ], Some(ExampleWeights.PerSource names.Length)
      "all tasks, SAMA weighs rows", [], [ 1; 2; 3 ], Some byRow ]

/// Heads on the last layer's states: classes from their mean, words by the table of words.
let private heads (world: World) (seed: int) : (string * Tensor) list =
    use generator = new torch.Generator(uint64 seed)
    let hidden = world.Encoder.Config.HiddenSize

    [ for head, _ in world.Tasks do
          match head with
          | Classes(name, count) ->
              name + ".weight", torch.randn ([| int64 count; hidden |], generator = generator) * 0.02
              name + ".bias", torch.zeros (int64 count)
          | Words -> ()
      "words.weight", torch.eye hidden
      "words.bias", torch.zeros world.Words.shape[0] ]

let private linear (theta: Params) name (x: Tensor) =
    torch.nn.functional.linear (x, theta[name + ".weight"], theta[name + ".bias"])

let private states (world: World) training theta (batch: TokenBatch, states, _) : Tensor =
    world.Encoder.LastHiddenStateFrom(theta, batch, states, world.Frozen, training)

let private classes (world: World) training theta name ((batch: TokenBatch, _, _) as rows: Rows) : Tensor =
    let h = states world training theta rows
    let mask = batch.AttentionMask.to_type(h.dtype).unsqueeze -1L
    linear theta name ((h * mask).sum 1L / mask.sum 1L)

/// Losses by row, of each task in units of what guessing evenly costs: [rows].
let private losses (world: World) training theta head ((_, _, answers) as rows: Rows) : Tensor =
    match head with
    | Classes(name, count) ->
        let logits = classes world training theta name rows

        torch.nn.functional.cross_entropy (logits, answers, reduction = torch.nn.Reduction.None)
        / log (float count)
    | Words ->
        let logits (h: Tensor) =
            let turned = torch.nn.functional.linear (h, theta["words.weight"])
            let even = torch.nn.functional.layer_norm (turned, [| h.shape[1] |])
            torch.nn.functional.linear (even, world.Words, theta["words.bias"])

        MaskedWords.Losses(states world training theta rows, answers, logits)
        / log (float world.Words.shape[0])

/// Macro-F1 of the end task.
let private judge (world: World) (theta: Params) (source: RowSource<Rows>) : float =
    use _ = torch.no_grad ()
    use _ = torch.NewDisposeScope()
    let (_, _, answers) as rows = source.Take [| 0L .. source.Count - 1L |]
    let found = (classes world false theta "class" rows).argmax 1L

    let ints (x: Tensor) =
        x.data<int64>().ToArray() |> Array.map int

    Accuracy.MacroF1(ints found, ints answers)

/// θ behind the steps, from `start`, and the weights that the learner gave at each step, if there is one.
let private train token watch (world: World) settings (seed: int) start (used: int list) (learner: DataLearner option) =
    let tasks =
        [ for number in used ->
              let head, rows = world.Tasks[number]
              let size = if number = 0 then batch else batch / 4
              head, Array.replicate size number, Batches.shuffled rows size ]

    // a row a task, whose label and source it is; the end task's own rows are known to be worth 1: were their weight learned
    // too, it would rise at the others' cost, since weights are relative to their batch
    let all = [| 0 .. names.Length - 1 |]

    use table =
        new RowTable(names.Length, all, known = Array.map ((=) 0) all, sources = all)

    let seen = ResizeArray<float[]>()

    let loss (pass: Pass) (theta: Params) (lambda: Params) batches =
        let losses =
            torch.cat [| for (head, _, _), rows in List.zip tasks batches -> losses world true theta head rows |]

        match learner with
        | None -> losses.mean ()
        | Some learner ->
            let rows =
                table.At
                    [| for _, numbers, _ in tasks do
                           yield! numbers |]

            if pass.Kind = PassKind.Base then
                let weights = learner.WeightsByLosses(lambda, rows, losses.detach ()).detach ()
                let byTask = weights.split [| for _, numbers, _ in tasks -> int64 numbers.Length |]
                seen.Add [| for own in byTask -> Math.Round(float (own.mean().item<float32> ()), 3) |]

            learner.WeighedLoss(pass, lambda, rows, losses)

    let rule =
        adam settings.Rate
        |> UpdateRule.scheduled (Schedule.linear 1.0 0.0 settings.Steps)

    let weights (learner: DataLearner) =
        learner.Level(
            adam settings.MetaRate,
            Batches.shuffled world.Dev (min batch (int world.Dev.Count)),
            (fun _ theta rows -> (losses world false theta (fst world.Tasks[0]) rows).mean ()),
            int64 seed
        )

    let levels =
        Level.create "encoder and heads" start rule (fun draw -> [ for _, _, next in tasks -> next draw ]) loss
        :: List.map weights (Option.toList learner)

    use run =
        new BilevelRun(
            Problem.create
                { BilevelOptions.Default with
                    Unroll = 4 }
                Hypergradient.sama
                levels,
            int64 seed
        )

    for step in 1 .. settings.Steps do
        (token: CancellationToken).ThrowIfCancellationRequested()
        run.Step() |> ignore
        (watch: Action<float>).Invoke(float step / float settings.Steps)

    [ for slice in run.Theta.Layout.Slices -> slice.Name, run.Theta[slice.Name].detach().clone () ], seen.ToArray()

let run token watch (world: World) (settings: Settings) (seed: int) (way, before, beside, learner) : Row =
    use _ = torch.NewDisposeScope()
    let usage = Usage()

    let start =
        [ for struct (name, value) in world.Encoder.Parameters -> name, value ]
        @ heads world seed

    let start =
        if List.isEmpty before then
            start
        else
            fst (train token watch world settings seed start before None)

    let found, weights =
        train token watch world settings seed start (0 :: beside) learner

    let theta = Params.frozen (Layout.ofNamed found) (Layout.ravel found)

    { Way = way
      Seed = seed
      HeldOut = judge world theta world.LeftOut
      Test = judge world theta world.Test
      Weights = weights
      Seconds = usage.Seconds
      PeakMegabytes = usage.PeakMegabytes }
