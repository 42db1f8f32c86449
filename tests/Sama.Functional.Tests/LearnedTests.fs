/// Learned options of rules: hypergradients against central differences of the training run again.
module Sama.Tests.LearnedTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// A rule, and its options at the numbers that they start from.
let private rules: (string * UpdateRule * (string * float) list) list =
    let sgd' =
        { SgdOptions.Default with
            LearningRate = 0.05
            Momentum = 0.8
            Dampening = 0.1
            WeightDecay = 0.2 }

    let adam' decoupled amsgrad =
        { AdamOptions.Default with
            LearningRate = 0.05
            Beta2 = 0.9
            Epsilon = 1e-2
            WeightDecay = 0.2
            DecoupledDecay = decoupled
            AmsGrad = amsgrad }

    let moments =
        [ "LearningRate", 0.05
          "Beta1", 0.9
          "Beta2", 0.9
          "Epsilon", 1e-2
          "WeightDecay", 0.2 ]

    let sgdOptions = [ "LearningRate", 0.05; "Momentum", 0.8; "WeightDecay", 0.2 ]

    [ "sgd", sgdWith sgd', ("Dampening", 0.1) :: sgdOptions
      "nesterov, maximize",
      sgdWith
          { sgd' with
              Nesterov = true
              Dampening = 0.0
              Maximize = true },
      sgdOptions
      "adam", adamWith (adam' false false), moments
      "adamW", adamWith (adam' true false), moments
      "amsgrad", adamWith (adam' false true), moments
      "adamax",
      adamaxWith
          { AdamaxOptions.Default with
              LearningRate = 0.05
              Beta2 = 0.9
              Epsilon = 1e-2
              WeightDecay = 0.2 },
      moments
      "nadam",
      nadamWith
          { NAdamOptions.Default with
              LearningRate = 0.05
              Beta2 = 0.9
              Epsilon = 1e-2
              WeightDecay = 0.2 },
      ("MomentumDecay", 4e-3) :: moments
      "radam",
      radamWith
          { RAdamOptions.Default with
              LearningRate = 0.05
              Beta2 = 0.9
              Epsilon = 1e-2
              WeightDecay = 0.2
              DecoupledDecay = true },
      moments
      "rmsprop",
      rmspropWith
          { RmsPropOptions.Default with
              LearningRate = 0.05
              Alpha = 0.9
              Epsilon = 1e-2
              Momentum = 0.5
              Centered = true
              WeightDecay = 0.2 },
      [ "LearningRate", 0.05
        "Alpha", 0.9
        "Epsilon", 1e-2
        "Momentum", 0.5
        "WeightDecay", 0.2 ]
      "adagrad",
      adagradWith
          { AdagradOptions.Default with
              LearningRate = 0.05
              LearningRateDecay = 0.1
              Epsilon = 1e-2
              WeightDecay = 0.2 },
      [ "LearningRate", 0.05
        "LearningRateDecay", 0.1
        "Epsilon", 1e-2
        "WeightDecay", 0.2 ]
      "adadelta",
      adadeltaWith
          { AdadeltaOptions.Default with
              Epsilon = 1e-2
              WeightDecay = 0.2 },
      [ "LearningRate", 1.0; "Rho", 0.9; "Epsilon", 1e-2; "WeightDecay", 0.2 ]
      "adafactor",
      adafactorWith
          { AdafactorOptions.Default with
              LearningRate = 0.05
              Epsilon1 = Nullable 1e-5
              ClippingThreshold = 0.7
              WeightDecay = 0.2 },
      [ "LearningRate", 0.05
        "Beta2Decay", -0.8
        "ClippingThreshold", 0.7
        "WeightDecay", 0.2 ]
      "lamb",
      lambWith
          { LambOptions.Default with
              LearningRate = 0.05
              Beta2 = 0.9
              Epsilon = 1e-2
              WeightDecay = 0.2 },
      moments
      "asgd",
      asgdWith
          { AsgdOptions.Default with
              LearningRate = 0.05
              Lambd = 0.1
              WeightDecay = 0.2
              T0 = 1.0 },
      [ "LearningRate", 0.05; "Lambd", 0.1; "Alpha", 0.75; "WeightDecay", 0.2 ]
      "clipByGlobalNorm", clipByGlobalNormWith 0.01 0.02, [ "limit", 0.02; "slack", 0.01 ]
      "clipByValue", clipByValue 0.01, [ "limit", 0.01 ]
      "addDecay", addDecay 0.2, [ "weightDecay", 0.2 ]
      "decoupledDecay of adam", decoupledDecay 0.05 0.2 (adam 0.05), [ "rate", 0.05; "weightDecay", 0.2 ] ]

/// The option is `start` times exp of a parameter of the level above, which is 0 at first.
let private learn option (start: float) rule =
    UpdateRule.learning option (fun lambda -> lambda["o"].exp () * start) rule

let private x, y = normal 81L [| 9L; 3L |], normal 82L [| 9L; 2L |]
let private metaX, metaY = normal 83L [| 5L; 3L |], normal 84L [| 5L; 2L |]

let private options k =
    { BilevelOptions.Default with
        Unroll = k }

let private problemWith options method (length: int64) rule =
    let losses (p: Params) x (y: Tensor) =
        (square (torch.nn.functional.linear(x, p["weight"], p["bias"]).tanh () - y)).sum 1L

    Problem.create
        options
        method
        [ Level.create
              "base"
              [ "weight", normal 85L [| 2L; 3L |] * 0.5; "bias", normal 86L [| 2L |] * 0.3 ]
              rule
              ignore
              (fun _ theta lambda () ->
                  (losses theta x y * ((x.narrow (1L, 0L, 2L)).mv lambda["w"]).sigmoid ()).mean ()
                  + square(theta.Vector).sum () * 0.1)
          Level.create
              "meta"
              [ "w", normal 87L [| 2L |]; "o", torch.zeros (length, dtype = f64) ]
              (sgd 0.1)
              ignore
              (fun _ theta lambda () -> (losses theta metaX metaY).mean () + square(lambda["w"]).sum () * 0.01) ]

let private problem k method length rule =
    problemWith (options k) method length rule

/// A state behind six base steps, with λ where it started.
let private begun rule length =
    let plain = problem 1 Hypergradient.samaNa length rule
    use first = Bilevel.start 3L plain
    fst (Bilevel.solve plain 0.0 6 first)

/// f′ along every coordinate of λ, by four points.
let private slopes (at: Tensor -> float) (lambda: Tensor) : Tensor =
    let h = 2e-4

    torch.tensor
        [| for i in 0L .. lambda.numel () - 1L ->
               let f (by: float) =
                   use _ = torch.NewDisposeScope()
                   let moved = lambda.clone ()
                   moved[i].add_ (scalar by) |> ignore
                   at moved

               (8.0 * (f h - f (-h)) - (f (2.0 * h) - f (-2.0 * h))) / (12.0 * h) |]

/// The meta loss behind a window that starts at the state with another λ.
let private lossBehind (problem: BilevelProblem) (state: RunState) (lambda: Tensor) : float =
    let first = Problem.withMethod Hypergradient.samaNa problem
    let next, reports = Bilevel.step first (RunState.at 1 lambda state)
    next.Dispose()
    (List.last reports).Meta.MetaLoss

let private hypergradient problem state =
    (Hypergradient.compute problem state).Total

let private close (what: string) (tolerance: float) (found: Tensor) (expected: Tensor) =
    Expect.isLessThan (distance found expected) tolerance what
    // the option's own part
    let n = expected.numel ()
    let own (t: Tensor) = t.narrow (0L, 2L, n - 2L)
    Expect.isGreaterThan ((own expected).abs().max().item<float> ()) 1e-9 $"{what}: the option matters"
    Expect.isLessThan (distance (own found) (own expected)) tolerance $"{what}: the option's part"

let private check name rule length =
    testCase name
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        use state = begun rule length
        let window = problem 3 Hypergradient.unrolled length rule
        let step = problem 1 Hypergradient.t1t2 length rule

        let thrice = slopes (lossBehind window state) state.Lambda
        close "unrolled through three steps" 1e-6 (hypergradient window state) thrice

        let once = slopes (lossBehind step state) state.Lambda
        close "t1t2 through one" 1e-6 (hypergradient step state) once
        close "sama through one" 1e-6 (hypergradient (problem 1 Hypergradient.sama length rule) state) once

        close
            "unrolled by differences"
            1e-6
            (hypergradient
                (problem 3 (Hypergradient.withProducts ProductForm.Differences Hypergradient.unrolled) length rule)
                state)
            thrice

/// −(∂u/∂λ)ᵀ (∂u/∂θ)⁻ᵀ v, every derivative by differences of a step that is taken again.
let private implicitly (problem: BilevelProblem) (state: RunState) : Tensor =
    let behind index (x: Tensor) =
        use next = fst (Bilevel.step problem (RunState.at index x state))
        next.Theta.clone ()

    let jacobian index (x: Tensor) =
        let h = 1e-3

        torch.stack (
            [| for i in 0L .. x.numel () - 1L ->
                   let f (by: float) =
                       let moved = x.clone ()
                       moved[i].add_ (scalar by) |> ignore
                       behind index moved

                   ((f h - f (-h)) * 8.0 - (f (2.0 * h) - f (-2.0 * h))) / scalar (12.0 * h) |],
            1L
        )

    let metaLoss = lossBehind problem
    let j = torch.eye (state.Theta.numel (), dtype = f64) - jacobian 0 state.Theta
    // v = ∂L_meta/∂θ at θₜ: through θₜ(θₜ₋₁)
    let through =
        slopes (fun theta -> metaLoss (RunState.at 0 theta state) state.Lambda) state.Theta

    let v = torch.linalg.solve ((jacobian 0 state.Theta).t (), through)
    let q = torch.linalg.solve (j.t (), v)
    (jacobian 1 state.Lambda).t().mv q

let tests =
    testList
        "learned options"
        [ for name, rule, learned in rules do
              for option, start in learned do
                  check $"{name}: {option}" (learn option start rule) 1L

          for option, start in [ "LearningRate", 0.05; "WeightDecay", 0.2 ] do
              testCase $"lion: {option}, whose derivative the sign leaves alone"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()

                  let rule =
                      lionWith
                          { LionOptions.Default with
                              LearningRate = 0.05
                              WeightDecay = 0.2 }
                      |> learn option start

                  use state = begun rule 1L
                  let step = problem 1 Hypergradient.samaNa 1L rule
                  let own (t: Tensor) = t.narrow (0L, 2L, 1L)
                  let expected = own (slopes (lossBehind step state) state.Lambda)
                  Expect.isGreaterThan (expected.abs().item<float> ()) 1e-6 "it matters"
                  Expect.isLessThan (distance (own (hypergradient step state)) expected) 1e-6 ""

          check "a rate for each coordinate" (learn "LearningRate" 0.05 (adam 0.05)) 8L
          check "a decay for each parameter" (learn "WeightDecay" 0.2 (adamW 0.05 0.2)) 2L
          check "two options of a rule" (adam 0.05 |> learn "LearningRate" 0.05 |> learn "Beta1" 0.9) 1L

          check
              "in a chain under a schedule"
              (UpdateRule.chain
                  [ learn "limit" 0.02 (clipByGlobalNormWith 0.01 0.02)
                    learn "LearningRate" 0.05 (adam 0.05) ]
               |> UpdateRule.scheduled (Schedule.cosine 0.2 12L))
              1L

          check
              "in groups, one each"
              (UpdateRule.groups
                  [ (fun name -> name = "bias"),
                    UpdateRule.learning "LearningRate" (fun l -> l["o"].narrow(0L, 0L, 1L).exp () * 0.1) (sgd 0.1)
                    (fun _ -> true),
                    UpdateRule.learning "LearningRate" (fun l -> l["o"].narrow(0L, 1L, 1L).exp () * 0.05) (adam 0.05) ])
              2L

          check
              "inside a projection"
              (projectBox
                  -0.4
                  0.35
                  (learn
                      "Momentum"
                      0.5
                      (sgdWith
                          { SgdOptions.Default with
                              LearningRate = 0.05 })))
              1L

          for name, rule, learned in rules do
              if name.StartsWith "sgd" || name = "adamW" || name = "lamb" || name = "rmsprop" then
                  for option, start in learned do
                      testCase $"{name}: {option}, by methods that solve"
                      <| fun _ ->
                          use _ = torch.NewDisposeScope()
                          let rule = learn option start rule
                          use state = begun rule 1L
                          let at method = problem 1 method 1L rule
                          let answer = implicitly (at Hypergradient.exact) state

                          for method in
                              [ Hypergradient.exact
                                Hypergradient.conjugateGradientWith
                                    { ConjugateGradientOptions.Default with
                                        Iterations = 200
                                        Tolerance = 1e-13 } ] do
                              let found = Hypergradient.compute (at method) state
                              close $"{method}" 1e-5 (found.Total - found.Direct) answer

          testCase "the run is that of the rule with the option's number, bit for bit, and a pure step is the run's"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let learned = problem 3 Hypergradient.sama 1L (learn "LearningRate" 0.05 (adam 1.0))
              let plain = problem 3 Hypergradient.sama 1L (adam 0.05)
              use a = new BilevelRun(learned, 1L)
              use b = new BilevelRun(plain, 1L)

              for _ in 1..3 do
                  a.Step() |> ignore
                  b.Step() |> ignore

              Expect.isTrue (a.Theta.Vector.Equals b.Theta.Vector) "θ behind the first window"
              use start = Bilevel.start 1L learned
              use pure' = fst (Bilevel.step learned start)
              use snapshot = a.Snapshot()
              Expect.isTrue (pure'.Theta.Equals snapshot.Theta) "θ"
              Expect.isTrue (pure'.Lambda.Equals snapshot.Lambda) "λ"

          testCase "a state of the same rule without the learned option is another's"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use state = Bilevel.start 1L (problem 1 Hypergradient.sama 1L (adam 0.05))

              Expect.throwsC
                  (fun () ->
                      use _ =
                          new BilevelRun(
                              problem 1 Hypergradient.sama 1L (learn "LearningRate" 0.05 (adam 0.05)),
                              state
                          )

                      ())
                  (fun e -> Expect.stringContains e.Message "LearningRate learned" "")

          testCase "mistakes are named"
          <| fun _ ->
              let throws words body =
                  Expect.throwsC (fun () -> body () |> ignore) (fun e ->
                      for word: string in words do
                          Expect.stringContains e.Message word "")

              throws [ "adam"; "'Momentum'"; "Beta1" ] (fun () -> learn "Momentum" 0.9 (adam 0.1))
              throws [ "twice"; "Beta1" ] (fun () -> adam 0.1 |> learn "Beta1" 0.9 |> learn "beta1" 0.9)
              throws [ "made of" ] (fun () -> learn "LearningRate" 0.1 (UpdateRule.chain [ clipByValue 1.0; adam 0.1 ]))

              let composed rule = problem 1 Hypergradient.sama 1L rule

              throws [ "base"; "'nobody'"; "'meta'" ] (fun () ->
                  composed (UpdateRule.learningFrom "nobody" "LearningRate" (fun l -> l["o"]) (adam 0.1)))

              let stepped rule =
                  use run = new BilevelRun(composed rule, 1L)
                  run.Step()

              throws [ "base"; "LearningRate"; "at least 0"; "exp" ] (fun () ->
                  stepped (UpdateRule.learning "LearningRate" (fun l -> l["o"] - 1.0) (adam 0.1)))

              throws [ "base"; "3"; "8" ] (fun () ->
                  stepped (UpdateRule.learning "LearningRate" (fun _ -> torch.ones (3L, dtype = f64)) (adam 0.1)))

              throws [ "base"; "LearningRate"; "'nothing'" ] (fun () ->
                  stepped (UpdateRule.learning "LearningRate" (fun l -> l["nothing"]) (adam 0.1)))

              throws [ "own"; "LearnedOptions" ] (fun () ->
                  problem
                      1
                      (Hypergradient.create "own" [] (fun at _ -> torch.zeros_like at.Lambda, Report.empty "own"))
                      1L
                      (learn "LearningRate" 0.1 (adam 0.1)))

          testCase "a rate started ten times too small grows, one ten times too large shrinks"
          <| fun _ ->
              let ended (start: float) =
                  let rule = learn "LearningRate" start (sgd 1.0)
                  let levels = problem 1 Hypergradient.sama 1L rule

                  let problem =
                      Problem.create
                          BilevelOptions.Default
                          Hypergradient.sama
                          [ levels.Levels[0]
                            { Level.create
                                  "meta"
                                  [ "w", normal 87L [| 2L |]; "o", torch.zeros (1L, dtype = f64) ]
                                  (adam 0.05)
                                  ignore
                                  (fun _ theta _ () ->
                                      (square (
                                          torch.nn.functional.linear(x, theta["weight"], theta["bias"]).tanh () - y
                                      ))
                                          .mean ()) with
                                Observed = levels.Levels[1].Observed } ]

                  use run = new BilevelRun(problem, 1L)

                  for _ in 1..30 do
                      run.Step() |> ignore

                  use lambda = run.Lambda["o"].exp ()
                  lambda.item<float> ()

              Expect.isGreaterThan (ended 0.003) 1.5 "from too small"
              Expect.isLessThan (ended 300.0) 1.0 "from far too large" ]
