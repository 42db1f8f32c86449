/// What the library answers, as the oracle's vectors.
module Sama.Fixtures.Hypergradients.Library

open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference

/// Total and direct gradient, the response (their difference), and the report.
type Answer =
    { Total: Vec
      Direct: Vec
      Response: Vec
      Report: Report }

/// u = g: what needs no rule is computed under it.
let gradientRule: UpdateRule = sgd 1.0

/// The problem of these levels, and its first state: levels start where it is to be evaluated.
let start (unroll: int) (method: HypergradientMethod) (levels: Level list) : BilevelProblem * RunState =
    let problem =
        Problem.create
            { BilevelOptions.Default with
                Unroll = unroll }
            method
            levels

    problem, Bilevel.start 0L problem

/// The hypergradient by that method, behind so many base steps from where the levels start if it goes through them.
let ofRun (steps: int) (method: HypergradientMethod) (levels: Level list) : Answer =
    use _ = torch.NewDisposeScope()
    let mutable response = None

    // h − direct gradient would lose a response that is 1e-8 of the direct gradient, as Adam's first is
    let watched =
        { method with
            BestResponse =
                fun at v ->
                    let answer = method.BestResponse at v
                    response <- Some(Suite.toVector answer.Vector)
                    answer }

    let problem, state = start steps watched levels
    let h, direct, report = (Hypergradient.compute problem state).Parts
    let total, direct = Suite.toVector h, Suite.toVector direct

    { Total = total
      Direct = direct
      Response = Option.defaultValue (total - direct) response
      Report = report }

let levels (losses: Suite.Losses) rule (theta: Vec) (lambda: Vec) : Level list =
    Suite.levels losses rule (Suite.ofVector theta) (Suite.ofVector lambda)

/// The hypergradient by that method of levels evaluated where they start.
let ofLevels (method: HypergradientMethod) (levels: Level list) : Answer = ofRun 1 method levels

/// The same for losses of flat vectors.
let hypergradient losses rule (theta: Vec) (lambda: Vec) method : Answer =
    use _ = torch.NewDisposeScope()
    ofLevels method (levels losses rule theta lambda)

/// θ and the base rule's state after that many base steps.
let advance (steps: int) (levels: Level list) : Vec * RuleState =
    let problem, state = start 1 Hypergradient.samaNa levels

    let mutable state = state

    if steps > 0 then
        state <- fst (Bilevel.solve problem 0.0 steps state)

    Suite.toVector state.Theta, state.Levels[0].Rule

/// θ with ‖u‖ ≤ tolerance.
let solve (tolerance: float) (maxSteps: int) (levels: Level list) : Vec =
    let problem, state = start 1 Hypergradient.samaNa levels
    Suite.toVector (fst (Bilevel.solve problem tolerance maxSteps state)).Theta

/// L_meta seen from θ + u, u the step that `rule` takes at θ: a point is then evaluated at θ itself, not behind the step.
let seenFrom (theta: Vec) (lambda: Vec) (rule: UpdateRule) (losses: Suite.Losses) : Suite.Losses =
    let moved, _ = advance 1 (levels losses rule theta lambda)
    let back = Suite.ofVector (theta - moved)

    { losses with
        Meta = fun theta lambda -> losses.Meta (theta + back) lambda }

let private unit n i : Tensor =
    let e = Numbers.zeros n
    e[i] <- 1.0
    Suite.ofVector e

/// n × m: row i is the response by that method to the meta loss θᵢ.
let responseRows (method: HypergradientMethod) (losses: Suite.Losses) rule (theta: Vec) (lambda: Vec) : Mat =
    Numbers.rows
        [ for i in 0 .. theta.Count - 1 ->
              use _ = torch.NewDisposeScope()
              let e = unit theta.Count i

              let losses =
                  { losses with
                      Meta = fun theta _ -> e.dot theta }

              (hypergradient losses rule theta lambda method).Response.ToArray() ]

/// ∂u/∂λ, n × m: T1–T2's response to θᵢ is its i-th row, negated.
let updateByLambda losses rule theta lambda : Mat =
    -(responseRows Hypergradient.t1t2 losses rule theta lambda)

/// ∂g/∂λ
let cross losses theta lambda : Mat =
    updateByLambda losses gradientRule theta lambda

/// ∂g/∂θ, as the cross derivative of L_base(θ + s, λ) by s.
let hessian (losses: Suite.Losses) (theta: Vec) (lambda: Vec) : Mat =
    use _ = torch.NewDisposeScope()
    let fixedLambda = Suite.ofVector lambda

    let shifted: Suite.Losses =
        { Base = fun theta s -> losses.Base (theta + s) fixedLambda
          Meta = losses.Meta }

    cross shifted theta (Numbers.zeros theta.Count)

/// A loss and its gradient by one flat vector.
let valueAndGradient (loss: Tensor -> Tensor) (x: Vec) : float * Vec =
    use _ = torch.NewDisposeScope()
    let layout = Layout.create [ "x", [| int64 x.Count |] ]

    let value, gradient =
        Autodiff.gradient (fun p -> loss p["x"]) layout (Suite.ofVector x)

    value.item<float> (), Suite.toVector gradient
