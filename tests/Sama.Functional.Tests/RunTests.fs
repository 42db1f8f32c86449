module Sama.Tests.RunTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private throws<'e when 'e :> exn> (words: string list) action =
    Expect.throwsC action (function
        | :? 'e as e ->
            for word in words do
                Expect.stringContains e.Message word ""
        | e -> failtest $"{e}")

let private lossesOnly baseLoss metaLoss =
    Problem.create
        BilevelOptions.Default
        Hypergradient.sama
        [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] (sgd 0.1) id baseLoss
          Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) id metaLoss ]

let private goodBase (_: Pass) (theta: Params) (lambda: Params) (_: Draw) =
    (square theta["w"] * lambda["x"]).sum ()

let private goodMeta (_: Pass) (theta: Params) (_: Params) (_: Draw) = square(theta["w"]).sum ()

let private starts problem () =
    Bilevel.step problem (Bilevel.start 1L problem) |> ignore

/// The re-weighting of a linear regression, as modules and as functions of Params, from the same numbers.
let private twins () =
    let x, y = normal 40L [| 16L; 3L |], normal 41L [| 16L; 1L |]
    let net = torch.nn.Linear(3L, 1L, dtype = f64)
    let scale = torch.nn.Linear(1L, 1L, hasBias = false, dtype = f64)

    let w, b, s =
        net.weight.detach().clone (), net.bias.detach().clone (), scale.weight.detach().clone ()

    let drop (t: Tensor) =
        torch.nn.functional.dropout (t, 0.3, true)

    let residual out = square (out - y)
    let weigh (r: Tensor) (out: Tensor) = (torch.sigmoid out * r).mean ()

    let modules =
        let forward () = residual (net.call (drop x))

        Problem.create
            (unrollBy 2)
            Hypergradient.sama
            [ Level.ofModule "net" net (adam 0.05) ignore (fun pass () ->
                  let r = forward ()
                  weigh r (scale.call (pass.Stop("r", r))))
              Level.ofModule "scale" scale (sgd 0.1) ignore (fun _ () -> forward().mean ()) ]

    let functions =
        let forward (p: Params) =
            residual (torch.nn.functional.linear (drop x, p["weight"], p["bias"]))

        Problem.create
            (unrollBy 2)
            Hypergradient.sama
            [ Level.create "net" [ "weight", w; "bias", b ] (adam 0.05) ignore (fun pass theta lambda () ->
                  let r = forward theta
                  weigh r (torch.nn.functional.linear (pass.Stop("r", r), lambda["weight"])))
              Level.create "scale" [ "weight", s ] (sgd 0.1) ignore (fun _ theta _ () -> forward(theta).mean ()) ]

    net, scale, modules, functions

let tests =
    testList
        "runs"
        [ for name, rule in RuleTests.rules do
              for options in
                  [ BilevelOptions.Default
                    { BilevelOptions.Default with
                        Unroll = 3
                        WarmUp = 4L
                        Accumulate = 2 } ] do
                  testCase $"in-place run = fold of the pure step, bit for bit: {name}, K = {options.Unroll}"
                  <| fun _ ->
                      for method in
                          [ Hypergradient.sama
                            Hypergradient.t1t2
                            Hypergradient.unrolled
                            Hypergradient.samaNaWith { SamaOptions.Default with Nudge = 1.0 } ] do
                          let problem = quadraticWith options rule method
                          let mutable state = Bilevel.start 3L problem
                          use run = new BilevelRun(problem, state)

                          for _ in 1..6 do
                              let next, reports = Bilevel.step problem state
                              state <- next

                              for report in reports do
                                  Expect.equal (run.Step()).BaseLoss report.BaseLoss "base loss"

                          let got = run.Snapshot()
                          Expect.isTrue (got.Theta.Equals state.Theta && got.Lambda.Equals state.Lambda) "state"
                          RunState.dispose got

          testCase "a run from a seed is the run from the start, and leaves the given parameters alone"
          <| fun _ ->
              let w = torch.ones (3L, dtype = f64)

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.create "base" [ "w", w ] (adam 0.1) id goodBase
                        Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (adam 0.1) id goodMeta ]

              let ended (run: BilevelRun) =
                  use run = run

                  for _ in 1..3 do
                      run.Step() |> ignore

                  run.Snapshot()

              use first = ended (new BilevelRun(problem, 1L))
              Expect.isTrue (w.Equals(torch.ones_like w)) "as given"
              use start = Bilevel.start 1L problem
              use second = ended (new BilevelRun(problem, start))
              Expect.isTrue (first.Theta.Equals second.Theta && first.Lambda.Equals second.Lambda) "the same"

          testCase "meta steps come after warm-up, at the end of each window"
          <| fun _ ->
              let options =
                  { BilevelOptions.Default with
                      Unroll = 3
                      WarmUp = 4L }

              let problem = quadraticWith options (sgd 0.05) Hypergradient.sama
              use run = new BilevelRun(problem, Bilevel.start 1L problem)
              let due = [ for _ in 1..12 -> not (isNull (run.Step().Meta)) ]
              Expect.equal (List.indexed due |> List.filter snd |> List.map fst) [ 8; 11 ] ""

          testCase "no tensor is leaked, also inside a user's scope"
          <| fun _ ->
              let problem = reweighting Stopped 0.3 (adam 0.05) Hypergradient.sama
              let start = Bilevel.start 3L problem

              let run =
                  use _ = torch.NewDisposeScope()
                  new BilevelRun(problem, start)

              for _ in 1..5 do
                  run.Step() |> ignore

              GC.Collect()
              GC.WaitForPendingFinalizers()
              let live = Tensor.TotalCount

              for _ in 1..50 do
                  use _ = torch.NewDisposeScope()
                  run.Step() |> ignore

              Expect.equal Tensor.TotalCount live "live tensors"
              (run :> IDisposable).Dispose()

          testCase "a module run = the functional run, bit for bit, trained in place"
          <| fun _ ->
              let net, scale, modules, functions = twins ()
              use a = new BilevelRun(modules, Bilevel.start 5L modules)
              use b = new BilevelRun(functions, Bilevel.start 5L functions)

              for _ in 1..30 do
                  let ra, rb = a.Step(), b.Step()
                  Expect.equal ra.BaseLoss rb.BaseLoss "base loss"

                  Expect.equal
                      (isNull ra.Meta || ra.Meta.MetaLoss = rb.Meta.MetaLoss, isNull ra.Meta)
                      (true, isNull rb.Meta)
                      "meta loss"

              Expect.isTrue (net.weight.detach().Equals(b.Theta["weight"])) "the user's module was trained"
              Expect.isTrue (net.weight.requires_grad && scale.weight.requires_grad) "it stays trainable"

              throws<ArgumentException> [ "differentiated twice" ] (fun () ->
                  Problem.create BilevelOptions.Default Hypergradient.t1t2 (List.ofArray modules.Levels)
                  |> ignore)

          testCase "when a perturbed pass throws, state and module are those before the step"
          <| fun _ ->
              let net = torch.nn.Linear(3L, 1L, dtype = f64)
              let scale = torch.nn.Linear(1L, 1L, dtype = f64)
              let x = normal 50L [| 8L; 3L |]

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.ofModule "net" net (adam 0.05) ignore (fun pass () ->
                            if pass.Kind = PassKind.Perturbed && pass.Draw.Step = 1L then
                                invalidOp "in a perturbed pass"

                            torch.sigmoid(scale.call (net.call x)).mean ())
                        Level.ofModule "scale" scale (sgd 0.1) ignore (fun _ () -> net.call(x).mean ()) ]

              use run = new BilevelRun(problem, Bilevel.start 5L problem)
              run.Step() |> ignore
              let before = run.Snapshot()
              throws<InvalidOperationException> [ "in a perturbed pass" ] (fun () -> run.Step() |> ignore)
              let now = run.Snapshot()
              Expect.isTrue (now.Theta.Equals before.Theta && now.Lambda.Equals before.Lambda) "state"
              Expect.equal now.Step before.Step "step"
              Expect.isTrue (net.weight.detach().reshape(-1L).Equals(before.Theta.narrow (0L, 0L, 3L))) "module"
              Expect.isTrue net.weight.requires_grad "trainable"

          testCase "only base passes update batch-norm's buffers"
          <| fun _ ->
              let norm = torch.nn.BatchNorm1d(3L, dtype = f64)
              let x = normal 60L [| 8L; 3L |] + 1.0

              let bn =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.ofModule "norm" norm (sgd 0.1) ignore (fun _ () -> square(norm.call x - 1.0).mean ())
                        Level.create "meta" [ "x", torch.ones (1L, dtype = f64) ] (sgd 0.1) ignore (fun _ _ lambda () ->
                            (norm.call x).mean () + lambda["x"].sum ()) ]

              use run = new BilevelRun(bn, Bilevel.start 1L bn)

              let tracked () =
                  norm.num_batches_tracked.to_type(torch.int64).item<int64> ()

              let start = tracked ()

              for _ in 1..4 do
                  run.Step() |> ignore

              Expect.equal (tracked () - start) 4L "one update a base step"

          testCase "solve finds the base problem's minimum"
          <| fun _ ->
              let problem = quadratic (sgd 0.2) 1 Hypergradient.sama
              let solved, report = Bilevel.solve problem 1e-13 10000 (Bilevel.start 1L problem)
              Expect.equal report.Converged (Nullable true) "converged"
              Expect.isLessThan (distance solved.Theta (torch.linalg.solve (A, B.mv solved.Lambda))) 1e-11 "θ*"
              let _, short = Bilevel.solve problem 1e-13 3 (Bilevel.start 1L problem)
              Expect.equal short.Converged (Nullable false) "too short"
              throws<InvalidOperationException> [ "residual" ] short.EnsureConverged

          testCase "a NaN loss names step and level and leaves the last good state"
          <| fun _ ->
              let failing pass theta lambda (draw: Draw) =
                  let loss: Tensor = goodBase pass theta lambda draw
                  if draw.Step = 2L then loss * nan else loss

              let problem = lossesOnly failing goodMeta
              use run = new BilevelRun(problem, Bilevel.start 1L problem)
              run.Step() |> ignore
              run.Step() |> ignore
              let before = run.Snapshot()
              throws<NonFiniteException> [ "step 2"; "'base'" ] (fun () -> run.Step() |> ignore)
              Expect.isTrue (run.Snapshot().Theta.Equals before.Theta) "state"

          testCase "mistakes are managed exceptions that name the thing"
          <| fun _ ->
              throws<InvalidOperationException>
                  [ "one number" ]
                  (starts (lossesOnly (fun _ t l _ -> t["w"] * l["x"]) goodMeta))

              throws<InvalidOperationException>
                  [ "no parameter" ]
                  (starts (lossesOnly (fun _ t _ _ -> t["w"].detach().sum ()) goodMeta))

              throws<InvalidOperationException> [ "'meta'"; "can never move" ] (fun () ->
                  let problem = lossesOnly (fun _ t _ _ -> square(t["w"]).sum ()) goodMeta
                  use run = new BilevelRun(problem, 1L)

                  for _ in 1..100 do
                      run.Step() |> ignore)

              throws<InvalidOperationException>
                  [ "'meta'"; "sees no parameter" ]
                  (starts (lossesOnly goodBase (fun _ _ _ _ -> torch.ones (1L, dtype = f64))))

              throws<ArgumentException> [ "'v'" ] (starts (lossesOnly (fun _ t _ _ -> t["v"].sum ()) goodMeta))

              throws<exn>
                  [ "size" ]
                  (starts (
                      lossesOnly
                          (fun _ t l _ -> (t["w"] + torch.ones (4L, dtype = f64) * l["x"].sum ()).sum ())
                          goodMeta
                  ))

              throws<ArgumentException> [ "'w'" ] (fun () -> Layout.create [ "w", [| 1L |]; "w", [| 2L |] ] |> ignore)

              throws<ArgumentException> [ "'b'"; "dtype" ] (fun () ->
                  Layout.ofNamed [ "a", torch.ones 2L; "b", torch.ones (2L, dtype = f64) ]
                  |> ignore)

              throws<ArgumentException> [ "Unroll (0)" ] (fun () -> quadratic (sgd 0.1) 0 Hypergradient.sama |> ignore)
              throws<ArgumentException> [ "Alpha" ] (fun () -> samaAt 0.0 |> ignore) ]
