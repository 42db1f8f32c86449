namespace Sama

/// Options of AmIGO.
[<NoComparison>]
type AmigoOptions =
    {
        /// steps of the linear solve at each meta step
        Iterations: int
        /// η of these steps; they converge if all eigenvalues of I − η ∂u/∂θ are below 1 in size
        Step: float
    }

    /// Ten steps of η = 1.
    static member Default = { Iterations = 10; Step = 1.0 }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Solvers whose adjoint goes on from meta step to meta step. For an elementwise rule, ∂u/∂θ = D H + E, the adjoint system in
/// p = D q is H p + (E/D) p = v (`Method.diagonals`); one step is p ← p − η [D (H p − v) + E p], that of
/// q ← q − η ((∂u/∂θ)ᵀ q − v), without a division: a coordinate with D = 0 stays where it is. p is the method's memory, 0 before
/// the first meta step.
///
/// SOBA (Dagréou et al., A Framework for Bilevel Optimization That Enables Stochastic and Global Variance Reduction Algorithms,
/// NeurIPS 2022) takes one step a meta step, and the response with p as it was before it: θ, p and λ move at once. MA-SOBA
/// (Chen et al., Optimal Algorithms for Stochastic Bilevel Optimization under Relaxed Smoothness Conditions, 2023) moves λ by the
/// moving average of the hypergradients before it: a rule of the meta level, `averaging`. AmIGO (Arbel and Mairal,
/// Amortized Implicit Differentiation for Stochastic Bilevel Optimization, ICLR 2022) takes several, and the response behind
/// them.
module internal WarmStart =

    let private needs =
        [ Adaptation
          ElementwiseRule
          Products ProductForm.Default
          LearnedOptions
          Memory ]

    /// (∂u/∂θ)ᵀ q − v in terms of p, times D; H p is given.
    let private miss (at: IBaseSolution) (hp: Tensor) (p: Tensor) (v: Tensor) : Tensor =
        Scope.tensor (fun () -> at.Adapt(hp - v) + at.Decay p)

    let private response (at: IBaseSolution) (keep: Tensor -> Tensor) (ofLambda: Tensor) (p: Tensor) next report =
        let vector = ofLambda.neg ()

        if at.LearnsOptions then
            vector.sub_ (at.OptionsVjp(Method.over at p)) |> ignore

        { Vector = keep vector
          Move = None
          Kept = Some(keep next)
          Report = lazy report }

    let private report name (at: IBaseSolution) (rest: Tensor) (v: Tensor) products : Report =
        { Report.empty name with
            Passes = 1
            Products = products
            Residual = Nullable(Method.relative (Method.size rest) (Method.size (at.Adapt v))) }

    let soba (step: float) : HypergradientMethod =
        Method.positive (nameof step) step

        { Name = "soba"
          Needs = needs
          Motion = Unknown "soba's adjoint goes on from the meta step before"
          Choose = None
          BestResponse =
            fun at v ->
                Scope.run (fun keep ->
                    let p = at.Kept
                    let struct (hp, ofLambda) = at.Linearize(at.ThetaBefore, false).Vjps p
                    let rest = miss at hp p v
                    let report = report "soba" at rest v 2
                    response at keep ofLambda p (p - rest * step) report) }

    let amigo (o: AmigoOptions) : HypergradientMethod =
        Method.atLeast 1 "Iterations" o.Iterations
        Method.positive "Step" o.Step

        { Name = "amigo"
          Needs = needs
          Motion = Unknown "amigo's adjoint goes on from the meta step before"
          Choose = None
          BestResponse =
            fun at v ->
                Scope.run (fun keep ->
                    let linear = at.Linearize(at.ThetaBefore, false)
                    let p = at.Kept.clone ()
                    let mutable rest = null

                    for _ in 1 .. o.Iterations do
                        rest <- miss at (linear.ThetaVjp p) p v
                        p.sub_ (rest * o.Step) |> ignore

                    // of the last step's begin: one behind it would cost a product more
                    let report = report "amigo" at rest v (o.Iterations + 1)
                    response at keep (linear.LambdaVjp p) p p report) }
