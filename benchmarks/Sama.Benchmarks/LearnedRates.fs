/// A learned rate against the best of a grid of fixed ones, started ten times too small and ten times too large, in one run.
module Sama.Benchmarks.LearnedRates

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference

type Row =
    {
        Problem: string
        /// fixed, or the learned one's start
        Rate: float
        Learned: bool
        /// the rate at the end
        Final: float
        /// the loss at the end: P2's own, MNIST's over the held-out rows
        Loss: float
        /// share of held-out rows that are right; NaN for P2
        Accuracy: float
    }

/// A training: its base level under a rule, what the rate is learned on, steps, and what is measured at the end.
[<NoComparison; NoEquality>]
type private Task =
    { Name: string
      Steps: int
      Base: UpdateRule -> Level
      MetaLoss: Draw -> Params -> Tensor
      Measure: Params -> float * float }

let private learnRate (start: float) =
    sgd start
    |> UpdateRule.learning "LearningRate" (fun lambda -> lambda["log"].exp () * start)

let private train (task: Task) (rate: float) (learned: bool) : Row =
    let rule = if learned then learnRate rate else sgd rate

    let options =
        { BilevelOptions.Default with
            WarmUp = if learned then 0L else Int64.MaxValue }

    let problem =
        Problem.create
            options
            Hypergradient.sama
            [ task.Base rule
              Level.general
                  "rate"
                  [ "log", torch.zeros (1L, dtype = torch.float64) ]
                  (adam 0.1)
                  id
                  (fun _ levels draw -> task.MetaLoss draw levels["base"]) ]

    use run = new BilevelRun(problem, 1L)

    let loss, accuracy =
        try
            for _ in 1 .. task.Steps do
                run.Step() |> ignore

            use _ = torch.no_grad ()
            use _ = torch.NewDisposeScope()
            task.Measure run.Theta
        with :? NonFiniteException ->
            infinity, nan

    use log = run.Lambda["log"].exp ()

    { Problem = task.Name
      Rate = rate
      Learned = learned
      Final = (if learned then rate * log.item<float> () else rate)
      Loss = loss
      Accuracy = accuracy }

/// P2 at its first λ: 1024 samples, 100 parameters, 100 steps from 0.
let private quadratic () : Task =
    let losses = Suite.quadratic (Quadratic.draw 0 1024 100 100)
    let lambda = torch.full (100L, -2.0, dtype = torch.float64)
    let loss (theta: Params) = losses.Base theta["z"] lambda

    { Name = "P2"
      Steps = 100
      Base =
        fun rule ->
            Level.general "base" [ "z", torch.zeros (100L, dtype = torch.float64) ] rule ignore (fun _ levels () ->
                loss levels["base"])
      MetaLoss = fun _ theta -> loss theta
      Measure = fun theta -> (loss theta).item<float> (), nan }

/// 10,000 rows of MNIST, a net of 64 hidden units, 1,000 steps of 100 rows; the rate is learned on other training batches.
let private digits (folder: string) : Task =
    let all = Digits.read folder "train"
    let x, y = all |> Digits.take [ 0L .. 9999L ]
    let heldX, heldY = all |> Digits.take [ 10000L .. 11999L ]

    let pick (draw: Draw) =
        use generator = new torch.Generator(uint64 draw.RandomSeed)

        let rows =
            torch.randint (10000L, [| 100L |], dtype = torch.int64, generator = generator)

        x.index_select (0L, rows), y.index_select (0L, rows)

    let logits (theta: Params) (x: Tensor) =
        let h =
            torch.nn.functional.relu (torch.nn.functional.linear (x, theta["W1"], theta["b1"]))

        torch.nn.functional.linear (h, theta["W2"], theta["b2"])

    let loss theta (x: Tensor, y: Tensor) =
        torch.nn.functional.cross_entropy (logits theta x, y)

    let start () =
        use generator = new torch.Generator 3UL

        let normal (scale: float) (shape: int64[]) =
            torch.randn (shape, generator = generator) * scale

        [ "W1", normal 0.05 [| 64L; 784L |]
          "b1", torch.zeros 64L
          "W2", normal 0.1 [| 10L; 64L |]
          "b2", torch.zeros 10L ]

    { Name = "MNIST"
      Steps = 1000
      Base = fun rule -> Level.general "base" (start ()) rule pick (fun _ levels rows -> loss levels["base"] rows)
      MetaLoss = fun draw theta -> loss theta (pick draw)
      Measure =
        fun theta ->
            let right = (logits theta heldX).argmax(1L).eq heldY
            (loss theta (heldX, heldY)).item<float32> () |> float, right.to_type(torch.float64).mean().item<float> () }

let private measure (task: Task) (lowest: float) (highest: float) : Row list =
    let grid =
        [ for i in 0..19 -> train task (lowest * (highest / lowest) ** (float i / 19.0)) false ]

    let best = grid |> List.minBy _.Loss
    grid @ [ for by in [ 0.1; 10.0 ] -> train task (best.Rate * by) true ]

/// The quadratic always, the digits where their folder is given.
let run (folder: string option) (write: Row list -> unit) : int =
    let rows =
        [ yield! measure (quadratic ()) 0.05 5.0
          match folder with
          | Some folder -> yield! measure (digits folder) 0.01 3.0
          | None -> () ]

    write rows
    printfn "| problem | rate | start | end | loss | accuracy | loss beside the best of the grid |"
    printfn "|---|---|---|---|---|---|---|"

    for name, own in rows |> List.groupBy _.Problem do
        let best = own |> List.filter (fun r -> not r.Learned) |> List.minBy _.Loss

        for r in own |> List.filter (fun r -> r.Learned || r.Rate = best.Rate) do
            let kind = if r.Learned then "learned" else "best of 20"
            let beside = (r.Loss - best.Loss) / abs best.Loss
            printfn $"| {name} | {kind} | {r.Rate:G3} | {r.Final:G3} | {r.Loss:G5} | {r.Accuracy:F4} | {beside:P2} |"

    0
