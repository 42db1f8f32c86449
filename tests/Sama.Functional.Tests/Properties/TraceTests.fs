/// What a step takes with it and leaves behind: nudges, windows, skipped starts, buffers, noise.
module Sama.Tests.TraceTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private numbers (x: Tensor) =
    List.ofArray (x.data<float>().ToArray())

let private levels baseLoss =
    [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] (adam 0.1) id baseLoss
      Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) id (fun _ theta _ _ ->
          square(theta["w"]).sum ()) ]

let private weighed (_: Pass) (theta: Params) (lambda: Params) (_: Draw) =
    (square theta["w"] * lambda["x"]).sum ()

let tests =
    testList
        "traces"
        [ testCase "a nudge moves θ by κα along v"
          <| fun _ ->
              let after nudge =
                  let method =
                      Hypergradient.samaNaWith
                          { SamaOptions.Default with
                              Alpha = Nullable 1e-3
                              Nudge = nudge }

                  let problem = Problem.create BilevelOptions.Default method (levels weighed)
                  use run = new BilevelRun(problem, 0L)
                  run.Step() |> ignore
                  use state = run.Snapshot()
                  numbers state.Theta

              for plain, one, two in List.zip3 (after 0.0) (after 1.0) (after 2.0) do
                  // v = 2θₜ has three equal entries
                  Expect.floatClose Accuracy.high (plain - one) (1e-3 / sqrt 3.0) "once"
                  Expect.floatClose Accuracy.high (plain - two) (2e-3 / sqrt 3.0) "twice"

          testCase "a state inside a window, restored into another run, goes on with its window"
          <| fun _ ->
              let problem =
                  Problem.create
                      (unrollBy 3)
                      Hypergradient.unrolled
                      (levels (fun pass theta lambda draw -> weighed pass theta lambda draw * (1.0 + float draw.Step)))

              use straight = new BilevelRun(problem, 0L)
              straight.Step() |> ignore
              use inside = straight.Snapshot()

              let ends (run: BilevelRun) =
                  for _ in 1..5 do
                      run.Step() |> ignore

                  use state = run.Snapshot()
                  numbers state.Theta @ numbers state.Lambda

              use other = new BilevelRun(problem, 7L)
              other.Step() |> ignore
              other.Step() |> ignore
              other.Restore inside
              Expect.equal (ends other) (ends straight) "bit for bit"

          testCase "a window whose first step is left out has started all the same"
          <| fun _ ->
              let start, other = normal 3L [| 3L |], normal 4L [| 3L |]

              let problem =
                  Problem.create
                      { unrollBy 2 with
                          NonFinite = NonFinitePolicy.Skip }
                      Hypergradient.unrolled
                      [ Level.create "task" [ "w", other ] (sgd 0.1) id (fun _ theta _ draw ->
                            square(theta["w"]).sum () * (if draw.Step = 2L then nan else 1.0))
                        |> Level.resetTo (fun levels -> levels["parent"].Vector)
                        Level.create "parent" [ "w", start ] (sgd 0.1) id (fun _ theta _ _ ->
                            square(theta["w"] - 1.0).sum ()) ]

              use run = new BilevelRun(problem, 0L)

              for _ in 1..3 do
                  run.Step() |> ignore

              use state = run.Snapshot()
              Expect.equal (numbers state.Theta) (numbers state.Lambda) "at its start"

          testCase "a step that fails behind a forward pass leaves buffers as they were"
          <| fun _ ->
              let norm = torch.nn.BatchNorm1d(3L)
              let x = normal 5L [| 8L; 3L |] |> fun x -> x.to_type torch.float32

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.ofModule "norm" norm (sgd 0.1) id (fun _ draw ->
                            let loss = square(norm.call x).mean ()
                            if draw.Step = 1L then invalidOp "broken off" else loss)
                        Level.create "meta" [ "x", torch.ones 1L ] (sgd 0.1) id (fun _ _ own _ ->
                            square(norm.call x).mean () + square(own["x"]).sum ()) ]

              use run = new BilevelRun(problem, 0L)
              run.Step() |> ignore
              let before = List.ofArray (norm.running_mean.data<float32>().ToArray())
              Expect.throws (fun () -> run.Step() |> ignore) "it is broken off"
              Expect.equal (List.ofArray (norm.running_mean.data<float32>().ToArray())) before "buffers"

          testCase "noise that λ's gradient alone sees is found"
          <| fun _ ->
              let random = Random 1

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      (levels (fun pass theta lambda draw ->
                          weighed pass theta lambda draw
                          + square(lambda["x"]).sum () * random.NextDouble()))

              use run = new BilevelRun(problem, 0L)

              Expect.throwsC (fun () -> run.Step() |> ignore) (fun e ->
                  Expect.stringContains e.Message "another gradient" "")

          testCase "a state under another rule of the same numbers is refused by name"
          <| fun _ ->
              let problem rule =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] rule id weighed
                        Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) id (fun _ theta _ _ ->
                            square(theta["w"]).sum ()) ]

              use state = Bilevel.start 0L (problem (adam 0.1))

              Expect.throwsC (fun () -> new BilevelRun(problem (radam 0.1), state) |> ignore) (fun e ->
                  Expect.stringContains e.Message "radam" "") ]
