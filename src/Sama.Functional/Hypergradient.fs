namespace Sama

open System

/// One method at a point, held against a reference.
[<NoComparison>]
type Comparison =
    {
        /// the method's name
        Method: string
        /// cosine of the two responses (h − direct gradient); NaN where one is 0
        Cosine: float
        /// ‖response‖/‖reference‖
        NormRatio: float
        /// ‖response − reference‖/‖reference‖
        RelativeError: float
        /// time of the whole hypergradient
        Milliseconds: float
        /// what the method did
        Report: Report
    }

/// SAMA's difference at one ε.
[<NoComparison>]
type EpsilonError =
    {
        /// α of ε = α/‖v‖
        Alpha: float
        /// the coordinates over which ‖v‖ is taken
        Norm: PerturbationNorm
        /// ε
        Epsilon: float
        /// to the exact mixed derivative of the same pass
        RelativeError: float
    }

/// What `Hypergradient.check` found.
[<NoComparison>]
type CheckReport =
    {
        /// relative error of the method to central differences of the re-solved base problem, along `Directions` directions
        DifferenceError: float
        /// random directions of λ
        Directions: int
        /// ‖u‖ that the re-solved problems reached
        Solved: float
        /// relative error of central SAMA to the exact mixed derivative of the same pass, from large to small ε; empty for
        /// a problem without second derivatives
        Gaps: EpsilonError[]
        /// false if the gap does not shrink: a feature that depends on θ is detached without `pass.Stop`
        StopsComplete: bool
    }

namespace Sama.Functional

open System
open System.Diagnostics
open TorchSharp
open Sama

/// Hypergradient methods, and what they give at a point.
[<RequireQualifiedAccess>]
module Hypergradient =

    /// A method from its best-response vjp, `solution v ↦ (vector, report)`; it may overwrite v.
    let create
        name
        (needs: Need list)
        (bestResponse: IBaseSolution -> Tensor -> Tensor * Report)
        : HypergradientMethod =
        { Name = name
          Needs = needs
          Adjoint = None
          BestResponse =
            fun at v ->
                let vector, report = bestResponse at v

                { Vector = vector
                  Move = None
                  Report = lazy report } }

    /// SAMA: ∂u/∂θ ≈ I, v adapted by the base rule: a hypergradient for three first-order backward passes.
    /// ArgumentException names an option out of range; so do all methods below.
    let samaWith (options: SamaOptions) : HypergradientMethod = SamaMethod.sama options

    /// SAMA with its default options.
    let sama: HypergradientMethod = samaWith SamaOptions.Default

    /// SAMA without adaptation: v is the meta gradient itself.
    let samaNaWith (options: SamaOptions) : HypergradientMethod = SamaMethod.samaNa options

    /// SAMA-NA with default options.
    let samaNa: HypergradientMethod = samaNaWith SamaOptions.Default

    /// SAMA's difference along v divided by an empirical-Fisher diagonal.
    let samaFisherWith (options: SamaFisherOptions) : HypergradientMethod = SamaFisher.method options

    /// SAMA-Fisher with default options.
    let samaFisher: HypergradientMethod = samaFisherWith SamaFisherOptions.Default

    /// The implicit function theorem, densely; refused above MaxSize parameters.
    let exactWith (options: ExactOptions) : HypergradientMethod = Exact.method options

    /// Exact with default options.
    let exact: HypergradientMethod = exactWith ExactOptions.Default

    /// Identity for the inverse, exact mixed second derivative, or its central difference.
    let t1t2With (options: T1T2Options) : HypergradientMethod = T1T2.method options

    /// T1–T2 with default options: −(∂g/∂λ)ᵀ (∂u/∂g)ᵀ v at θₜ₋₁, the one-step-unrolled response, SAMA's limit as ε → 0.
    let t1t2: HypergradientMethod = t1t2With T1T2Options.Default

    /// The Neumann series: η Σ (I − η ∂u/∂θ)ʲ for the inverse.
    let neumannWith (options: NeumannOptions) : HypergradientMethod = Neumann.method options

    /// That many terms of the Neumann series with step η.
    let neumann (terms: int) (step: float) : HypergradientMethod =
        neumannWith
            { NeumannOptions.Default with
                Terms = terms
                Step = step }

    /// Conjugate gradients; MINRES or normal equations where the rule asks for it.
    let conjugateGradientWith (options: ConjugateGradientOptions) : HypergradientMethod =
        ConjugateGradient.method options

    /// That many iterations of conjugate gradients.
    let conjugateGradient (iterations: int) : HypergradientMethod =
        conjugateGradientWith
            { ConjugateGradientOptions.Default with
                Iterations = iterations }

    /// The fixed-point iteration q ← q − η((∂u/∂θ)ᵀ q − v).
    let fixedPointWith (options: FixedPointOptions) : HypergradientMethod = FixedPoint.method options

    /// That many fixed-point iterations with step η.
    let fixedPoint (iterations: int) (step: float) : HypergradientMethod =
        fixedPointWith
            { FixedPointOptions.Default with
                Iterations = iterations
                Step = step }

    /// The inverse of a low-rank approximation from columns of the Hessian.
    let nystromWith (options: NystromOptions) : HypergradientMethod = Nystrom.method options

    /// Nyström of that rank with default options.
    let nystrom (rank: int) : HypergradientMethod =
        nystromWith
            { NystromOptions.Default with
                Rank = rank }

    /// Reverse through base steps.
    let unrolledWith (options: UnrolledOptions) : HypergradientMethod = Unrolled.method "unrolled" options

    /// Reverse through the whole window since the last meta step.
    let unrolled: HypergradientMethod = unrolledWith UnrolledOptions.Default

    /// Reverse through the last base steps alone.
    let truncated (last: int) : HypergradientMethod =
        Method.atLeast 1 (nameof last) last

        Unrolled.method
            "truncated"
            { UnrolledOptions.Default with
                Steps = last }

    /// The value-function penalty, first-order only.
    let f2saWith (options: F2saOptions) : HypergradientMethod = F2sa.method options

    /// F2SA with default options.
    let f2sa: HypergradientMethod = f2saWith F2saOptions.Default

    /// The hypergradient at a point, by the problem's method: base steps are tried from the state (one, or as many as the
    /// method goes through) with its batches, masks and rule state; the meta gradient is taken behind them. Total h and
    /// direct gradient, flat, owned by the caller, and the report. Nothing changes. NonFiniteException names what is not
    /// finite.
    let compute (problem: BilevelProblem) (state: RunState) : Tensor * Tensor * Report = Bilevel.compute problem state

    /// `compute` by another method. ArgumentException if the problem cannot serve it.
    let at (problem: BilevelProblem) (state: RunState) (method: HypergradientMethod) : Tensor * Tensor * Report =
        Bilevel.compute (Problem.withMethod method problem) state

    /// h − direct gradient, and the report.
    let private responseAt problem state method =
        let h, direct, report = at problem state method
        h - direct, report

    let private number (x: Tensor) = Number.read x

    /// Methods at one point, each held against `reference`: its response's cosine, length, error, time and report.
    let compare
        (problem: BilevelProblem)
        (state: RunState)
        (reference: HypergradientMethod)
        (methods: HypergradientMethod list)
        : Comparison list =
        Scope.run (fun _ ->
            let wide (x: Tensor) = x.to_type torch.float64
            let truth = wide (fst (responseAt problem state reference))
            let size = Method.size truth

            [ for method in methods ->
                  let clock = Stopwatch.StartNew()
                  let response, report = responseAt problem state method
                  let elapsed = clock.Elapsed.TotalMilliseconds
                  let response = wide response
                  let own = Method.size response

                  { Method = method.Name
                    Cosine = number (response.dot truth) / (own * size)
                    NormRatio = own / size
                    RelativeError = Method.size (response - truth) / size
                    Milliseconds = elapsed
                    Report = report } ])

    /// The error of SAMA's central difference against the exact mixed derivative of the same pass, for each α and norm.
    /// ArgumentException for a problem without second derivatives.
    let epsilonSweep
        (problem: BilevelProblem)
        (state: RunState)
        (alphas: float list)
        (norms: PerturbationNorm list)
        : EpsilonError list =
        Scope.run (fun _ ->
            let limit, _ = responseAt problem state t1t2
            let size = max (Method.size limit) Double.Epsilon

            [ for norm in norms do
                  for alpha in alphas ->
                      let response, report =
                          responseAt
                              problem
                              state
                              (samaWith
                                  { SamaOptions.Default with
                                      Alpha = Nullable alpha
                                      Norm = norm })

                      { Alpha = alpha
                        Norm = norm
                        Epsilon = report.Epsilon.GetValueOrDefault nan
                        RelativeError = Method.size (response - limit) / size } ])

    /// The problem's method at the point where the base problem is solved (‖u‖ ≤ tolerance or `maxSteps` steps, from the
    /// state), against central differences of the meta loss with the base problem solved again at λ ± δd, along
    /// `directions` random directions d; and central SAMA as ε → 0 against the exact mixed derivative of the same pass. For
    /// base problems that converge: a fixed batch, no masks.
    let check
        (problem: BilevelProblem)
        (tolerance: float)
        (maxSteps: int)
        (directions: int)
        (state: RunState)
        : CheckReport =
        Method.atLeast 1 (nameof directions) directions

        Scope.run (fun _ ->
            let solved, report = Bilevel.solve problem tolerance maxSteps state
            let h, _, _ = compute problem solved

            let delta =
                (if h.dtype = torch.float64 then 1e-4 else 1e-2)
                * max 1.0 (Method.size solved.Lambda)

            let metaLossAt (lambda: Tensor) =
                let moved =
                    { solved with
                        Levels =
                            [| solved.Levels[0]
                               { solved.Levels[1] with
                                   Vector = lambda } |] }

                let again, r = Bilevel.solve problem tolerance maxSteps moved
                Bilevel.metaLossAt problem again, r.Residual.GetValueOrDefault nan

            use generator = new torch.Generator(uint64 state.Seed)

            let errors =
                [ for _ in 1..directions ->
                      let d = torch.randn (h.shape, dtype = torch.float64, generator = generator)
                      let d = (d / d.norm ()).``to`` (h.dtype, h.device)
                      let plus, p = metaLossAt (solved.Lambda + d * delta)
                      let minus, m = metaLossAt (solved.Lambda - d * delta)
                      let slope = (plus - minus) / (2.0 * delta)
                      abs (slope - number (h.dot d)) ** 2.0, slope ** 2.0, max p m ]

            let gaps =
                if problem.Levels |> Array.exists _.Module.IsSome then
                    []
                else
                    epsilonSweep problem state [ 1e-1; 1e-2; 1e-3; 1e-4 ] [ PerturbationNorm.Active ]

            let first, least =
                match gaps with
                | [] -> 0.0, 0.0
                | gaps -> gaps.Head.RelativeError, (gaps |> List.map _.RelativeError |> List.min)

            { DifferenceError =
                sqrt (errors |> List.sumBy (fun (e, _, _) -> e))
                / max (sqrt (errors |> List.sumBy (fun (_, s, _) -> s))) Double.Epsilon
              Directions = directions
              Solved =
                errors
                |> List.map (fun (_, _, u) -> u)
                |> List.max
                |> max (report.Residual.GetValueOrDefault nan)
              Gaps = Array.ofList gaps
              StopsComplete = least < 1e-3 || least < first / 10.0 })
