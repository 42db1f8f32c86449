namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Hypergradient methods, and what they give at a point.
[<RequireQualifiedAccess>]
module Hypergradient =

    /// A method from its best-response vjp, `solution v ↦ (vector, report)`; it may overwrite v. InvalidOperationException
    /// when the vector is unlike λ, or there is no report.
    let create
        name
        (needs: Need list)
        (bestResponse: IBaseSolution -> Tensor -> Tensor * Report)
        : HypergradientMethod =
        { Name = name
          Needs = needs
          Motion = Unknown "a method of one's own"
          Choose = None
          BestResponse =
            fun at v ->
                let what = $"method '{name}'"
                let vector, report = Contract.run what (fun () -> bestResponse at v)

                if isNull (box report) then
                    invalidOp $"{what} returned no report"

                let vector = Contract.like what "λ" at.Lambda vector

                { Vector = vector
                  Move = None
                  Kept = None
                  Report = lazy report } }

    /// The method, its products with second derivatives formed in that way: neumann, conjugateGradient, fixedPoint, nystrom,
    /// unrolled and truncated, which are exact for models as functions of Params and go by differences for modules unless they
    /// are told. ArgumentException for a method that has no choice: it forms no products, or exact ones alone (t1t2, whose
    /// difference is `sama`, and exact).
    let withProducts (form: ProductForm) (method: HypergradientMethod) : HypergradientMethod =
        Options.requireOne (nameof form) form

        let choice =
            function
            | Products _ -> true
            | _ -> false

        if method.Choose.IsSome then
            invalidArg
                (nameof method)
                $"'{method.Name}' is made of several methods: give each of them its form of products"

        if not (List.exists choice method.Needs) then
            invalidArg
                (nameof method)
                $"{method.Name} has no choice of how products are formed; neumann, conjugateGradient, fixedPoint, nystrom, unrolled and truncated have"

        { method with
            Needs =
                method.Needs
                |> List.map (fun need -> if choice need then Products form else need) }

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

    /// T1–T2: −(∂g/∂λ)ᵀ (∂u/∂g)ᵀ v at θₜ₋₁, the one-step-unrolled response, SAMA's limit as ε → 0.
    let t1t2: HypergradientMethod = T1T2.method

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

    /// SOBA (`WarmStart`): the adjoint goes one step of η along from meta step to meta step, beside θ and λ; one product
    /// pair a meta step.
    let soba (step: float) : HypergradientMethod = WarmStart.soba step

    /// AmIGO (`WarmStart`): the adjoint system is solved from where the meta step before it ended.
    let amigoWith (options: AmigoOptions) : HypergradientMethod = WarmStart.amigo options

    /// That many steps of η of AmIGO's solve.
    let amigo (iterations: int) (step: float) : HypergradientMethod =
        amigoWith { Iterations = iterations; Step = step }

    /// Two-phase descent: `usual` (sama, say) at most meta steps, `better` at every count-th, the first one among them. The
    /// problem has to serve both; reports name which ran. ArgumentException for a count below 2.
    let everyNth (count: int) (better: HypergradientMethod) (usual: HypergradientMethod) : HypergradientMethod =
        Phases.everyNth count better usual

    /// Two-phase descent: `first` for so many meta steps, `later` from then on. The problem has to serve both; reports name
    /// which ran. ArgumentException for less than one meta step.
    let switching (metaSteps: int64) (first: HypergradientMethod) (later: HypergradientMethod) : HypergradientMethod =
        Phases.switching metaSteps first later

    /// The hypergradient of the highest level at a point: base steps are tried from the state (one, or as many as the
    /// methods go through) with its batches, masks and rule state; the meta gradient is taken behind them. Nothing changes.
    /// NonFiniteException names what is not finite; ArgumentException for a state of another problem.
    let compute (problem: BilevelProblem) (state: RunState) : HypergradientResult = Diagnostics.compute problem state

    /// `compute` by another method. ArgumentException if the problem cannot serve it.
    let at (problem: BilevelProblem) (state: RunState) (method: HypergradientMethod) : HypergradientResult =
        compute (Problem.withMethod method problem) state

    /// Methods at one point, each held against `reference`: its response's cosine, length, error, time and report.
    let compare
        (problem: BilevelProblem)
        (state: RunState)
        (reference: HypergradientMethod)
        (methods: HypergradientMethod list)
        : Comparison list =
        Diagnostics.compare problem state reference methods

    /// The error of SAMA's central difference against the exact mixed derivative of the same pass, for each α and norm.
    /// ArgumentException for a problem without second derivatives.
    let epsilonSweep
        (problem: BilevelProblem)
        (state: RunState)
        (alphas: float list)
        (norms: PerturbationNorm list)
        : EpsilonError list =
        Diagnostics.epsilonSweep problem state alphas norms

    /// The problem's method at the point where the base problem is solved (‖u‖ ≤ tolerance or `maxSteps` steps, from the
    /// state), against central differences of the meta loss with the base problem solved again at λ ± δd, along
    /// `directions` random directions d; and SAMA as ε → 0 against the exact mixed derivative of the same pass, for modules
    /// against central differences of one base step taken at λ ± δd. For base problems that converge: a fixed batch, no
    /// masks. ArgumentException for more than two levels, no direction, a negative tolerance, no step.
    let check
        (problem: BilevelProblem)
        (tolerance: float)
        (maxSteps: int)
        (directions: int)
        (state: RunState)
        : CheckReport =
        Diagnostics.check problem tolerance maxSteps directions state

    /// Why the highest level moves at a state, or stands still: the parts of h, what the losses of the batches behind the
    /// state depend on, what the method met, what the level's rule makes of h. To print. A failure that a run would stop at
    /// is a finding. Nothing changes. ArgumentException for a problem of one level, or a state of another problem.
    let explain (problem: BilevelProblem) (state: RunState) : Explanation = Explanation.ofState problem state

    /// Names of the parameters that none of so many draws connects to a loss, as "level/parameter": a warning, since
    /// parameters that some batches alone use are ordinary. ArgumentException for no draw or a state of another problem.
    let unreached (problem: BilevelProblem) (state: RunState) (draws: int) : string list =
        Diagnostics.unreached problem state draws
