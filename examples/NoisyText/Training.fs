/// The methods that are compared: each trains once, and keeps the epoch that did best on the held-out rows.
module NoisyText.Training

open System
open TorchSharp
open Sama
open Sama.Functional
open NoisyText.Model

type Hyperparameters =
    { Epochs: int
      Batch: int64
      Rate: float
      TuningRate: float
      MetaRate: float
      Alpha: float }

/// Named parameters of the kept epoch, and its held-out accuracy.
type Trained =
    { Theta: (string * Tensor) list
      Lambda: (string * Tensor) list
      HeldOut: float }

/// Copies that outlive the scope they are made in.
let private named (p: Params) =
    [ for slice in p.Layout.Slices -> slice.Name, Scope.detach (p[slice.Name].clone ()) ]

let private asParams (named: (string * Tensor) list) =
    Params.frozen (Layout.ofNamed named) (Layout.ravel named)

let accuracy (theta: Params) (rows: Examples) : float =
    Scope.run (fun _ ->
        use _ = torch.no_grad ()
        let right = (logits false theta rows.Ids).argmax(1L).eq rows.Labels
        right.to_type(torch.float64).mean().item<float> ())

let accuracyOf trained rows =
    Scope.run (fun _ -> accuracy (asParams trained.Theta) rows)

/// `Batch` rows, with replacement, fixed by the draw.
let private batches hyper (rows: Examples) (draw: Draw) =
    use generator = new torch.Generator(uint64 draw.RandomSeed)
    at (torch.randint (rows.Labels.shape[0], [| hyper.Batch |], dtype = torch.int64, generator = generator)) rows

let private epochs hyper seed (steps: int) heldOut progress problem =
    use run =
        let start = Bilevel.start seed problem
        let run = new BilevelRun(problem, start)
        RunState.dispose start
        run

    let mutable kept: Trained option = None

    for epoch in 1 .. hyper.Epochs do
        let mutable loss = 0.0

        for _ in 1..steps do
            loss <- loss + run.Step().BaseLoss / float steps

        Scope.run (fun _ ->
            let reached = accuracy run.Theta heldOut
            progress $"epoch {epoch}/{hyper.Epochs}  loss {loss:F3}  held-out {reached:F3}"

            if kept.IsNone || reached > kept.Value.HeldOut then
                kept <-
                    Some
                        { Theta = named run.Theta
                          Lambda = named run.Lambda
                          HeldOut = reached })

    kept.Value

let private meanLoss theta (batch: Examples) =
    torch.nn.functional.cross_entropy (logits true theta batch.Ids, batch.Labels)

/// Steps of an epoch.
let stepsOf hyper (rows: Examples) : int =
    max 1 (int (rows.Labels.shape[0] / hyper.Batch))

/// Plain training, `steps` an epoch: the meta level is a constant that never takes a step.
let plain hyper rate seed start steps (rows: Examples) heldOut progress : Trained =
    Problem.create
        { BilevelOptions.Default with
            WarmUp = Int64.MaxValue }
        Hypergradient.samaNa
        [ Level.create "classifier" start (adam rate) (batches hyper rows) (fun _ theta _ batch -> meanLoss theta batch)
          Level.create "unused" [ "constant", torch.zeros 1L ] (sgd 0.0) ignore (fun _ _ lambda () ->
              lambda["constant"].sum ()) ]
    |> epochs hyper seed steps heldOut progress

/// Training on weak labels that the meta learner weighs, and with `correct` mixes with the model's own prediction.
let bySama hyper correct seed start learner (weak: Examples) (meta: Examples) heldOut progress : Trained =
    let steps = stepsOf hyper weak

    let baseLoss (pass: Pass) theta lambda (batch: Examples) =
        let logits = logits true theta batch.Ids
        let onWeak, entropy, log = lossAndEntropy logits batch.Labels
        let features = pass.Stop("features", torch.stack ([| onWeak; entropy |], 1L))
        let weight, mix = judge lambda features batch.Clues

        let loss =
            if correct then
                let prediction = pass.Stop("prediction", log.exp ())
                let onPrediction = -(prediction * log).sum 1L
                onWeak + mix * (onPrediction - onWeak)
            else
                onWeak

        (weight * loss).mean ()

    let method =
        Hypergradient.samaWith
            { SamaOptions.Default with
                Alpha = Nullable hyper.Alpha }

    Problem.create
        BilevelOptions.Default
        method
        [ Level.create "classifier" start (adam hyper.Rate) (batches hyper weak) baseLoss
          Level.create "metaLearner" learner (adam hyper.MetaRate) (batches hyper meta) (fun _ theta _ batch ->
              meanLoss theta batch) ]
    |> epochs hyper seed steps heldOut progress

/// The learned weight of every weakly labelled row.
let weights (trained: Trained) (weak: Examples) : float[] =
    Scope.run (fun _ ->
        use _ = torch.no_grad ()

        let loss, entropy, _ =
            lossAndEntropy (logits false (asParams trained.Theta) weak.Ids) weak.Labels

        let features = torch.stack ([| loss; entropy |], 1L)
        let weight, _ = judge (asParams trained.Lambda) features weak.Clues
        weight.to_type(torch.float64).data<float>().ToArray())

/// Probability that a right label outweighs a wrong one, ties counted half.
let auroc (weights: float[]) (right: bool[]) : float =
    let sorted = Array.zip weights right |> Array.sortBy fst
    let positives = right |> Array.filter id |> Array.length |> float
    let negatives = float right.Length - positives

    let _, won =
        sorted
        |> Array.groupBy fst
        |> Array.fold
            (fun (below, won) (_, tied) ->
                let up = tied |> Array.filter snd |> Array.length |> float
                let down = float tied.Length - up
                below + down, won + up * (below + down / 2.0))
            (0.0, 0.0)

    won / (positives * negatives)
