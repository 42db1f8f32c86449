/// Weights of examples whose own regulariser is learned by a third level, beside weights with a fixed one, on MNIST with
/// wrong labels.
module Sama.Benchmarks.ThreeLevels

open System
open System.Diagnostics
open TorchSharp
open Sama
open Sama.Functional

let private train, clean, held, test = 1000, 100, 100, 4000
let private baseSteps, unroll, hidden = 3000, 5, 64L

type private Rows = { X: Tensor; Y: Tensor; Truth: Tensor }

/// Rows in an order of the seed: training rows with 40 % of the labels drawn anew, then three clean sets.
let private rows (folder: string) (seed: int) : Rows * Rows * Rows * Rows =
    let all = Digits.read folder "train"
    let random = Random seed
    let order = Array.init (int (snd all).shape[0]) int64
    random.Shuffle order

    let part from count noisy =
        let x, truth = all |> Digits.take order[from .. from + count - 1]

        let labels =
            [| for label in truth.data<int64> () ->
                   if noisy && random.NextDouble() < 0.4 then
                       int64 (random.Next 10)
                   else
                       label |]

        { X = x
          Y = torch.tensor labels
          Truth = truth }

    part 0 train true, part train clean false, part (train + clean) held false, part (train + clean + held) test false

let private both (a: Rows) (b: Rows) : Rows =
    { X = torch.cat [| a.X; b.X |]
      Y = torch.cat [| a.Y; b.Y |]
      Truth = torch.cat [| a.Truth; b.Truth |] }

let private logits (theta: Params) (x: Tensor) =
    let h =
        torch.nn.functional.relu (torch.nn.functional.linear (x, theta["W1"], theta["b1"]))

    torch.nn.functional.linear (h, theta["W2"], theta["b2"])

let private losses theta (rows: Rows) =
    torch.nn.functional.cross_entropy (logits theta rows.X, rows.Y, reduction = torch.nn.Reduction.None)

let private network (seed: int) : (string * Tensor) list =
    use generator = new torch.Generator(uint64 seed)

    let draw (shape: int64[]) =
        torch.randn (shape, generator = generator) / sqrt (float shape[1])

    [ "W1", draw [| hidden; 784L |]
      "b1", torch.zeros hidden
      "W2", draw [| 10L; hidden |]
      "b2", torch.zeros 10L ]

/// Rows of a batch, a function of the draw.
let private batch (draw: Draw) =
    use generator = new torch.Generator(uint64 draw.RandomSeed)
    torch.randint (int64 train, [| 100L |], dtype = torch.int64, generator = generator)

let private classifier seed (noisy: Rows) =
    Level.general "classifier" (network seed) (adam 1e-3) batch (fun _ levels rows ->
        let own =
            { X = noisy.X.index_select (0L, rows)
              Y = noisy.Y.index_select (0L, rows)
              Truth = noisy.Truth }

        let weights = torch.sigmoid (levels["weights"].["w"].index_select (0L, rows))
        (weights * losses levels["classifier"] own).mean ())

/// Weights by clean rows, drawn towards 1/2 by exp(ρ).
let private weights (rows: Rows) (rho: Levels -> Tensor) =
    Level.general "weights" [ "w", torch.zeros (int64 train) ] (adam 5e-2) ignore (fun _ levels () ->
        (losses levels["classifier"] rows).mean ()
        + ((rho levels).exp () * levels["weights"].["w"].square().mean ()).sum ())

let private accuracy (theta: Params) (rows: Rows) : float =
    use _ = torch.no_grad ()
    ((logits theta rows.X).argmax(1L).eq (rows.Y)).to_type(torch.float64).mean().item<float> ()

/// Test accuracy, AUROC-like share of clean rows among the heavier half, and the regulariser at the end.
let private run (problem: BilevelProblem) (noisy: Rows) (test: Rows) : float * float * float =
    use run = new BilevelRun(problem, 0L)

    for _ in 1..baseSteps do
        run.Step() |> ignore

    let w = run.Parameters("weights").["w"]
    let right = noisy.Y.eq (noisy.Truth)
    let heavy = w.ge (w.median ())
    let share = (heavy.logical_and right).sum().to_type (torch.float64) / heavy.sum ()

    let rho =
        if problem.LevelNames.Length = 3 then
            run.Lambda["rho"].item<float32> () |> float
        else
            nan

    accuracy run.Theta test, share.item<float> (), rho

let private start = -4.0

let private twoLevels seed (noisy: Rows) (meta: Rows) =
    let rho = torch.tensor (float32 start)

    Problem.create
        { BilevelOptions.Default with
            Unroll = unroll }
        Hypergradient.sama
        [ classifier seed noisy; weights meta (fun _ -> rho) ]

let private threeLevels seed (noisy: Rows) (meta: Rows) (top: Rows) response =
    Problem.create
        { BilevelOptions.Default with
            Unroll = unroll }
        Hypergradient.sama
        [ classifier seed noisy
          weights meta (fun levels -> levels["regulariser"].["rho"])
          |> Level.responding response
          Level.general
              "regulariser"
              [ "rho", torch.full ([| 1L |], Number.scalar start, dtype = torch.float32) ]
              (adam 5e-2)
              ignore
              (fun _ levels () -> (losses levels["classifier"] top).mean ())
          |> Level.every 2 ]

let measure (folder: string) (write: obj list -> unit) : int =
    let found =
        [ for seed in 0..4 do
              use _ = torch.NewDisposeScope()
              let noisy, meta, top, test = rows folder seed

              for name, problem in
                  [ "two levels, 200 clean rows", twoLevels seed noisy (both meta top)
                    "two levels, 100 clean rows", twoLevels seed noisy meta
                    "three levels, total", threeLevels seed noisy meta top MiddleResponse.Total
                    "three levels, held", threeLevels seed noisy meta top MiddleResponse.Held ] do
                  let clock = Stopwatch.StartNew()
                  let accuracy, share, rho = run problem noisy test

                  printfn
                      $"seed {seed}, {name}: accuracy {accuracy:F4}, right among the heavier half {share:F4}, rho {rho:F2}"

                  {| Seed = seed
                     Levels = name
                     Accuracy = accuracy
                     RightAmongHeavier = share
                     Rho = rho
                     Seconds = clock.Elapsed.TotalSeconds |} ]

    for name, all in found |> List.groupBy _.Levels do
        let values = all |> List.map _.Accuracy
        let mean = List.average values

        let deviation =
            sqrt ((values |> List.sumBy (fun v -> (v - mean) ** 2.0)) / float (values.Length - 1))

        printfn
            $"{name}: {mean:F4} +- {deviation:F4}, {all |> List.averageBy _.RightAmongHeavier:F4}, {all |> List.averageBy _.Seconds:F0} s"

    write [ for row in found -> box row ]
    0
