module Sama.Tests.EngineTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// A classifier with batch-norm and dropout, its losses re-weighted by a net on the losses.
let private normalised rule method =
    let x, y =
        normal 70L [| 12L; 5L |], (normal 71L [| 12L |]).gt(scalar 0.0).to_type torch.int64

    let losses (p: Params) =
        let hidden = torch.nn.functional.linear (x, p["W1"])

        let hidden =
            torch.nn.functional.batch_norm (hidden, null, null, p["scale"], p["shift"], training = true)

        let hidden = torch.nn.functional.dropout (torch.tanh hidden, 0.3, true)

        torch.nn.functional.cross_entropy (
            torch.nn.functional.linear (hidden, p["W2"]),
            y,
            reduction = torch.nn.Reduction.None
        )

    Problem.create
        BilevelOptions.Default
        method
        [ Level.create
              "classifier"
              [ "W1", normal 72L [| 7L; 5L |]
                "scale", torch.ones (7L, dtype = f64)
                "shift", torch.zeros (7L, dtype = f64)
                "W2", normal 73L [| 2L; 7L |] ]
              rule
              ignore
              (fun pass theta lambda () ->
                  let l = losses theta
                  (torch.sigmoid (pass.Stop("losses", l) * lambda["a"] + lambda["b"]) * l).mean ())
          Level.create
              "weights"
              [ "a", torch.ones (1L, dtype = f64); "b", torch.zeros (1L, dtype = f64) ]
              (sgd 0.1)
              ignore
              (fun _ theta _ () -> (losses theta).mean ()) ]

let private small options =
    Sama.Benchmarks.Models.problem
        torch.CPU
        options
        (adam 1e-3)
        Hypergradient.sama
        16L
        (Sama.Benchmarks.Models.encoder true false 16L 64L 2 300L)

let private finalLoss options =
    let problem = small options
    use start = Bilevel.start 1L problem
    use run = new BilevelRun(problem, start)
    let losses = [ for _ in 1..200 -> run.Step().Meta.MetaLoss ]
    losses |> List.skip 150 |> List.average

let tests =
    testList
        "engine"
        [ testCase "with batch-norm and dropout the difference tends to the exact mixed derivative of the same mask"
          <| fun _ ->
              let problem = normalised (adam 0.05) Hypergradient.sama
              let state = after 3 problem

              let errors =
                  Hypergradient.epsilonSweep problem state [ 1e-1; 1e-2; 1e-3; 1e-4 ] [ PerturbationNorm.Active ]
                  |> List.map _.RelativeError

              Expect.isLessThan (errors |> List.min) 1e-6 $"{errors}"
              Expect.isLessThan errors[1] (errors[0] / 30.0) "falls with α²"

          testCase "the default ε errs by less than 2 % in float32, on an encoder under Adam at t = 10"
          <| fun _ ->
              let problem = small BilevelOptions.Default
              use start = Bilevel.start 1L problem
              use run = new BilevelRun(problem, start)

              for _ in 1..9 do
                  run.Step() |> ignore

              use state = run.Snapshot()

              let error =
                  Hypergradient.epsilonSweep problem state [ 1e-3 ] [ PerturbationNorm.Active ]

              Expect.isLessThan error.Head.RelativeError 0.02 ""

          testCase "bfloat16 passes train as float32 does: the loss after 200 steps within 2 %"
          <| fun _ ->
              let own = finalLoss BilevelOptions.Default

              let narrow =
                  finalLoss
                      { BilevelOptions.Default with
                          Precision = Precision.BFloat16 }

              Expect.isLessThan (abs (narrow / own - 1.0)) 0.02 $"{own} and {narrow}"

          testCase "a delegate that breaks a module's gradients is told so"
          <| fun _ ->
              let net = torch.nn.Linear(3L, 1L, dtype = f64)
              let x = normal 80L [| 4L; 3L |]

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.ofModule "net" net (sgd 0.1) ignore (fun pass () ->
                            let loss = (net.call x * 1.0).square().mean ()

                            if pass.Draw.Step = 1L then
                                net.weight.grad <- torch.zeros_like net.weight

                            loss)
                        Level.create "meta" [ "x", torch.ones (1L, dtype = f64) ] (sgd 0.1) ignore (fun _ _ lambda () ->
                            (net.call x).mean () + lambda["x"].sum ()) ]

              use run = new BilevelRun(problem, Bilevel.start 1L problem)
              run.Step() |> ignore

              Expect.throwsC (fun () -> run.Step() |> ignore) (fun e ->
                  Expect.stringContains e.Message "'weight'" "the parameter"
                  Expect.stringContains e.Message "zero_grad" "what not to do") ]
