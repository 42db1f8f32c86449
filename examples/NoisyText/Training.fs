/// The methods that are compared: each trains once, and keeps the epoch that did best on the held-out rows.
module NoisyText.Training

open System
open TorchSharp
open Sama
open Sama.Functional
open NoisyText.Text
open NoisyText.Model

type Hyperparameters =
    {
        Epochs: int
        Batch: int
        /// of clean rows, for a meta step
        MetaBatch: int
        Rate: float
        /// of the fine-tuning on clean rows
        TuningRate: float
        MetaRate: float
        Alpha: float
    }

/// Base loss and held-out accuracy of one epoch.
type Epoch = { Loss: float; HeldOut: float }

/// Named parameters of the kept epoch, its held-out accuracy, and every epoch's.
type Trained =
    { Theta: (string * Tensor) list
      Lambda: (string * Tensor) list
      HeldOut: float
      Curve: Epoch list }

/// Copies that outlive the scope they are made in.
let private named (p: Params) =
    [ for slice in p.Layout.Slices -> slice.Name, Scope.detach (p[slice.Name].clone ()) ]

let private asParams (named: (string * Tensor) list) =
    Params.frozen (Layout.ofNamed named) (Layout.ravel named)

let private rightRows (theta: Params) (rows: Examples) : bool[] =
    use _ = torch.no_grad ()

    [| for chunk in chunks rows do
           yield!
               Scope.run (fun _ -> (read false theta chunk.Ids).Log.argmax(1L).eq(chunk.Labels).data<bool>().ToArray()) |]

/// Which rows the kept classifier gets right.
let right (trained: Trained) (rows: Examples) : bool[] =
    Scope.run (fun _ -> rightRows (asParams trained.Theta) rows)

let share (right: bool[]) : float =
    right |> Array.averageBy (fun right -> if right then 1.0 else 0.0)

/// Trains, evaluates and keeps the running average of θ over about the last 100 steps (Polyak and Juditsky, 1992).
let private epochs hyper seed (steps: int) heldOut progress problem =
    use run = new BilevelRun(problem, (seed: int64))
    let layout = run.Theta.Layout
    use average = Scope.detach (run.Theta.Vector.clone ())

    let follow () =
        let steps = float run.StepsTaken
        let kept = min 0.99 (steps / (10.0 + steps))

        average.mul_(Scalar.op_Implicit kept).add_ (run.Theta.Vector, Scalar.op_Implicit (1.0 - kept))
        |> ignore

    let mutable kept: Trained option = None
    let curve = ResizeArray()

    for epoch in 1 .. hyper.Epochs do
        let mutable loss = 0.0

        for _ in 1..steps do
            loss <- loss + run.Step().BaseLoss / float steps
            follow ()

        Scope.run (fun _ ->
            let theta = Params.frozen layout average
            let reached = share (rightRows theta heldOut)
            progress $"epoch {epoch}/{hyper.Epochs}  loss {loss:F3}  held-out {reached:F3}"
            curve.Add { Loss = loss; HeldOut = reached }

            if kept.IsNone || reached > kept.Value.HeldOut then
                kept <-
                    Some
                        { Theta = named theta
                          Lambda = named run.Lambda
                          HeldOut = reached
                          Curve = [] })

    { kept.Value with
        Curve = List.ofSeq curve }

let private meanLoss training theta (rows: Examples) =
    (crossEntropy rows.OneHot (read training theta rows.Ids).Log).mean ()

/// Steps of an epoch.
let stepsOf hyper (rows: Examples) : int = max 1 (rows.Count / hyper.Batch)

/// Plain training, `steps` an epoch: the meta level is a constant that never takes a step.
let plain hyper rate seed start steps (rows: Examples) heldOut progress : Trained =
    Problem.create
        { BilevelOptions.Default with
            WarmUp = Int64.MaxValue }
        Hypergradient.samaNa
        [ Level.create "classifier" start (adam rate) (batch hyper.Batch rows) (fun _ theta _ rows ->
              meanLoss true theta rows)
          Level.create "unused" [ "constant", torch.zeros 1L ] (sgd 0.0) ignore (fun _ _ lambda () ->
              lambda["constant"].sum ()) ]
    |> epochs hyper seed steps heldOut progress

/// Training on weak labels by `loss λ reading (stopped) prediction rows`, whose λ is learned by SAMA from the loss
/// on clean rows.
let bySama hyper loss seed start learner (weak: Examples) (meta: Examples) heldOut progress : Trained =
    let baseLoss (pass: Pass) theta lambda (rows: Examples) =
        let read = read true theta rows.Ids

        let stopped =
            { Features = pass.Stop("features", read.Features)
              Log = pass.Stop("prediction", read.Log) }

        loss lambda stopped read.Log rows

    let method =
        Hypergradient.samaWith
            { SamaOptions.Default with
                Alpha = Nullable hyper.Alpha }

    Problem.create
        BilevelOptions.Default
        method
        [ Level.create "classifier" start (adam hyper.Rate) (batch hyper.Batch weak) baseLoss
          Level.create "metaLearner" learner (adam hyper.MetaRate) (batch hyper.MetaBatch meta) (fun _ theta _ rows ->
              meanLoss false theta rows) ]
    |> epochs hyper seed (stepsOf hyper weak) heldOut progress

/// The learned weight of every weakly labelled row, relative to the mean logit.
let weights (trained: Trained) (weak: Examples) : float[] =
    Scope.run (fun _ ->
        use _ = torch.no_grad ()
        let theta, lambda = asParams trained.Theta, asParams trained.Lambda

        let logits =
            torch.cat [| for rows in chunks weak -> weightLogit lambda (read false theta rows.Ids) rows |]

        (torch.sigmoid (logits - logits.mean ())).to_type(torch.float64).data<float>().ToArray())
