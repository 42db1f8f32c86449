/// Every hypergradient method under every rule that it admits, on drawn P7 problems, against dense algebra.
module Sama.Tests.DrawnProblemTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures.Hypergradients

/// A drawn problem, a point that is no solution, and a rule with a state of its own.
[<NoComparison; NoEquality>]
type private Drawn =
    {
        /// the meta loss seen from the point itself
        Losses: Suite.Losses
        Plain: Suite.Losses
        Oracle: ReferenceProblem
        Theta: Vec
        Lambda: Vec
        Rule: UpdateRule
    }

/// Four steps of the rule with drawn gradients: Adam's first derivatives are rounding.
let private warmedUp (seed: int) (n: int) (rule: UpdateRule) =
    let rng = Random seed
    let bound = UpdateRule.bind (Layout.create [ "theta", [| int64 n |] ]) rule
    let theta = Suite.ofVector (Numbers.normal rng n)

    (bound.Init theta, [ 1..4 ])
    ||> List.fold (fun state _ -> snd (bound.Step state (Suite.ofVector (0.3 * Numbers.normal rng n)) theta))

/// Dimensions 1 to 12 and 1 to 6, condition numbers from 1 to 300.
let private draw (seed: int) (rule: UpdateRule) : Drawn =
    let rng = Random seed
    let n, m = rng.Next(1, 13), rng.Next(1, 7)
    let data, lambda = Smooth.draw seed n m (10.0 ** (2.5 * rng.NextDouble()))
    let oracle = Smooth.problem data lambda
    let theta = Exact.solve oracle lambda + 0.1 * Numbers.normal rng n
    let rule = Rules.startingAt (warmedUp seed n rule) rule

    let plain = Suite.smooth data

    { Losses = Library.seenFrom theta lambda rule plain
      Plain = plain
      Oracle = oracle
      Theta = theta
      Lambda = lambda
      Rule = rule }

let private answer (drawn: Drawn) method =
    Library.hypergradient drawn.Losses drawn.Rule drawn.Theta drawn.Lambda method

/// ∂u/∂g, row by row, by automatic differentiation of the step.
let private updateByGradient (drawn: Drawn) (g: Vec) : Mat =
    let bound =
        UpdateRule.bind (Layout.create [ "theta", [| int64 g.Count |] ]) drawn.Rule

    let theta = Suite.ofVector drawn.Theta
    let state = bound.Init theta
    let step g = fst (bound.Step state g theta)

    Numbers.rows
        [ for i in 0 .. g.Count - 1 ->
              let e = (Numbers.identity g.Count).Row i
              (Suite.toVector (Autodiff.vjp step (Suite.ofVector g) (Suite.ofVector e))).ToArray() ]

/// ∂u/∂θ at fixed g.
let private decay (drawn: Drawn) (g: Vec) : Mat =
    let bound =
        UpdateRule.bind (Layout.create [ "theta", [| int64 g.Count |] ]) drawn.Rule

    let start = Suite.ofVector drawn.Theta
    let state, g = bound.Init start, Suite.ofVector g
    let step theta = fst (bound.Step state g theta)

    Numbers.rows
        [ for i in 0 .. drawn.Theta.Count - 1 ->
              let e = (Numbers.identity drawn.Theta.Count).Row i
              (Suite.toVector (Autodiff.vjp step start (Suite.ofVector e))).ToArray() ]

/// Everything dense: G = ∂u/∂g, J = ∂u/∂θ = G H + E, U = ∂u/∂λ = G C, and the point that they belong to.
type private Dense =
    { At: ExactPoint
      G: Mat
      E: Mat
      J: Mat
      U: Mat }

let private dense (drawn: Drawn) : Dense =
    let at = Exact.at drawn.Oracle drawn.Lambda drawn.Theta
    let g = updateByGradient drawn at.Derivatives.Gradient
    let e = decay drawn at.Derivatives.Gradient

    { At = at
      G = g
      E = e
      J = g * at.Derivatives.Hessian + e
      U = g * at.Derivatives.Cross }

/// h = d − Uᵀ q
let private total (d: Dense) (q: Vec) : Vec =
    d.At.Direct - d.U.TransposeThisAndMultiply q

let private close tolerance what (found: Vec) (expected: Vec) =
    Expect.isLessThan (Numbers.norm (found - expected)) (tolerance * max (Numbers.norm expected) 1e-12) what

let private rules =
    [ "sgd", sgd 0.3
      "momentum, decay, dampening",
      sgdWith
          { SgdOptions.Default with
              LearningRate = 0.3
              Momentum = 0.9
              Dampening = 0.3
              WeightDecay = 0.1 }
      "nesterov, maximize",
      sgdWith
          { SgdOptions.Default with
              LearningRate = 0.2
              Momentum = 0.8
              Nesterov = true
              Maximize = true }
      "maximize, decay",
      sgdWith
          { SgdOptions.Default with
              LearningRate = 0.2
              WeightDecay = 0.4
              Maximize = true }
      "adam", adam 0.3
      "adam, decay",
      adamWith
          { AdamOptions.Default with
              LearningRate = 0.3
              WeightDecay = 0.1 }
      "adamW", adamW 0.3 0.1
      "clip → adam", UpdateRule.chain [ clipByGlobalNorm 0.05; adam 0.3 ] ]

let private couples (name: string) = name.StartsWith "clip"

/// Solvers are good to max(1e-8, 100 κ u), normal equations to κ².
let private solverTolerance (matrix: Mat) power =
    max 1e-8 (100.0 * matrix.ConditionNumber() ** power * 1.1e-16)

let private property name test =
    testPropertyWithConfig
        { FsCheckConfig.defaultConfig with
            maxTest = 8 }
        name
        (fun (PositiveInt seed) ->
            use _ = torch.NewDisposeScope()
            test seed)

let private cg iterations tolerance =
    Hypergradient.conjugateGradientWith
        { ConjugateGradientOptions.Default with
            Iterations = iterations
            Tolerance = tolerance }

let private underEachRule =
    [ for name, rule in rules do
          property $"{name}: exact, T1–T2, Neumann and fixed point = dense algebra in ∂u" (fun seed ->
              let drawn = draw seed rule
              let d = dense drawn
              let v, n = d.At.MetaGradient, drawn.Theta.Count
              let jt = d.J.Transpose()
              let start = Numbers.normal (Random seed) n
              let exact = total d (jt.Solve v)
              let found = answer drawn Hypergradient.exact
              close (solverTolerance d.J 1.0) "exact" found.Total exact
              close 1e-10 "direct gradient" found.Direct d.At.Direct
              close 1e-10 "t1t2" (answer drawn Hypergradient.t1t2).Total (total d v)
              let neumann = answer drawn (Hypergradient.neumann 7 0.4)
              let q = Adjoint.neumann 7 0.4 jt v
              close 1e-8 "neumann" neumann.Total (total d q)

              Expect.isLessThan
                  (abs (neumann.Report.Residual.Value - Adjoint.residual jt v q))
                  1e-8
                  "neumann's residual"

              let fixedPoint =
                  Hypergradient.fixedPointWith
                      { FixedPointOptions.Default with
                          Iterations = 6
                          Step = 0.4
                          Tolerance = 0.0
                          Start = Suite.ofVector start }

              let q = Adjoint.fixedPoint 6 0.4 start jt v
              let found = answer drawn fixedPoint
              close 1e-8 "fixedPoint" found.Total (total d q)
              Expect.equal found.Report.Converged (Nullable false) "6 iterations from a drawn start"
              Expect.isLessThan (abs (found.Report.Residual.Value - Adjoint.residual jt v q)) 1e-8 "its residual")

          property $"{name}: conjugate gradients = dense algebra" (fun seed ->
              let drawn = draw seed rule
              let d = dense drawn
              let n = drawn.Theta.Count
              let found = answer drawn (cg (20 * n) 1e-13)
              let power = if couples name then 2.0 else 1.0

              close
                  (solverTolerance d.J power)
                  "conjugateGradient"
                  found.Total
                  (total d (d.J.Transpose().Solve d.At.MetaGradient)))

          if not (couples name) then
              property
                  $"{name}: Nyström and damped conjugate gradients = dense algebra in the symmetric form"
                  (fun seed ->
                      let drawn = draw seed rule
                      let d = dense drawn
                      let n = drawn.Theta.Count
                      let a = d.At.Derivatives.Hessian + d.G.Inverse() * d.E
                      let half = [| 0 .. (n + 1) / 2 - 1 |]

                      let hypergradient (p: Vec) =
                          d.At.Direct - d.At.Derivatives.Cross.TransposeThisAndMultiply p

                      let nystrom =
                          Hypergradient.nystromWith
                              { NystromOptions.Default with
                                  Columns = Array.map int64 half
                                  Rho = 0.1 }

                      close
                          1e-7
                          "nystrom"
                          (answer drawn nystrom).Total
                          (hypergradient (Adjoint.nystrom half 0.1 a d.At.MetaGradient))

                      let damped =
                          Hypergradient.conjugateGradientWith
                              { ConjugateGradientOptions.Default with
                                  Iterations = 20 * n
                                  Tolerance = 1e-13
                                  Damping = 0.2 }

                      let shifted = a + 0.2 * Numbers.identity n

                      close
                          (solverTolerance shifted 1.0)
                          "damping"
                          (answer drawn damped).Total
                          (hypergradient (shifted.Solve d.At.MetaGradient)))

          property $"{name}: SAMA tends to T1–T2, SAMA-NA to −Cᵀv, with α²" (fun seed ->
              let drawn = draw seed rule

              let sama alpha =
                  answer
                      drawn
                      (Hypergradient.samaWith
                          { SamaOptions.Default with
                              Alpha = Nullable alpha })

              let limit = (answer drawn Hypergradient.t1t2).Response
              close 1e-6 "sama" (sama 1e-4).Response limit

              let na =
                  answer
                      drawn
                      (Hypergradient.samaNaWith
                          { SamaOptions.Default with
                              Alpha = Nullable 1e-4 })

              let d = Exact.at drawn.Oracle drawn.Lambda drawn.Theta
              close 1e-6 "samaNa" na.Response (-(d.Derivatives.Cross.TransposeThisAndMultiply d.MetaGradient))
              let coarse = Numbers.relativeError (sama 1e-1).Response limit
              let fine = Numbers.relativeError (sama 1e-2).Response limit
              Expect.isLessThan fine (coarse / 50.0 + 1e-10) "a hundredth of the error at a tenth of α") ]

/// The run that the library takes, as a function of λ.
let private finalMetaLoss (drawn: Drawn) steps (lambda: Vec) =
    use _ = torch.NewDisposeScope()
    let levels = Library.levels drawn.Losses drawn.Rule drawn.Theta lambda
    let theta, _ = Library.advance steps levels
    (drawn.Losses.Meta (Suite.ofVector theta) (Suite.ofVector lambda)).item<float> ()

let private unrolledBy steps last recompute =
    Hypergradient.unrolledWith
        { UnrolledOptions.Default with
            Steps = steps
            Last = last
            Recompute = recompute }

let private run (drawn: Drawn) steps method =
    Library.ofRun steps method (Library.levels drawn.Losses drawn.Rule drawn.Theta drawn.Lambda)

let private unrolling =
    [ for name, rule in rules do
          property $"{name}: unrolled = central differences of the run; recomputed, the same" (fun seed ->
              let drawn = draw seed rule
              let found = run drawn 7 (unrolledBy 7 0 false)

              // clipping has kinks: a difference that a wide step takes across one is right with a narrower
              let agrees (step: float) =
                  let expected =
                      Numbers.gradientByDifferences (finalMetaLoss drawn 7) step drawn.Lambda

                  Numbers.norm (found.Total - expected) < 1e-6 * max (Numbers.norm expected) 1e-12

              Expect.exists [ 1e-3; 1e-4; 1e-5 ] agrees "unrolled"

              let recomputed = run drawn 7 (unrolledBy 7 0 true)
              close 1e-13 "recomputed" recomputed.Total found.Total
              let truncated = run drawn 7 (unrolledBy 7 3 false)
              close 1e-13 "truncated, recomputed" (run drawn 7 (unrolledBy 7 3 true)).Total truncated.Total
              close 1e-13 "truncated to all" (run drawn 7 (unrolledBy 7 7 false)).Total found.Total)

      property "unrolled and truncated = the oracle's forward mode: momentum, Adam" (fun seed ->
          for rule, reference in
              [ sgdWith
                    { SgdOptions.Default with
                        LearningRate = 0.3
                        Momentum = 0.8 },
                Sgd(0.3, 0.8)
                adam 0.05, Adam(0.05, 0.9, 0.999, 1e-8) ] do
              let drawn = draw seed rule

              let bound =
                  UpdateRule.bind (Layout.create [ "theta", [| int64 drawn.Theta.Count |] ]) drawn.Rule

              let state = bound.Init(Suite.ofVector drawn.Theta)
              let tensor (name: string) = Suite.toVector state[name]

              let first, second =
                  match reference with
                  | Sgd _ -> tensor "momentum_buffer", Numbers.zeros drawn.Theta.Count
                  | Adam _ -> tensor "exp_avg", tensor "exp_avg_sq"

              let before =
                  { Count = int state.Count
                    First = first
                    Second = second }

              // the oracle's meta loss is not shifted by the first step
              let drawn = { drawn with Losses = drawn.Plain }

              for last in [ 6; 2 ] do
                  let _, expected =
                      Unrolled.hypergradient reference drawn.Oracle drawn.Lambda before drawn.Theta 6 last

                  close 1e-10 $"{reference}, last {last}" (run drawn 6 (unrolledBy 6 last false)).Total expected)

      property "unrolled → exact at the contraction rate of gradient descent" (fun seed ->
          let rng = Random seed
          let n, m = rng.Next(1, 9), rng.Next(1, 5)
          let data, lambda = Smooth.draw seed n m (1.0 + 9.0 * rng.NextDouble())
          let oracle = Smooth.problem data lambda
          let point = Exact.point oracle lambda
          let rate = 1.0 / (Exact.at oracle lambda point.Theta).Derivatives.Hessian.L2Norm()
          let low = 1.0 / point.Derivatives.Hessian.Inverse().L2Norm()
          let losses = Suite.smooth data

          let drawn =
              { Losses = losses
                Plain = losses
                Oracle = oracle
                Theta = point.Theta
                Lambda = lambda
                Rule = sgd rate }

          for steps in [ 1; 5; 25; 125 ] do
              let found = run drawn steps (unrolledBy steps 0 false)
              // from θ* the run stays there: the rest of the series is Cᵀ (I − ηH)ᵏ H⁻¹ v
              let bound =
                  point.Derivatives.Cross.L2Norm()
                  * (1.0 - rate * low) ** float steps
                  * Numbers.norm point.Adjoint

              Expect.isLessThan
                  (Numbers.norm (found.Total - point.Hypergradient))
                  (1.001 * bound + 1e-10)
                  $"{steps} steps") ]

/// v enters by the meta loss: ⟨v, θ⟩ for a drawn v.
let private respond (drawn: Drawn) steps method (v: Vec) =
    use _ = torch.NewDisposeScope()
    let v = Suite.ofVector v

    let losses =
        { drawn.Losses with
            Meta = fun theta _ -> v.dot theta }

    (Library.ofRun steps method (Library.levels losses drawn.Rule drawn.Theta drawn.Lambda)).Response

let private linearMethods =
    [ "exact", 1, Hypergradient.exact
      "t1t2", 1, Hypergradient.t1t2
      "neumann", 1, Hypergradient.neumann 5 0.4
      "fixedPoint",
      1,
      Hypergradient.fixedPointWith
          { FixedPointOptions.Default with
              Iterations = 5
              Step = 0.4
              Tolerance = 0.0 }
      "nystrom",
      1,
      Hypergradient.nystromWith
          { NystromOptions.Default with
              Rank = 2
              Rho = 0.3 }
      "unrolled", 4, unrolledBy 4 0 false
      "truncated", 4, unrolledBy 4 2 false ]

let private laws =
    [ for name, steps, method in linearMethods do
          property $"{name} is linear in v" (fun seed ->
              let drawn = draw seed (adam 0.3)
              let rng = Random(seed + 1)
              let n = drawn.Theta.Count
              let a, b = Numbers.normal rng n, Numbers.normal rng n
              let respond = respond drawn steps method
              close 1e-8 name (respond (2.0 * a - 3.0 * b)) (2.0 * respond a - 3.0 * respond b))

      property "central SAMA is odd and homogeneous in v" (fun seed ->
          let drawn = draw seed (adam 0.3)
          let v = Numbers.normal (Random(seed + 1)) drawn.Theta.Count

          for method in [ Hypergradient.sama; Hypergradient.samaNa; Hypergradient.samaFisher ] do
              let respond = respond drawn 1 method
              let one = respond v
              // to the rounding of a pass over α: products of the same numbers differ with their alignment in memory
              close 1e-8 $"{method}: odd" (respond (-v)) (-one)
              close 1e-8 $"{method}: homogeneous" (respond (3.0 * v)) (3.0 * one))

      property "adjoint identity: ⟨response(v), w⟩ = ⟨v, (dθ*/dλ) w⟩" (fun seed ->
          let drawn = draw seed (sgd 0.3)
          let d = dense drawn
          let rng = Random(seed + 1)

          let v, w =
              Numbers.normal rng drawn.Theta.Count, Numbers.normal rng drawn.Lambda.Count

          let forward = -(d.J.Solve(d.U * w))
          let left = respond drawn 1 Hypergradient.exact v * w
          Expect.isLessThan (abs (left - v * forward)) (1e-8 * (1.0 + Numbers.norm forward * Numbers.norm v)) "")

      property "without decay, the exact answer and conjugate gradients do not know the rule" (fun seed ->
          let free = draw seed (sgd 0.3)
          let expected = Exact.at free.Oracle free.Lambda free.Theta

          for rule in [ adam 0.3; sgd 0.7 ] do
              let drawn = draw seed rule

              for method in [ Hypergradient.exact; cg (20 * drawn.Theta.Count) 1e-13 ] do
                  close
                      (solverTolerance expected.Derivatives.Hessian 1.0)
                      $"{rule} {method}"
                      (answer drawn method).Total
                      expected.Hypergradient)

      property "SAMA-Fisher = −Cᵀ v/(g² + ρ mean g²)" (fun seed ->
          let drawn = draw seed (adam 0.3)
          let at = Exact.at drawn.Oracle drawn.Lambda drawn.Theta
          let fisher = Numbers.times at.Derivatives.Gradient at.Derivatives.Gradient

          let p =
              at.MetaGradient.PointwiseDivide(fisher + 0.1 * (fisher.Sum() / float fisher.Count))

          let limit = -(at.Derivatives.Cross.TransposeThisAndMultiply p)
          close 1e-6 "" (answer drawn Hypergradient.samaFisher).Response limit)

      property "F2SA → exact with 1/σ" (fun seed ->
          let drawn = draw seed (sgd 0.3)
          let at = Exact.at drawn.Oracle drawn.Lambda drawn.Theta
          let exact = at.Hypergradient - at.Direct

          let error sigma =
              let method =
                  Hypergradient.f2saWith
                      { F2saOptions.Default with
                          Sigma = sigma
                          Iterations = 20000
                          Step = 0.5 / at.Derivatives.Hessian.L2Norm()
                          Tolerance = 1e-6 }

              Numbers.relativeError (answer drawn method).Response exact

          let far, near = error 1e3, error 1e4
          Expect.isLessThan near (max 1e-4 (far / 5.0)) $"at σ = 1e3 {far}") ]

let private honesty =
    [ property "conjugate gradients, Neumann and fixed point report when they have not converged" (fun seed ->
          let data, lambda = Smooth.draw seed 8 3 100.0
          let theta = Exact.solve (Smooth.problem data lambda) lambda
          let losses = Suite.smooth data

          for method in [ cg 2 1e-10; Hypergradient.neumann 3 0.5; Hypergradient.fixedPoint 3 0.5 ] do
              let report =
                  (Library.hypergradient losses Library.gradientRule theta lambda method).Report

              Expect.equal report.Converged (Nullable false) $"{method}"
              Expect.isGreaterThan report.Residual.Value 1e-6 $"{method}"
              Expect.throwsT<InvalidOperationException> (fun () -> report.EnsureConverged()) $"{method}"

          // a step beyond 2/L diverges, and the residual says so
          let report =
              (Library.hypergradient losses Library.gradientRule theta lambda (Hypergradient.neumann 60 5.0)).Report

          Expect.isGreaterThan report.Residual.Value 1.0 "divergent"

          let exact =
              (Library.hypergradient losses Library.gradientRule theta lambda Hypergradient.exact).Report

          Expect.equal exact.Converged (Nullable true) "exact") ]

let tests = testList "drawn problems" (underEachRule @ unrolling @ laws @ honesty)
