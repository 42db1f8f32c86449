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

    override s.ToString() =
        $"{s.Steps} steps, rates {s.Rate} and {s.MetaRate}"

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

/// How tasks, by number, are used.
type Way =
    {
        Name: string
        /// trained on for as many steps before the end task
        Before: int list
        /// beside the end task
        Beside: int list
        /// what weighs their rows; none: all count alike
        Learner: DataLearner option
    }

let alone = "end task alone"
let equal = "all tasks, equal weights"

// a learner knows of a row its task, as the label, and its loss
let private byRow =
    ExampleWeights.FromFeatures(names.Length, features = (RowFeatures.Loss ||| RowFeatures.Label))

let ways: Way list =
    [ for name, before, beside, learner in
          [ alone, [], [], None
            "domain text, then the end task", [ 1 ], [], None
            "domain text beside, equal weights", [], [ 1 ], None
            equal, [], [ 1; 2; 3 ], None
            "all tasks, SAMA weighs tasks", [], [ 1; 2; 3 ], Some(ExampleWeights.PerSource names.Length)
            "all tasks, SAMA weighs rows", [], [ 1; 2; 3 ], Some byRow ] ->
          { Name = name
            Before = before
            Beside = beside
            Learner = learner } ]

/// Heads on the last layer's states: classes from their mean, words by the table of words.
let private heads (world: World) (seed: int) : (string * Tensor) list =
    use generator = new torch.Generator(uint64 seed)
    let hidden = world.Encoder.Config.HiddenSize

    let linear name (outputs: int64) =
        [ name + ".weight", torch.randn ([| outputs; hidden |], generator = generator) * 0.02
          name + ".bias", torch.zeros outputs ]

    linear "class" world.Classes
    @ linear "order" 2L
    @ [ "masked.weight", torch.eye hidden
        "masked.bias", torch.zeros world.Words.shape[0] ]

/// The last layer's states, and logits of a head that reads their mean.
let private read (world: World) training (theta: Params) (head: string) (batch: TokenBatch, states, _) =
    let h = world.Encoder.LastHiddenStateFrom(theta, batch, states, world.Frozen, training)
    let mask = batch.AttentionMask.to_type(h.dtype).unsqueeze -1L

    h,
    fun () ->
        torch.nn.functional.linear ((h * mask).sum 1L / mask.sum 1L, theta[head + ".weight"], theta[head + ".bias"])

/// Losses by row, of each task in units of what guessing evenly costs: [rows].
let private losses (world: World) training (theta: Params) (task: Task) ((_, _, answers) as rows: Rows) : Tensor =
    let h, logits = read world training theta task.Head rows

    let word (picked: Tensor) =
        let turned = torch.nn.functional.linear (picked, theta["masked.weight"])
        torch.nn.functional.linear (torch.nn.functional.layer_norm (turned, [| h.shape[2] |]), world.Words, theta["masked.bias"])

    if task.Head = "masked" then
        MaskedWords.Losses(h, answers, word) / log (float world.Words.shape[0])
    else
        let logits = logits ()

        torch.nn.functional.cross_entropy (logits, answers, reduction = torch.nn.Reduction.None)
        / log (float logits.shape[1])

/// Macro-F1 on a split.
let private judge (world: World) (theta: Params) (split: string) : float =
    let task = world.Judged[split]
    use _ = torch.no_grad ()
    use _ = torch.NewDisposeScope()
    let (_, _, answers) as rows = task.Rows.Take [| 0L .. task.Rows.Count - 1L |]
    let found = (snd (read world false theta task.Head rows) ()).argmax 1L
    let ints (x: Tensor) = x.data<int64>().ToArray() |> Array.map int
    Accuracy.MacroF1(ints found, ints answers)

/// θ behind the steps, from `start`, and the weights that the learner gave at each step, if there is one.
let private train token watch (world: World) settings (seed: int) start (used: int list) (learner: DataLearner option) =
    let tasks = [ for number in used -> world.Tasks[number] ]
    let sizes = [| for number in used -> if number = 0 then batch else batch / 4 |]
    let numbers = Seq.zip sizes used |> Seq.collect (fun (size, number) -> Seq.replicate size number) |> Array.ofSeq
    let sources = [ for size, task in Seq.zip sizes tasks -> Batches.shuffled task.Rows size ]

    // a row a task, whose label and source it is; the end task's own rows are known to be worth 1: were their weight learned
    // too, it would rise at the others' cost, since weights are relative to their batch
    use table =
        new RowTable(
            names.Length,
            [| 0 .. names.Length - 1 |],
            known = Array.init names.Length ((=) 0),
            sources = [| 0 .. names.Length - 1 |]
        )

    let seen = ResizeArray<float[]>()

    let loss (pass: Pass) (theta: Params) (lambda: Params) batches =
        let losses = torch.cat [| for task, rows in List.zip tasks batches -> losses world true theta task rows |]

        match learner with
        | None -> losses.mean ()
        | Some learner ->
            let rows = table.At numbers
            let opinion = -(pass.Stop("losses", losses)).unsqueeze 1L * rows.Given
            let weights = learner.Weights(lambda, rows, opinion)

            if pass.Kind = PassKind.Base then
                seen.Add
                    [| for own in weights.detach().split (Array.map int64 sizes) ->
                           Math.Round(float (own.mean().item<float32> ()), 3) |]

            (weights * losses).mean ()

    let levels =
        [ Level.create
              "encoder and heads"
              start
              (adam settings.Rate |> UpdateRule.scheduled (Schedule.linear 1.0 0.0 settings.Steps))
              (fun draw -> [ for next in sources -> next draw ])
              loss
          match learner with
          | Some learner ->
              let meta = world.Judged["meta"]

              learner.Level(
                  adam settings.MetaRate,
                  Batches.shuffled meta.Rows (min batch (int meta.Rows.Count)),
                  (fun _ theta rows -> (losses world false theta meta rows).mean ()),
                  int64 seed
              )
          | None -> () ]

    use run =
        new BilevelRun(
            Problem.create { BilevelOptions.Default with Unroll = 4 } Hypergradient.sama levels,
            int64 seed
        )

    for step in 1 .. settings.Steps do
        (token: CancellationToken).ThrowIfCancellationRequested()
        run.Step() |> ignore
        (watch: Action<float>).Invoke(float step / float settings.Steps)

    [ for slice in run.Theta.Layout.Slices -> slice.Name, run.Theta[slice.Name].detach().clone () ], seen.ToArray()

let run token watch (world: World) (settings: Settings) (seed: int) (way: Way) : Row =
    use _ = torch.NewDisposeScope()
    let usage = Usage()

    let start =
        [ for struct (name, value) in world.Encoder.Parameters -> name, value ]
        @ heads world seed

    let start =
        if way.Before.IsEmpty then
            start
        else
            fst (train token watch world settings seed start way.Before None)

    let found, weights =
        train token watch world settings seed start (0 :: way.Beside) way.Learner

    let theta = Params.frozen (Layout.ofNamed found) (Layout.ravel found)

    { Way = way.Name
      Seed = seed
      HeldOut = judge world theta "held-out"
      Test = judge world theta "test"
      Weights = weights
      Seconds = usage.Seconds
      PeakMegabytes = usage.PeakMegabytes }
