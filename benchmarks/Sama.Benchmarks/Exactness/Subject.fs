/// Problems of the suite whose base level the library solves, and the oracle's answer there.
module Sama.Benchmarks.Exactness.Subject

open System
open System.Diagnostics
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures.Hypergradients

/// One measurement. `Converged` is true only if the base problem is solved to ‖g‖ ≤ 1e-12 and the adjoint system to a
/// relative residual of 1e-12.
[<NoComparison>]
type Row =
    { Problem: string
      Algorithm: string
      Options: string
      Rule: string
      RelativeError: float
      Cosine: float
      Residual: float
      Converged: bool
      Products: int
      Milliseconds: float }

/// A problem, its losses with the adjoint laid open, and a base solution that the library found.
[<NoComparison; NoEquality>]
type Subject =
    {
        Name: string
        Losses: Suite.Losses
        Oracle: ReferenceProblem
        /// the exact answer at the oracle's own θ*
        Exact: ExactPoint
        /// the library's θ
        Theta: Vec
        /// 1/λ_max of H
        Step: float
        ConditionNumber: float
    }

/// Nesterov's steps from the problem's start until the loss falls no more; `steps` fixed steps of `rate` instead, if given.
let solve (fixedSteps: (int * float) option) (oracle: ReferenceProblem) (losses: Suite.Losses) : Subject =
    let exact = Exact.point oracle oracle.Lambda
    let step = 1.0 / exact.Derivatives.Hessian.L2Norm()

    let theta =
        match fixedSteps with
        | Some(steps, rate) ->
            Library.advance steps (Library.levels losses (sgd rate) oracle.Start oracle.Lambda)
            |> fst
        | None -> Points.solve losses exact.Derivatives.Hessian oracle.Start oracle.Lambda

    { Name = oracle.Name
      Losses = losses
      Oracle = oracle
      Exact = exact
      Theta = theta
      Step = step
      ConditionNumber = exact.ConditionNumber }

let private extend (subject: Subject) =
    Numbers.vector (Seq.append subject.Exact.Lambda (Numbers.zeros subject.Theta.Count))

/// A method run from `theta` for `steps` base steps (1 for those that look at one point).
let measure
    (subject: Subject)
    (ruleName: string)
    (rule: UpdateRule)
    algorithm
    options
    steps
    (theta: Vec)
    (method: HypergradientMethod)
    =
    use _ = torch.NewDisposeScope()
    let n, m = theta.Count, subject.Exact.Lambda.Count

    let levels =
        Library.levels (Suite.withAdjoint n subject.Losses) rule theta (extend subject)

    // the first call compiles: the second is timed
    let problem, state = Library.start steps method levels
    Hypergradient.compute problem state |> ignore
    let clock = Stopwatch.StartNew()
    let h, _, report = (Hypergradient.compute problem state).Parts
    let elapsed = clock.Elapsed.TotalMilliseconds
    let all = Suite.toVector h
    let total, q = all.SubVector(0, m), all.SubVector(m, n)
    let final, _ = Library.advance steps levels
    let at = Exact.at subject.Oracle subject.Exact.Lambda final
    let residual = Adjoint.residual at.Derivatives.Hessian at.MetaGradient q
    let gradient = Numbers.norm at.Derivatives.Gradient

    { Problem = subject.Name
      Algorithm = algorithm
      Options = options
      Rule = ruleName
      RelativeError = Numbers.relativeError total subject.Exact.Hypergradient
      Cosine = Numbers.cosine total subject.Exact.Hypergradient
      Residual = residual
      Converged = gradient <= 1e-12 && residual <= 1e-12
      Products = (if report.Products > 0 then report.Products else steps)
      Milliseconds = elapsed }

/// Adam after some steps whose momentum has died down: at a solution its step is 0.
let settledAdam (n: int) : UpdateRule =
    let rng = Random 1

    RuleState.create
        4L
        [ "exp_avg", Suite.ofVector (Numbers.zeros n)
          "exp_avg_sq", Suite.ofVector (Numbers.each (fun x -> (0.05 + 0.45 * x) ** 2.0) (Numbers.uniform rng n)) ]
        []
    |> fun state -> Rules.startingAt state (adam 0.05)
