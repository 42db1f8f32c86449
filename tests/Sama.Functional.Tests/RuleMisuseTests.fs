/// Options out of range, unknown names, rules of one's own, and averaged SGD against its closed form.
module Sama.Tests.RuleMisuseTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private refused option (make: unit -> 'a) =
    Expect.throwsC (make >> ignore) (function
        | :? ArgumentException as e -> Expect.equal e.ParamName option e.Message
        | e -> failtest $"{e}")

/// A rule, an option of it and a value that the option cannot have.
let private badOptions: (string * string * (unit -> UpdateRule)) list =
    let adamWith change =
        fun () -> adamWith (change AdamOptions.Default)

    [ "sgd", "LearningRate", (fun () -> sgd -1.0)
      "sgd",
      "Momentum",
      (fun () ->
          sgdWith
              { SgdOptions.Default with
                  Momentum = -0.1 })
      "sgd",
      "Dampening",
      (fun () ->
          sgdWith
              { SgdOptions.Default with
                  Dampening = nan })
      "adam", "Beta1", adamWith (fun o -> { o with Beta1 = 1.0 })
      "adam", "Epsilon", adamWith (fun o -> { o with Epsilon = -1e-8 })
      "adam", "WeightDecay", adamWith (fun o -> { o with WeightDecay = infinity })
      "adam", "CorrectBeforeMaximum", adamWith (fun o -> { o with CorrectBeforeMaximum = true })
      "adamax",
      "Beta2",
      (fun () ->
          adamaxWith
              { AdamaxOptions.Default with
                  Beta2 = 1.5 })
      "nadam",
      "MomentumDecay",
      (fun () ->
          nadamWith
              { NAdamOptions.Default with
                  MomentumDecay = -1.0 })
      "radam", "LearningRate", (fun () -> radam nan)
      "rmsprop",
      "Alpha",
      (fun () ->
          rmspropWith
              { RmsPropOptions.Default with
                  Alpha = 1.0 })
      "rmsprop",
      "Momentum",
      (fun () ->
          rmspropWith
              { RmsPropOptions.Default with
                  Momentum = -0.5 })
      "adagrad",
      "LearningRateDecay",
      (fun () ->
          adagradWith
              { AdagradOptions.Default with
                  LearningRateDecay = -0.5 })
      "adagrad",
      "InitialAccumulator",
      (fun () ->
          adagradWith
              { AdagradOptions.Default with
                  InitialAccumulator = -0.5 })
      "adadelta",
      "Rho",
      (fun () ->
          adadeltaWith
              { AdadeltaOptions.Default with
                  Rho = 1.0 })
      "adadelta",
      "Epsilon",
      (fun () ->
          adadeltaWith
              { AdadeltaOptions.Default with
                  Epsilon = 0.0 })
      "adafactor",
      "Beta2Decay",
      (fun () ->
          adafactorWith
              { AdafactorOptions.Default with
                  Beta2Decay = 0.5 })
      "adafactor",
      "ClippingThreshold",
      (fun () ->
          adafactorWith
              { AdafactorOptions.Default with
                  ClippingThreshold = 0.0 })
      "lamb", "LearningRate", (fun () -> lamb -1.0)
      "lamb", "Beta1", (fun () -> lambWith { LambOptions.Default with Beta1 = 1.0 })
      "lion",
      "Beta2",
      (fun () ->
          lionWith
              { LionOptions.Default with
                  Beta2 = -0.1 })
      "lion",
      "Temperature",
      (fun () ->
          lionWith
              { LionOptions.Default with
                  Temperature = 0.0 })
      "asgd", "T0", (fun () -> asgdWith { AsgdOptions.Default with T0 = -1.0 })
      "asgd",
      "Lambd",
      (fun () ->
          asgdWith
              { AsgdOptions.Default with
                  Lambd = -1.0 })
      "clipByValue", "limit", (fun () -> clipByValue -1.0)
      "decoupledDecay", "weightDecay", (fun () -> decoupledDecay 0.1 -1.0 (sgd 0.1))
      "projectBox", "upper", (fun () -> projectBox 1.0 0.0 (sgd 0.1))
      "chain", "rules", (fun () -> UpdateRule.chain []) ]

/// u = lr·g/(1 + |g|): bounded, and smooth.
let private softSign (rate: float) : UpdateRule =
    UpdateRule.create "softSign" (fun _ -> RuleState.empty) (fun state g _ ->
        g * rate / (g.abs () + 1.0), { state with Count = state.Count + 1L })

let tests =
    testList
        "rules, misused and made"
        [ for rule, option, make in badOptions do
              testCase $"{rule} refuses a bad {option}" <| fun _ -> refused option make

          testCase "names that the level does not have are named"
          <| fun _ ->
              let layout = Layout.create [ "a", [| 2L |]; "b", [| 3L |] ]

              for rule in
                  [ freeze [ "c" ] (sgd 0.1)
                    groupsByName [ [ "a"; "b" ], sgd 0.1; [ "c" ], sgd 0.2 ] ] do
                  Expect.throwsC (fun () -> UpdateRule.bind layout rule |> ignore) (function
                      | :? ArgumentException as e -> Expect.stringContains e.Message "'c'" "the name"
                      | e -> failtest $"{e}")

              refused "groups" (fun () -> UpdateRule.bind layout (groupsByName [ [ "a" ], sgd 0.1 ]))

          testCase "a rule of one's own is differentiated, combined and trained"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let layout = Layout.create [ "x", [| 5L |] ]
              let bound = UpdateRule.bind layout (softSign 0.1)
              let g, v = normal 1L [| 5L |], normal 2L [| 5L |]

              match bound.Adaptation with
              | Ok adapt ->
                  let expected = v * 0.1 / square (g.abs () + 1.0)
                  Expect.isLessThan (distance (adapt (bound.Init g) g g v) expected) 1e-15 "lr/(1 + |g|)²"
              | Error reason -> failtest reason

              let combined = UpdateRule.chain [ clipByGlobalNorm 1.0; softSign 0.1 ]
              after 3 (quadratic combined 1 Hypergradient.sama) |> RunState.dispose

          let dividing (wrong: bool ref) =
              UpdateRule.create
                  "broken"
                  (fun theta -> RuleState.create 0L [ "seen", torch.zeros_like theta ] [])
                  (fun state g _ ->
                      let u = if wrong.Value then g / 0.0 else g * 0.1
                      u, RuleState.create (state.Count + 1L) [ "seen", state["seen"] + g ] [])

          for what, broken in
              [ "a rule that divides by zero", dividing
                "one behind another in a chain", (fun wrong -> UpdateRule.chain [ adam 0.1; dividing wrong ])
                "one before another in a chain", (fun wrong -> UpdateRule.chain [ dividing wrong; adam 0.1 ])
                "a projection to NaN", (fun wrong -> adam 0.1 |> project (fun x -> if wrong.Value then x * nan else x)) ] do
              testCase $"{what} leaves the run as it was"
              <| fun _ ->
                  let wrong = ref false
                  let broken = broken wrong

                  let problem = quadratic broken 100 Hypergradient.samaNa
                  use run = new BilevelRun(problem, Bilevel.start 5L problem)

                  for _ in 1..2 do
                      run.Step() |> ignore

                  wrong.Value <- true
                  use before = run.Snapshot()

                  Expect.throwsC (fun () -> run.Step() |> ignore) (function
                      | :? NonFiniteException as e -> Expect.stringContains e.Message "the update" "what is not finite"
                      | e -> failtest $"{e}")

                  use after = run.Snapshot()
                  Expect.equal after.Step before.Step "step"

                  for level in 0..1 do
                      Expect.isTrue (after.Levels[level].Vector.Equals before.Levels[level].Vector) "parameters"

                      for a, b in Seq.zip after.Levels[level].Rule.All before.Levels[level].Rule.All do
                          Expect.isTrue (a.Equals b) "state"

          for what, words, u in
              [ "another shape", [ "[2]"; "[3]" ], (fun (g: Tensor) -> g.narrow (0L, 0L, 2L))
                "one number", [ "[]" ], (fun (g: Tensor) -> g.sum ())
                "another type", [ "Float32" ], (fun (g: Tensor) -> g.to_type torch.float32)
                "nothing", [ "null" ], (fun _ -> null) ] do
              testCase $"a rule of one's own whose update is {what} is refused by name"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()

                  let rule =
                      UpdateRule.create "mine" (fun _ -> RuleState.empty) (fun state g _ -> u g, state)

                  let bound = UpdateRule.bind (Layout.create [ "x", [| 3L |] ]) rule
                  let theta = torch.ones (3L, dtype = torch.float64)

                  Expect.throwsC (fun () -> bound.Step (bound.Init theta) theta theta |> ignore) (fun e ->
                      for word in "'mine'" :: words do
                          Expect.stringContains e.Message word "the message")

          testCase "averaged SGD without gradients: θₜ = θ₀ ∏(1 − λη), ax the mean of θ₂ … θₜ"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let o =
                  { AsgdOptions.Default with
                      LearningRate = 0.5
                      Lambd = 0.2
                      T0 = 0.0 }

              let bound = UpdateRule.bind (Layout.create [ "x", [| 3L |] ]) (asgdWith o)
              let start = torch.tensor [| 1.0; -2.0; 4.0 |]
              let mutable theta = start
              let mutable state = bound.Init theta

              let eta t =
                  o.LearningRate / (1.0 + o.Lambd * o.LearningRate * float (t - 1)) ** o.Alpha

              let factor t =
                  List.fold (fun p k -> p * (1.0 - o.Lambd * eta k)) 1.0 [ 1..t ]

              for t in 1..8 do
                  let u, next = bound.Step state (torch.zeros_like theta) theta
                  theta <- theta - u
                  state <- next
                  Expect.isLessThan (distance theta (start * factor t)) 1e-14 $"θ, t = {t}"

                  if t > 1 then
                      let mean = List.averageBy factor [ 2..t ]
                      Expect.isLessThan (distance state["ax"] (start * mean)) 1e-14 $"average, t = {t}" ]
