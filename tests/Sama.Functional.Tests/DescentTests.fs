/// Methods that change from meta step to meta step, and those that go on from the one before.
module Sama.Tests.DescentTests

open System
open System.IO
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private throws words (body: unit -> unit) =
    Expect.throwsC body (fun e ->
        for word: string in words do
            Expect.stringContains e.Message word "")

/// The name that each meta step reports, and whether it is that of either method.
let private followed steps unroll method (usual: HypergradientMethod) (better: HypergradientMethod) =
    let problem = reweightingWith (unrollBy unroll) Stopped 0.2 (adam 0.02) method
    use run = new BilevelRun(problem, 5L)

    [ for _ in 1..steps do
          use before = run.Snapshot()

          let report = [ for _ in 1..unroll -> run.Step() ] |> List.last

          /// the run's λ is that of a step under this method alone
          let isOf (method: HypergradientMethod) =
              let next, _ = Bilevel.step (Problem.withMethod method problem) before
              use next = next
              next.Lambda.Equals run.Lambda.Vector

          report.Meta.Response.Method, isOf usual, isOf better ]

let private phaseTests =
    [ for usual, better, unroll in
          [ Hypergradient.sama, Hypergradient.conjugateGradient 4, 1
            Hypergradient.sama, Hypergradient.unrolled, 3
            Hypergradient.truncated 2, Hypergradient.unrolled, 3
            Hypergradient.samaWith
                { SamaOptions.Default with
                    OneSided = true },
            Hypergradient.t1t2,
            2 ] do
          testCase $"{usual} and each 3rd {better}, K = {unroll}: each meta step is that of its method"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let found = followed 5 unroll (Hypergradient.everyNth 3 better usual) usual better

              for i, (name, isUsual, isBetter) in List.indexed found do
                  let due = i % 3 = 0
                  Expect.equal name (if due then better.Name else usual.Name) $"meta step {i}"
                  Expect.equal (isUsual, isBetter) (not due, due) $"meta step {i}"

              let found = followed 4 unroll (Hypergradient.switching 2L usual better) usual better

              Expect.equal
                  [ for name, _, _ in found -> name ]
                  [ usual.Name; usual.Name; better.Name; better.Name ]
                  "switching"

      testCase "both methods have to be served, and say so"
      <| fun _ ->
          let net = torch.nn.Linear(2L, 1L)

          let composed method rule =
              Problem.create
                  BilevelOptions.Default
                  method
                  [ Level.ofModule "net" net rule ignore (fun _ () -> net.weight.sum ())
                    Level.create "meta" [ "x", torch.ones 1L ] (sgd 0.1) ignore (fun _ theta _ () ->
                        theta.Vector.sum ()) ]
              |> ignore

          throws [ "each 2th t1t2"; "module" ] (fun () ->
              composed (Hypergradient.everyNth 2 Hypergradient.t1t2 Hypergradient.sama) (sgd 0.1))

          throws [ "couples" ] (fun () ->
              composed
                  (Hypergradient.switching 2L Hypergradient.sama (Hypergradient.soba 1.0))
                  (UpdateRule.chain [ clipByGlobalNorm 1.0; sgd 0.1 ]))

          throws [ "count"; "at least 2" ] (fun () ->
              Hypergradient.everyNth 1 Hypergradient.t1t2 Hypergradient.sama |> ignore)

          throws [ "metaSteps"; "at least 1" ] (fun () ->
              Hypergradient.switching 0L Hypergradient.t1t2 Hypergradient.sama |> ignore)

          throws [ "several"; "each" ] (fun () ->
              Hypergradient.everyNth 2 (Hypergradient.neumann 2 0.1) Hypergradient.sama
              |> Hypergradient.withProducts ProductForm.Differences
              |> ignore)

      testCase "a promise that one of both does not give is not given"
      <| fun _ ->
          let own =
              Hypergradient.create "own" [] (fun at _ -> torch.zeros_like at.Lambda, Report.empty "own")

          throws [ "own"; "OptionsVjp" ] (fun () ->
              quadratic
                  (UpdateRule.learning "LearningRate" (fun l -> l["x"].sum().exp ()) (sgd 0.1))
                  1
                  (Hypergradient.everyNth 2 own Hypergradient.sama)
              |> ignore) ]

let private rate = 0.1

/// The problem with that rule of its upper level.
let private under (meta: UpdateRule) (problem: BilevelProblem) =
    let upper =
        { problem.Levels[1] with
            Update = meta
            Rule = UpdateRule.bind problem.Levels[1].Layout meta }

    { problem with
        Levels = Array.updateAt 1 upper problem.Levels }

let private solverTests =
    [ for form in [ ProductForm.Exact; ProductForm.Differences ] do
          testCase $"soba and amigo are their recursions, written out ({form})"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let written isSoba weight iterations eta steps =
                  let mutable theta, p = torch.zeros (n, dtype = f64), torch.zeros (n, dtype = f64)
                  let mutable lambda, h = torch.ones (m, dtype = f64), torch.zeros (m, dtype = f64)

                  for _ in 1..steps do
                      theta <- theta - (A.mv theta - B.mv lambda) * rate
                      let mutable next = p

                      for _ in 1..iterations do
                          next <- next - (A.mv next - theta) * (eta * rate)

                      let found = c + B.t().mv (if isSoba then p else next)

                      if weight = 1.0 then
                          lambda <- lambda - found * 0.1
                      else
                          // MA-SOBA: x, y and z move at once, by what was known before
                          lambda <- lambda - h * 0.1
                          h <- h * (1.0 - weight) + found * weight

                      p <- next

                  lambda

              let runUnder meta method steps =
                  let problem = quadratic (sgd rate) 1 (Hypergradient.withProducts form method)
                  use run = new BilevelRun(under meta problem, 1L)

                  for _ in 1..steps do
                      run.Step() |> ignore

                  run.Lambda.Vector.clone ()

              let run = runUnder (sgd 0.1)
              let tolerance = if form = ProductForm.Exact then 1e-13 else 1e-8
              let soba = run (Hypergradient.soba 0.7) 30
              Expect.isLessThan (distance soba (written true 1.0 1 0.7 30)) tolerance "soba"
              let amigo = run (Hypergradient.amigo 3 0.7) 30
              Expect.isLessThan (distance amigo (written false 1.0 3 0.7 30)) tolerance "amigo"
              let moving = runUnder (averaging 0.3 (sgd 0.1)) (Hypergradient.soba 0.7) 30
              Expect.isLessThan (distance moving (written true 0.3 1 0.7 30)) tolerance "MA-SOBA"

      testCase "averaging: a weight outside (0, 1] is named, and it is no base rule of sama"
      <| fun _ ->
          for weight in [ 0.0; -0.1; 1.5; nan ] do
              throws [ "weight" ] (fun () -> averaging weight (sgd 0.1) |> ignore)

          throws [ "averaging"; "sama" ] (fun () -> quadratic (averaging 0.5 (sgd 0.1)) 1 Hypergradient.sama |> ignore)

      testCase "they end where the exact hypergradient vanishes, MA-SOBA by its averaging rule too"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let response = torch.linalg.solve (A, B)
          let best = torch.linalg.solve (response.t().mm response, -c)

          for method, meta in
              [ Hypergradient.soba 2.0, sgd 0.02
                Hypergradient.soba 2.0, averaging 0.2 (sgd 0.02)
                Hypergradient.amigo 5 2.0, sgd 0.02 ] do
              let problem = quadratic (sgd 0.2) 1 method |> under meta
              use run = new BilevelRun(problem, 1L)

              for _ in 1..6000 do
                  run.Step() |> ignore

              Expect.isLessThan (distance run.Lambda.Vector best) 1e-4 $"{method}"

      for method in
          [ Hypergradient.soba 0.5
            Hypergradient.amigo 2 0.5
            Hypergradient.everyNth 2 (Hypergradient.soba 0.5) Hypergradient.sama ] do
          testCase $"{method}: its memory is in the state: resumed, from a file too, bit for bit; pure steps the same"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let problem = reweightingWith (unrollBy 2) Stopped 0.2 (adam 0.02) method
              use run = new BilevelRun(problem, 5L)

              for _ in 1..7 do
                  run.Step() |> ignore

              use snapshot = run.Snapshot()
              Expect.isGreaterThan (Number.read (snapshot.Levels[0].Kept.norm ())) 0.0 "it keeps something"
              let path = Path.Combine(Path.GetTempPath(), $"sama-{Guid.NewGuid():N}.safetensors")
              Checkpoint.save path snapshot
              use loaded = Checkpoint.load problem path
              File.Delete path
              use second = new BilevelRun(problem, loaded)
              let pure', _ = Bilevel.step problem snapshot
              use pure' = pure'
              second.Step() |> ignore
              use after = second.Snapshot()

              Expect.isTrue
                  (pure'.Lambda.Equals after.Lambda
                   && pure'.Levels[0].Kept.Equals after.Levels[0].Kept)
                  "pure"

              for _ in 1..5 do
                  second.Step() |> ignore

              for _ in 1..6 do
                  run.Step() |> ignore

              Expect.isTrue (run.Lambda.Vector.Equals second.Lambda.Vector) "resumed"
              run.Restore snapshot

              for _ in 1..6 do
                  run.Step() |> ignore

              Expect.isTrue (run.Lambda.Vector.Equals second.Lambda.Vector) "restored"

      testCase "a memory is for one level above, and for elementwise rules"
      <| fun _ ->
          let level name above rule =
              Level.general name [ "x", torch.ones (2L, dtype = f64) ] rule ignore (fun _ levels () ->
                  square(levels[name].["x"] - levels[above].["x"]).sum ())

          throws [ "soba"; "several" ] (fun () ->
              Problem.create
                  BilevelOptions.Default
                  (Hypergradient.soba 1.0)
                  [ level "a" "b" (sgd 0.1); level "b" "c" (sgd 0.1); level "c" "a" (sgd 0.1) ]
              |> ignore)

          throws [ "amigo"; "couples" ] (fun () ->
              quadratic (UpdateRule.chain [ clipByGlobalNorm 1.0; sgd 0.1 ]) 1 (Hypergradient.amigo 2 1.0)
              |> ignore)

          throws [ "step"; "positive" ] (fun () -> Hypergradient.soba 0.0 |> ignore)
          throws [ "Iterations"; "at least 1" ] (fun () -> Hypergradient.amigo 0 1.0 |> ignore) ]

let tests =
    testList
        "descent"
        [ yield! phaseTests
          yield! solverTests

          testCase "no tensor is left behind"
          <| fun _ ->
              use run =
                  new BilevelRun(
                      reweighting
                          Stopped
                          0.2
                          (adam 0.02)
                          (Hypergradient.everyNth 2 (Hypergradient.soba 0.5) Hypergradient.sama),
                      1L
                  )

              let steps () =
                  for _ in 1..8 do
                      run.Step() |> ignore

              steps ()
              GC.Collect()
              GC.WaitForPendingFinalizers()
              let live = Tensor.TotalCount
              steps ()
              Expect.equal Tensor.TotalCount live "live tensors" ]
