module Sama.Tests.RuleTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let adapt (bound: BoundRule) =
    match bound.Adaptation with
    | Ok adapt -> adapt
    | Error reason -> failtest reason

let rules =
    [ "sgd", sgd 0.05
      "momentum, decay, dampening",
      sgdWith
          { SgdOptions.Default with
              Momentum = 0.9
              Dampening = 0.3
              WeightDecay = 0.1 }
      "nesterov, maximize",
      sgdWith
          { SgdOptions.Default with
              Momentum = 0.8
              Nesterov = true
              Maximize = true }
      "adam", adam 0.05
      "adam, decay, maximize",
      adamWith
          { AdamOptions.Default with
              WeightDecay = 0.1
              Maximize = true
              Epsilon = 1e-3 }
      "adamW", adamW 0.05 0.1
      "clip → adam → schedule",
      UpdateRule.chain [ clipByGlobalNorm 0.3; adam 0.05 ]
      |> UpdateRule.scheduled (fun t -> 1.0 / float (t + 1L))
      "groups",
      UpdateRule.groups
          [ (fun name -> name = "b"), adam 0.05
            (fun _ -> true), UpdateRule.chain [ clipByGlobalNorm 0.1; sgd 0.2 ] ] ]

let layout = Layout.create [ "a", [| 2L |]; "b", [| 2L; 2L |] ]

let tests =
    testList
        "rules"
        [ for name, rule in rules do
              testPropertyWithConfig
                  { FsCheckConfig.defaultConfig with
                      maxTest = 15 }
                  $"{name}: adaptation = vjp of the step"
              <| fun (PositiveInt seed) ->
                  use _ = torch.NewDisposeScope()
                  let bound = UpdateRule.bind layout rule

                  let draw i =
                      normal (int64 seed * 100L + int64 i) [| 6L |]

                  let theta = draw 0
                  let mutable state = bound.Init theta

                  for t in 1..5 do
                      let g, v = draw (2 * t), draw (2 * t + 1)
                      let closed = adapt bound state g theta v
                      let derivative = Autodiff.vjp (fun g -> fst (bound.Step state g theta)) g v
                      let scale = derivative.abs().max().item<float> ()
                      // at t = 1 the derivative of Adam's plain step is itself good to 6e-8 only
                      if t > 1 then
                          Expect.isLessThan ((closed - derivative).abs().max().item<float> ()) (1e-9 * scale) $"t = {t}"

                      state <- snd (bound.Step state g theta)

          for name, draw in
              RuleGenerators.elementwise
              @ RuleGenerators.coupled
              @ [ "three combinators", RuleGenerators.composition [ "matrix"; "vector"; "one"; "stack" ] ] do
              testPropertyWithConfig
                  { FsCheckConfig.defaultConfig with
                      maxTest = 25 }
                  $"drawn {name}: adaptation = vjp of the step"
              <| fun (PositiveInt seed) ->
                  use _ = torch.NewDisposeScope()
                  let random = Random seed
                  let layout = RuleGenerators.layout random
                  let bound = UpdateRule.bind layout (draw random)

                  let draw () =
                      normal (random.NextInt64 1000000L) [| layout.Length |]

                  let theta = draw ()
                  let mutable state = bound.Init theta

                  for t in 1..4 do
                      let g, v = draw (), draw ()
                      let closed = adapt bound state g theta v
                      let derivative = Autodiff.vjp (fun g -> fst (bound.Step state g theta)) g v
                      let scale = max (derivative.abs().max().item<float> ()) 1e-12
                      // the derivative of a plain step at t = 1 is itself rounding
                      if t > 1 then
                          Expect.isLessThan ((closed - derivative).abs().max().item<float> ()) (1e-9 * scale) $"t = {t}"

                      state <- snd (bound.Step state g theta)

          testCase "Adam's adaptation at t = 1 = lr ε/(|g| + ε)²"
          <| fun _ ->
              let o =
                  { AdamOptions.Default with
                      LearningRate = 0.1 }

              let bound = UpdateRule.bind layout (adamWith o)
              let g = normal 4L [| 6L |]
              let closed = adapt bound (bound.Init g) g g (torch.ones_like g)

              let expected =
                  torch.ones_like g * (o.LearningRate * o.Epsilon) / square (g.abs () + o.Epsilon)

              Expect.isLessThan (distance closed expected) 1e-13 ""

          testCase "Adam's adaptation is 0 where no gradient was ever seen"
          <| fun _ ->
              let bound = UpdateRule.bind layout (adam 0.1)
              let g = torch.zeros (6L, dtype = f64)
              let closed = adapt bound (bound.Init g) g g (torch.ones_like g)
              Expect.equal (closed.abs().max().item<float> ()) 0.0 ""

          for name, make, reference in
              [ "sgd", sgd 0.1, (fun (p: Modules.Parameter) -> torch.optim.SGD([ p ], 0.1) :> torch.optim.Optimizer)
                "adam", adam 0.1, (fun p -> torch.optim.Adam([ p ], 0.1) :> torch.optim.Optimizer)
                "adamW",
                adamW 0.1 0.05,
                (fun p -> torch.optim.AdamW([ p ], 0.1, weight_decay = 0.05) :> torch.optim.Optimizer) ] do
              testCase $"{name} follows TorchSharp's optimizer over 200 steps"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()
                  let bound = UpdateRule.bind layout make
                  let mutable theta = normal 7L [| 6L |]
                  let mutable state = bound.Init theta
                  let p = new Modules.Parameter(theta.clone ())
                  use optimizer = reference p

                  for t in 1L .. 200L do
                      let g = normal (100L + t) [| 6L |]
                      let u, next = bound.Step state g theta
                      theta <- theta - u
                      state <- next
                      p.grad <- g
                      optimizer.step () |> ignore

                  Expect.isLessThan (distance theta (p.detach ())) 1e-12 ""

          for name, option, make in
              [ "negative rate", "LearningRate", (fun () -> sgd -1.0)
                "NaN rate", "LearningRate", (fun () -> adam nan)
                "β₂ = 1", "Beta2", (fun () -> adamWith { AdamOptions.Default with Beta2 = 1.0 })
                "Nesterov alone",
                "Nesterov",
                (fun () ->
                    sgdWith
                        { SgdOptions.Default with
                            Nesterov = true })
                "clip to 0", "limit", (fun () -> clipByGlobalNorm 0.0) ] do
              testCase $"{name} is refused by name"
              <| fun _ ->
                  Expect.throwsC (make >> ignore) (function
                      | :? ArgumentException as e -> Expect.equal e.ParamName option "argument"
                      | e -> failtest $"{e}")

          testCase "a rule without adaptation is refused for SAMA, with its reason"
          <| fun _ ->
              let sign =
                  sgd 0.1 |> UpdateRule.withoutAdaptation "a sign has derivative zero; use samaNa"

              Expect.throwsC
                  (fun () ->
                      quadratic (UpdateRule.chain [ clipByGlobalNorm 1.0; sign ]) 1 Hypergradient.sama
                      |> ignore)
                  (fun e -> Expect.stringContains e.Message "use samaNa" "")

              quadratic sign 1 Hypergradient.samaNa |> ignore ]
