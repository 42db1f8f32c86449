/// Devices. libtorch's device of shapes without data ("meta") stands for a second one, so that these run anywhere.
module Sama.Tests.DeviceTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private elsewhere = torch.META

let private on (device: torch.Device) (batch: unit -> 'batch) (first: 'batch -> Tensor) =
    let ones () =
        torch.ones (3L, dtype = f64, device = device)

    Problem.create
        BilevelOptions.Default
        Hypergradient.sama
        [ Level.create "base" [ "w", ones () ] (sgd 0.1) (fun _ -> batch ()) (fun _ theta lambda batch ->
              (square (theta["w"] * first batch) * lambda["x"]).sum ())
          Level.create "meta" [ "x", ones () ] (sgd 0.1) ignore (fun _ theta _ () -> square(theta["w"]).sum ()) ]

let private scale (device: torch.Device) =
    torch.full ([| 3L |], scalar 2.0, dtype = f64, device = device)

let private steps problem =
    Bilevel.step problem (Bilevel.start 1L problem) |> ignore

let private refused (words: string list) action =
    Expect.throwsC action (function
        | :? ArgumentException as e ->
            for word in words do
                Expect.stringContains e.Message word ""
        | e -> failtest $"{e}")

/// The CPU read as any other device: its values are brought over together.
let private asDevice (problem: BilevelProblem) : BilevelProblem = { problem with ReadTogether = true }

let tests =
    testList
        "devices"
        [ testCase "a state moves with its rules' states, and back with the bits it had"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let problem = quadratic (adam 0.1) 1 Hypergradient.sama
              let state = after 3 problem
              let away = RunState.toDevice elsewhere state
              let copy = RunState.toDevice torch.CPU state

              for level in away.Levels do
                  for tensor in level.Vector :: List.ofSeq level.Rule.All do
                      Expect.equal (string tensor.device) (string elsewhere) "device"

              Expect.equal (away.Step, away.Seed) (state.Step, state.Seed) "step and seed"
              Expect.isTrue (copy.Theta.Equals state.Theta) "θ"
              Expect.notEqual copy.Theta.Handle state.Theta.Handle "a copy"

          testCase "a problem moves its parameters and modules"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let net = torch.nn.Linear(3L, 1L, dtype = f64)

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.ofModule "net" net (adam 0.1) ignore (fun _ () -> net.call(scale torch.CPU).sum ())
                        Level.create "meta" [ "x", torch.ones (1L, dtype = f64) ] (sgd 0.1) ignore (fun _ _ lambda () ->
                            lambda["x"].sum ()) ]

              let moved = Problem.toDevice elsewhere problem
              Expect.equal (string net.weight.device) (string elsewhere) "module"

              for level in moved.Levels do
                  Expect.equal (string (level.Initial()).device) (string elsewhere) level.Name

          testCase "levels on two devices are refused by name"
          <| fun _ ->
              refused [ "meta"; "cpu"; "'top'" ] (fun () ->
                  let level name (device: torch.Device) =
                      Level.create name [ "x", torch.ones (1L, device = device) ] (sgd 0.1) ignore (fun _ theta _ () ->
                          theta["x"].sum ())

                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ level "low" torch.CPU; level "top" elsewhere ]
                  |> ignore)

          testCase "a state on another device than its problem is refused by the level's name"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let problem = quadratic (sgd 0.1) 1 Hypergradient.sama
              let away = RunState.toDevice elsewhere (Bilevel.start 1L problem)
              refused [ "'base'"; "meta"; "RunState.toDevice" ] (fun () -> Bilevel.step problem away |> ignore)
              refused [ "'base'" ] (fun () -> new BilevelRun(problem, away) |> ignore)

          testCase "batches are moved to their level's device, and what cannot be is named"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let mutable seen = []

              let problem =
                  on elsewhere (fun () -> scale torch.CPU, [ scale elsewhere ]) (fun (moved, there) ->
                      seen <- [ for t in moved :: there -> string t.device ]
                      moved * there.Head)

              // a device of shapes has no numbers that a run could read
              let micro =
                  problem.Levels[0].Fetch
                      problem.LevelNames
                      { Seed = 1L
                        Step = 0L
                        Stream = 0
                        Rank = 0 }

              micro.Loss Mode.Meta [| for level in problem.Levels -> Params.frozen level.Layout (level.Initial()) |]
              |> ignore

              (micro :> IDisposable).Dispose()
              Expect.equal seen [ string elsewhere; string elsewhere ] "devices"

              Expect.throwsC (fun () -> steps (on torch.CPU (fun () -> scale elsewhere) id)) (function
                  | :? InvalidOperationException as e ->
                      for word in [ "level 'base'"; "([3]) on meta"; "move to cpu" ] do
                          Expect.stringContains e.Message word ""
                  | e -> failtest $"{e}")

          testCase "a tensor of another device that a loss captured is named by its level"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let captured = scale elsewhere

              Expect.throwsC (fun () -> steps (on torch.CPU ignore (fun () -> captured))) (function
                  | :? InvalidOperationException as e ->
                      for word in [ "level 'base'"; "captured" ] do
                          Expect.stringContains e.Message word ""
                  | e -> failtest $"{e}")

          for name, rule in RuleTests.rules do
              testCase $"where values are read together the run still is the fold of the pure step: {name}"
              <| fun _ ->
                  let problem = quadratic rule 2 Hypergradient.sama
                  use start = Bilevel.start 3L problem

                  let ended () =
                      use run = new BilevelRun(asDevice problem, start)
                      let reports = [ for _ in 1..6 -> run.Step() ]
                      let metas = reports |> List.map _.Meta |> List.filter (isNull >> not)

                      List.map _.BaseLoss reports,
                      [ for meta in metas -> meta.MetaLoss, meta.HypergradientNorm, meta.Response.Norm ],
                      run.Snapshot()

                  let losses, metas, state = ended ()
                  use state = state
                  let mutable folded = start

                  let expected =
                      [ for _ in 1..3 do
                            let next, reports = Bilevel.step problem folded
                            folded <- next
                            yield! List.map _.BaseLoss reports ]

                  Expect.equal losses expected "losses"
                  Expect.equal metas.Length 3 "meta steps"
                  Expect.isTrue (state.Theta.Equals folded.Theta && state.Lambda.Equals folded.Lambda) "state"

          testCase "where values are read together a failed step names what failed first, and leaves the state"
          <| fun _ ->
              let broken level (at: int64) (policy: NonFinitePolicy) =
                  let poison own (draw: Draw) (loss: Tensor) =
                      if own = level && draw.Step = at then loss * nan else loss

                  Problem.create
                      { BilevelOptions.Default with
                          NonFinite = policy }
                      Hypergradient.sama
                      [ Level.create
                            "low"
                            [ "w", torch.ones (3L, dtype = f64) ]
                            (adam 0.1)
                            id
                            (fun _ theta lambda draw -> (square theta["w"] * lambda["x"]).sum () |> poison "low" draw)
                        Level.create "top" [ "x", torch.ones (3L, dtype = f64) ] (adam 0.1) id (fun _ theta _ draw ->
                            square(theta["w"]).sum () |> poison "top" draw) ]

              for level in [ "low"; "top" ] do
                  let problem = asDevice (broken level 2L NonFinitePolicy.Stop)
                  use start = Bilevel.start 1L problem
                  use run = new BilevelRun(problem, start)
                  run.Step() |> ignore
                  run.Step() |> ignore
                  use before = run.Snapshot()

                  Expect.throwsC (fun () -> run.Step() |> ignore) (fun e ->
                      Expect.equal e.Message $"step 2, level '{level}': the loss is not finite" "")

                  use after = run.Snapshot()

                  for old, now in Seq.zip before.Levels after.Levels do
                      for a, b in
                          Seq.zip (old.Vector :: List.ofSeq old.Rule.All) (now.Vector :: List.ofSeq now.Rule.All) do
                          Expect.isTrue (a.Equals b) "as it was"

                  let problem = asDevice (broken level 2L NonFinitePolicy.Skip)
                  use run = new BilevelRun(problem, start)
                  let skipped = [ for _ in 1..4 -> run.Step().Skipped ]
                  Expect.equal (skipped |> List.map isNull) [ true; true; false; true ] "the third" ]
