module Sama.Tests.MethodTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// h of the quadratic at its solution: c + BᵀA⁻¹θ*.
let private closedForm (theta: Tensor) =
    c + B.t().mv (torch.linalg.solve (A, theta))

let private solved rule =
    let problem = quadratic (sgd 0.3) 1 Hypergradient.sama
    let state, report = Bilevel.solve problem 1e-14 20000 (Bilevel.start 1L problem)
    report.EnsureConverged()

    // at the solution under another rule, whose own state is the one it starts with
    { state with
        Levels =
            [| { state.Levels[0] with
                   Rule = (Bilevel.start 1L (quadratic rule 1 Hypergradient.sama)).Levels[0].Rule }
               state.Levels[1] |] }

let private response problem state method =
    let h, _, report = (Hypergradient.at problem state method).Parts
    h, report

let private rules =
    [ "sgd", sgd 0.3
      "momentum",
      sgdWith
          { SgdOptions.Default with
              LearningRate = 0.3
              Momentum = 0.9 } ]

/// L₁ = ½(θ₁ − θ₂)², L₂ = ½θ₁² + ½(θ₂ − θ₃)², L₃ = sin θ₁ + θ₁θ₂ + ½(θ₂ − 1)² + θ₃²/10: θ₁ = θ₂ = θ₃/2.
let private trilevel method =
    let top = 0.8

    let one name value rule loss =
        Level.general
            name
            [ "x", torch.full ([| 1L |], scalar value, dtype = f64) ]
            rule
            ignore
            (fun _ (levels: Levels) () -> loss (levels["one"].["x"]) (levels["two"].["x"]) (levels["three"].["x"]))

    Problem.create
        BilevelOptions.Default
        method
        [ one "one" (top / 2.0) (sgd 1.0) (fun a b _ -> square(a - b).sum () * 0.5)
          one "two" (top / 2.0) (sgd 1.0) (fun a b c -> (square(a).sum () + square(b - c).sum ()) * 0.5)
          one "three" top (sgd 1.0) (fun a b c -> (a.sin () + a * b + square (b - 1.0) * 0.5 + square c * 0.1).sum ()) ]

let tests =
    testList
        "methods"
        [ for name, rule in rules do
              for method in
                  [ Hypergradient.exact
                    Hypergradient.conjugateGradient 20
                    Hypergradient.neumann 600 1.0
                    Hypergradient.fixedPointWith
                        { FixedPointOptions.Default with
                            Iterations = 600
                            Tolerance = 1e-10 }
                    Hypergradient.nystromWith
                        { NystromOptions.Default with
                            Rank = 6
                            Rho = 1e-9 } ] do
                  testCase $"{method} = closed form at the solution: {name}"
                  <| fun _ ->
                      let problem = quadratic rule 1 Hypergradient.sama
                      let state = solved rule
                      let h, report = response problem state method
                      Expect.isLessThan (distance h (closedForm state.Theta)) 1e-6 $"{report}"

          testCase
              "unrolled = central differences of the trajectory, through momentum, Adam and stop-features; recomputed the same"
          <| fun _ ->
              for rule in [ snd rules[1]; adam 0.05 ] do
                  let problem = reweightingWith (unrollBy 4) Stopped 0.3 rule Hypergradient.unrolled

                  let state = after 1 (problem |> Problem.withMethod Hypergradient.sama)
                  let exact, _ = response problem state Hypergradient.unrolled

                  let recomputed, _ =
                      response
                          problem
                          state
                          (Hypergradient.unrolledWith
                              { UnrolledOptions.Default with
                                  Recompute = true })

                  Expect.equal (distance exact recomputed) 0.0 "recomputed"

                  Expect.isLessThan
                      (distance (fst (response problem state (Hypergradient.truncated 4))) exact)
                      1e-15
                      "truncated to all"

                  let metaLoss (lambda: Tensor) =
                      let moved =
                          { state with
                              Levels = [| state.Levels[0]; { state.Levels[1] with Vector = lambda } |] }

                      let reports =
                          snd (Bilevel.step (Problem.withMethod Hypergradient.sama problem) moved)

                      (List.last reports).Meta.MetaLoss

                  let numeric =
                      [| for i in 0L .. state.Lambda.numel () - 1L ->
                             let d = torch.zeros_like state.Lambda
                             d[i] <- torch.tensor (1e-5, dtype = f64)
                             (metaLoss (state.Lambda + d) - metaLoss (state.Lambda - d)) / 2e-5 |]

                  Expect.isLessThan (distance exact (torch.tensor numeric)) 1e-6 ""

          testCase "three levels: the middle one's total response"
          <| fun _ ->
              let expected = 0.16 + 0.5 * (cos 0.4 + 0.4 + 0.4 + 0.4 - 1.0)

              for method in [ Hypergradient.exact; Hypergradient.conjugateGradient 5 ] do
                  let problem = trilevel method
                  let h, _, _ = (Hypergradient.compute problem (Bilevel.start 0L problem)).Parts
                  Expect.floatClose Accuracy.high (h.item<float> ()) expected $"{method}"

          testCase "f2sa tends to the exact response as σ grows"
          <| fun _ ->
              let problem = quadratic (sgd 0.3) 1 Hypergradient.sama
              let state = solved (sgd 0.3)

              let h, report =
                  response
                      problem
                      state
                      (Hypergradient.f2saWith
                          { F2saOptions.Default with
                              Sigma = 1e4
                              Step = 0.3
                              Iterations = 2000
                              Tolerance = 1e-10 })

              Expect.isLessThan (distance h (closedForm state.Theta)) 1e-6 $"{report}"

          testCase "wrong combinations are refused when the problem is composed"
          <| fun _ ->
              let refused words make =
                  Expect.throwsC (make >> ignore) (function
                      | :? ArgumentException as e -> Expect.stringContains e.Message words ""
                      | e -> failtest $"{e}")

              refused "couples" (fun () -> quadratic (clipByGlobalNorm 1.0) 1 (Hypergradient.nystrom 2))
              refused "Unroll (2)" (fun () -> quadratic (sgd 0.1) 2 (Hypergradient.truncated 3))

              refused "limit is 3" (fun () ->
                  quadratic
                      (sgd 0.1)
                      1
                      (Hypergradient.exactWith
                          { ExactOptions.Default with
                              MaxSize = 3L }))

              refused "to be held" (fun () -> trilevel Hypergradient.f2sa)
              refused "lies between others" (fun () -> trilevel Hypergradient.unrolled)

          testCase "check: differences of the re-solved problem, and a missing stop"
          <| fun _ ->
              let problem = quadratic (sgd 0.3) 1 Hypergradient.exact
              let report = Hypergradient.check problem 1e-13 5000 3 (Bilevel.start 1L problem)
              Expect.isLessThan report.DifferenceError 1e-6 $"{report}"
              Expect.isTrue report.StopsComplete "quadratic"

              let gaps feature =
                  let problem = reweighting feature 0.0 (sgd 0.1) Hypergradient.sama
                  (Hypergradient.check problem 1.0 1 1 (Bilevel.start 1L problem)).StopsComplete

              Expect.isTrue (gaps Stopped) "stopped"
              Expect.isFalse (gaps Detached) "a bare detach"

          testCase "a non-finite step is skipped and reported where the options say so"
          <| fun _ ->
              let problem =
                  Problem.create
                      { BilevelOptions.Default with
                          NonFinite = NonFinitePolicy.Skip }
                      Hypergradient.sama
                      [ Level.create
                            "base"
                            [ "w", torch.ones (3L, dtype = f64) ]
                            (adam 0.1)
                            id
                            (fun _ theta lambda draw ->
                                let loss = (square theta["w"] * lambda["x"]).sum ()
                                if draw.Step = 1L then loss * nan else loss)
                        Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) ignore (fun _ theta _ () ->
                            square(theta["w"]).sum ()) ]

              use run = new BilevelRun(problem, Bilevel.start 1L problem)
              run.Step() |> ignore
              let before = run.Snapshot()
              let report = run.Step()
              Expect.stringContains report.Skipped "'base'" "reported"
              Expect.isTrue (run.Snapshot().Theta.Equals before.Theta) "unchanged"
              Expect.isNull (run.Step()).Skipped "the next one is taken" ]
