/// A learned rate against the best of a grid of fixed ones, started ten times too small and ten times too large.
module Sama.Benchmarks.LearnedRates

open System
open System.Diagnostics
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference

type Row =
    {
        Problem: string
        /// of the first parameters, and of the batches
        Seed: int
        /// "fixed", or how it is learned
        Way: string
        /// fixed, or the learned one's start
        Rate: float
        /// the rate at the end, before it is annealed
        Final: float
        /// the loss at the end, by which rates are judged: P2's own, MNIST's over 2,000 rows
        Loss: float
        /// share of 2,000 other rows that are right; NaN for P2
        Accuracy: float
        /// processor time, s
        Seconds: float
    }

/// A training: its base level under a rule, what the rate is learned on, steps, and what is measured at the end.
[<NoComparison; NoEquality>]
type private Task =
    {
        Name: string
        Seed: int
        Steps: int
        Base: UpdateRule -> Level
        /// on a part of the rows that rates are judged by, of a draw
        MetaLoss: Draw -> Params -> Tensor
        /// on all of them
        Judge: Params -> Tensor
        Accuracy: Params -> float
    }

/// Windows of one length.
[<NoComparison; NoEquality>]
type private Stage =
    {
        Windows: int
        Steps: int
        Method: HypergradientMethod
        /// the log rate's own
        Meta: UpdateRule
        /// the last part of each window, in which the rate falls to 0
        Annealed: float
        /// each window begins at the first parameters
        Anew: bool
    }

/// The log rate moves by so much, whatever the size of its gradient.
let private signs (size: float) =
    adamWith
        { AdamOptions.Default with
            LearningRate = size
            Beta1 = 0.0
            Beta2 = 0.0 }

let private stage windows steps size annealed =
    { Windows = windows
      Steps = steps
      Method = Hypergradient.unrolled
      Meta = signs size
      Annealed = annealed
      Anew = false }

let private oneStep meta steps =
    [ { stage steps 1 0.0 0.0 with
          Method = Hypergradient.sama
          Meta = meta } ]

/// The scale of the rate, found from the first parameters by short windows, which begin anew.
let private settling =
    [ { stage 12 2 0.4 0.0 with Anew = true }
      { stage 12 5 0.2 0.2 with Anew = true } ]

/// A twentieth, a tenth, three tenths of the training.
let private growing annealed steps =
    [ stage 4 (steps / 20) 0.15 (min annealed 0.2)
      stage 5 (steps / 10) 0.07 (min annealed 0.2)
      stage 1 (steps * 3 / 10) 0.07 annealed ]

/// How a rate is learned in a training of so many steps.
let private ways: (string * (int -> Stage list)) list =
    [ "SAMA, adam 0.1", oneStep (adam 0.1)
      "SAMA, signs 0.3", oneStep (signs 0.3)
      "growing windows", growing 0.0
      "settled, growing windows", (fun steps -> settling @ growing 0.0 steps)
      "settled, growing annealed windows", (fun steps -> settling @ growing 0.5 steps) ]

let private factor (stage: Stage) (step: int64) : float =
    let done' = float (step % int64 stage.Steps) / float stage.Steps

    if done' < 1.0 - stage.Annealed then
        1.0
    else
        (1.0 - done') / stage.Annealed

let private problem (task: Task) (rule: UpdateRule) (options: BilevelOptions) method meta : BilevelProblem =
    Problem.create
        options
        method
        [ task.Base rule
          Level.general "rate" [ "log", torch.zeros (1L, dtype = torch.float64) ] meta id (fun _ levels draw ->
              task.MetaLoss draw levels["base"]) ]

/// What a training ends with: its rate, loss and accuracy.
let private measured (task: Task) way rate (train: unit -> float * (float * float)) : Row =
    use _ = torch.NewDisposeScope()

    let time () =
        Process.GetCurrentProcess().TotalProcessorTime.TotalSeconds

    let began = time ()

    let final, (loss, accuracy) =
        try
            train ()
        with :? NonFiniteException ->
            nan, (infinity, nan)

    { Problem = task.Name
      Seed = task.Seed
      Way = way
      Rate = rate
      Final = final
      Loss = loss
      Accuracy = accuracy
      Seconds = time () - began }

let private ended (task: Task) (run: BilevelRun) : float * float =
    use _ = torch.no_grad ()
    Number.read ((task.Judge run.Theta).to_type torch.float64), task.Accuracy run.Theta

let private fixedAt (task: Task) (rate: float) : Row =
    measured task "fixed" rate (fun () ->
        let plain =
            { BilevelOptions.Default with
                WarmUp = Int64.MaxValue }

        use run =
            new BilevelRun(problem task (sgd rate) plain Hypergradient.sama (sgd 1.0), int64 task.Seed)

        for _ in 1 .. task.Steps do
            run.Step() |> ignore

        rate, ended task run)

/// A run of a stage's windows, from where the one before it ended: the parameters, unless they begin anew, and the log rate.
let private following (task: Task) (rate: float) (stage: Stage) (before: BilevelRun option) : BilevelRun =
    let learned =
        sgd rate
        |> UpdateRule.learning "LearningRate" (fun lambda -> lambda["log"].exp () * rate)
        |> UpdateRule.scheduled (factor stage)

    let options =
        { BilevelOptions.Default with
            Unroll = stage.Steps }

    let composed = problem task learned options stage.Method stage.Meta
    use first = Bilevel.start (int64 task.Seed) composed
    let origin = first.Theta.clone ()

    let own =
        if stage.Anew then
            { composed with
                Levels = [| composed.Levels[0] |> Level.resetTo (fun _ -> origin); composed.Levels[1] |] }
        else
            composed

    match before with
    | None -> new BilevelRun(own, first)
    | Some run ->
        let theta = if stage.Anew then origin else run.Theta.Vector
        let windows = (run.StepsTaken + int64 stage.Steps - 1L) / int64 stage.Steps

        new BilevelRun(
            own,
            { first with
                Levels =
                    [| { first.Levels[0] with Vector = theta }
                       { first.Levels[1] with
                           Vector = run.Lambda.Vector } |]
                Step = windows * int64 stage.Steps }
        )

let private learnedFrom (task: Task) (way: string, stages: int -> Stage list) (rate: float) : Row =
    measured task way rate (fun () ->
        let mutable run = None
        let mutable final = rate

        for stage in stages task.Steps do
            let next = following task rate stage run
            run |> Option.iter (fun run -> (run :> IDisposable).Dispose())
            run <- Some next

            for _ in 1 .. stage.Windows * stage.Steps do
                final <- rate * Number.read (next.Lambda["log"].exp ())
                next.Step() |> ignore

        use last = run.Value
        final, ended task last)

/// By whole trainings: one call, and the training at what it found.
let private descended (task: Task) (rate: float) : Row =
    measured task "whole trainings" rate (fun () ->
        let learned =
            sgd rate
            |> UpdateRule.learning "LearningRate" (fun lambda -> lambda["log"].exp () * rate)

        let composed =
            problem
                { task with
                    MetaLoss = fun _ theta -> task.Judge theta }
                learned
                BilevelOptions.Default
                Hypergradient.sama
                (sgd 1.0)

        use start = Bilevel.start (int64 task.Seed) composed

        use found =
            Metagradient.descendWith
                { DescentOptions.Default with
                    Metagradient =
                        { MetagradientOptions.Default with
                            Memory = task.Steps } }
                composed
                start
                task.Steps

        eprintfn
            $"{task.Name}, seed {task.Seed}, from {rate:G3}: {found.Trainings} trainings and {found.Metagradients} metagradients, losses %A{List.ofSeq found.Losses}"

        let final = rate * Number.read (found.Lambda.exp ())
        let row = fixedAt task final
        final, (row.Loss, row.Accuracy))

/// P2 at its first λ: 1024 samples, 100 parameters, 100 steps from 0.
let private quadratic (seed: int) : Task =
    let losses = Suite.quadratic (Quadratic.draw seed 1024 100 100)
    let lambda = torch.full (100L, -2.0, dtype = torch.float64)
    let loss (theta: Params) = losses.Base theta["z"] lambda

    { Name = "P2"
      Seed = seed
      Steps = 100
      Base =
        fun rule ->
            Level.general "base" [ "z", torch.zeros (100L, dtype = torch.float64) ] rule ignore (fun _ levels () ->
                loss levels["base"])
      MetaLoss = fun _ theta -> loss theta
      Judge = loss
      Accuracy = fun _ -> nan }

/// 10,000 rows of MNIST, a net of 64 hidden units, 1,000 steps of 100 rows; the rate is learned on other training rows.
let private digits (folder: string) (seed: int) : Task =
    let all = Digits.read folder "train"
    let x, y = all |> Digits.take [ 0L .. 9999L ]
    let held = all |> Digits.take [ 10000L .. 11999L ]
    let otherX, otherY = all |> Digits.take [ 12000L .. 13999L ]

    let pick (x: Tensor, y: Tensor) (count: int64) (draw: Draw) =
        use generator = new torch.Generator(uint64 draw.RandomSeed)

        let rows =
            torch.randint (y.numel (), [| count |], dtype = torch.int64, generator = generator)

        x.index_select (0L, rows), y.index_select (0L, rows)

    let logits (theta: Params) (x: Tensor) =
        let h =
            torch.nn.functional.relu (torch.nn.functional.linear (x, theta["W1"], theta["b1"]))

        torch.nn.functional.linear (h, theta["W2"], theta["b2"])

    let loss theta (x: Tensor, y: Tensor) =
        torch.nn.functional.cross_entropy (logits theta x, y)

    let start () =
        use generator = new torch.Generator(uint64 (seed + 2))

        let normal (scale: float) (shape: int64[]) =
            torch.randn (shape, generator = generator) * scale

        [ "W1", normal 0.05 [| 64L; 784L |]
          "b1", torch.zeros 64L
          "W2", normal 0.1 [| 10L; 64L |]
          "b2", torch.zeros 10L ]

    { Name = "MNIST"
      Seed = seed
      Steps = 1000
      Base =
        fun rule ->
            Level.general "base" (start ()) rule (pick (x, y) 100L) (fun _ levels rows -> loss levels["base"] rows)
      MetaLoss = fun draw theta -> loss theta (pick held 1000L draw)
      Judge = fun theta -> loss theta held
      Accuracy =
        fun theta ->
            let right = (logits theta otherX).argmax(1L).eq otherY
            right.to_type(torch.float64).mean().item<float> () }

/// The grid, and every way from ten times too small and ten times too large.
let private measure (lowest: float, highest: float) (task: Task) : Row list =
    let grid =
        [ for i in 0..19 -> fixedAt task (lowest * (highest / lowest) ** (float i / 19.0)) ]

    let best = grid |> List.minBy _.Loss

    grid
    @ [ for by in [ 0.1; 10.0 ] do
            descended task (best.Rate * by)
        for way in ways do
            for by in [ 0.1; 10.0 ] do
                learnedFrom task way (best.Rate * by) ]

let private table (rows: Row list) =
    printfn
        "| problem | seed | rate | from | to | loss | accuracy | loss beside the best of the grid | trainings' processor time |"

    printfn "|---|---|---|---|---|---|---|---|---|"

    for (name, seed), own in rows |> List.groupBy (fun r -> r.Problem, r.Seed) do
        let grid, learned = own |> List.partition (fun r -> r.Way = "fixed")
        let best = grid |> List.minBy _.Loss
        let plain = grid |> List.averageBy _.Seconds

        for r in best :: learned do
            let way = if r.Way = "fixed" then "best of 20" else r.Way
            let off = (r.Loss - best.Loss) / abs best.Loss
            let beside = if off < 100.0 then off.ToString "P2" else "diverged"

            printfn
                $"| {name} | {seed} | {way} | {r.Rate:G3} | {r.Final:G3} | {r.Loss:G6} | {r.Accuracy:F4} | {beside} | {r.Seconds / plain:F1} |"

/// The quadratic always, the digits where their folder is given; so many seeds of each.
let run (folder: string option) (seeds: int) (write: Row list -> unit) : int =
    let rows =
        [ for seed in 1..seeds do
              yield! measure (0.05, 5.0) (quadratic seed)

              match folder with
              | Some folder -> yield! measure (0.03, 3.0) (digits folder seed)
              | None -> () ]

    write rows
    table rows
    0
