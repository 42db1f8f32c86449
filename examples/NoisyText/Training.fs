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
               Scope.run (fun _ ->
                   (read false theta chunk.Ids).argmax(1L).eq(chunk.Labels).cpu().data<bool>().ToArray()) |]

/// Which rows the kept classifier gets right.
let right (trained: Trained) (rows: Examples) : bool[] =
    Scope.run (fun _ -> rightRows (asParams trained.Theta) rows)

let share (right: bool[]) : float =
    right |> Array.averageBy (fun right -> if right then 1.0 else 0.0)

/// Trains, evaluates and keeps the running averages of θ and λ over about the last 100 steps (Polyak and Juditsky,
/// 1992). `problem` is given that of θ, which moves along.
let private epochs
    hyper
    seed
    (steps: int)
    heldOut
    progress
    (start: (string * Tensor) list)
    (problem: Params -> BilevelProblem)
    =
    let theta = asParams [ for name, value in start -> name, value.clone () ]
    use run = new BilevelRun(problem theta, (seed: int64))
    let lambda = Params.frozen run.Lambda.Layout (run.Lambda.Vector.clone ())

    let follow () =
        let steps = float run.StepsTaken
        let kept = min 0.99 (steps / (10.0 + steps))

        for average, latest in [ theta, run.Theta; lambda, run.Lambda ] do
            average.Vector.mul_(Scalar.op_Implicit kept).add_ (latest.Vector, Scalar.op_Implicit (1.0 - kept))
            |> ignore

    let mutable kept: Trained option = None
    let curve = ResizeArray()

    for epoch in 1 .. hyper.Epochs do
        let mutable loss = 0.0

        for _ in 1..steps do
            loss <- loss + run.Step().BaseLoss / float steps
            follow ()

        Scope.run (fun _ ->
            let reached = share (rightRows theta heldOut)
            progress $"epoch {epoch}/{hyper.Epochs}  loss {loss:F3}  held-out {reached:F3}"
            curve.Add { Loss = loss; HeldOut = reached }

            if kept.IsNone || reached > kept.Value.HeldOut then
                kept <-
                    Some
                        { Theta = named theta
                          Lambda = named lambda
                          HeldOut = reached
                          Curve = [] })

    { kept.Value with
        Curve = List.ofSeq curve }

let private meanLoss training theta (rows: Examples) =
    (crossEntropy rows.OneHot (read training theta rows.Ids)).mean ()

/// Steps of an epoch.
let stepsOf hyper (rows: Examples) : int = max 1 (rows.Count / hyper.Batch)

/// Plain training, `steps` an epoch: the meta level is a constant that never takes a step.
let plain hyper rate seed start steps (rows: Examples) heldOut progress : Trained =
    epochs hyper seed steps heldOut progress start (fun _ ->
        Problem.create
            { BilevelOptions.Default with
                WarmUp = Int64.MaxValue }
            Hypergradient.samaNa
            [ Level.create "classifier" start (adam rate) (batch hyper.Batch rows) (fun _ theta _ rows ->
                  meanLoss true theta rows)
              Level.create
                  "unused"
                  [ "constant", torch.zeros (1L, device = rows.Ids.device) ]
                  (sgd 0.0)
                  ignore
                  (fun _ _ lambda () -> lambda["constant"].sum ()) ])

/// Training on weak labels by `loss λ teacher prediction rows`, whose λ is learned by SAMA from the loss on clean rows.
/// The teacher, from which λ takes what depends on the prediction, is the averaged classifier (Tarvainen and Valpola,
/// 2017): calmer than the one in training, and a constant in a step, so that it needs no `pass.Stop`.
let bySama hyper loss seed start learner (weak: Examples) (meta: Examples) heldOut progress : Trained =
    let method =
        Hypergradient.samaWith
            { SamaOptions.Default with
                Alpha = Nullable hyper.Alpha }

    epochs hyper seed (stepsOf hyper weak) heldOut progress start (fun average ->
        Problem.create
            BilevelOptions.Default
            method
            [ Level.create "classifier" start (adam hyper.Rate) (batch hyper.Batch weak) (fun _ theta lambda rows ->
                  loss lambda (read false average rows.Ids) (read true theta rows.Ids) rows)
              Level.create
                  "metaLearner"
                  learner
                  (adam hyper.MetaRate)
                  (batch hyper.MetaBatch meta)
                  (fun _ theta _ rows -> meanLoss false theta rows) ])

/// The learned weight of every weakly labelled row, relative to the mean logit.
let weights (trained: Trained) (weak: Examples) : float[] =
    Scope.run (fun _ ->
        use _ = torch.no_grad ()
        let theta, lambda = asParams trained.Theta, asParams trained.Lambda

        let logits =
            torch.cat [| for rows in chunks weak -> weightLogit lambda (read false theta rows.Ids) rows |]

        (torch.sigmoid (logits - logits.mean ())).to_type(torch.float64).cpu().data<float>().ToArray())
