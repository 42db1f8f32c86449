namespace Sama

/// What a method asks of the problem it is used in; checked when the problem is composed.
type Need =
    /// the base rule's adaptation
    | Adaptation
    /// exact products with second derivatives: models that are functions of Params
    | SecondDerivatives
    /// products with second derivatives, formed in that way
    | Products of form: ProductForm
    /// a base rule that acts on each coordinate by itself
    | ElementwiseRule
    /// ∂L_base/∂λ from the base pass itself
    | BaseLambdaGradient
    /// differences of gradients at perturbed parameters, which 16 bits do not hold
    | Differences
    /// the last base steps; 0: all since the last meta step. Of them, so many are differentiated; 0: all
    | History of steps: int * last: int
    /// so many micro-batches a base step at least
    | MicroBatches of count: int
    /// options of the base rule may be learned: the method adds their ∂u/∂λ
    | LearnedOptions
    /// no more base parameters than this
    | AtMost of parameters: int64
    /// θ is moved along v afterwards: v has to be the same on every rank
    | Nudge
    /// a vector of the base level's length that is kept from one meta step to the next, as part of the run's state
    | Memory

/// (dθ*/dλ)ᵀ v; the move that θ is left with, if any; what was done. Tensors are the caller's.
[<NoComparison; NoEquality>]
type Response =
    internal
        {
            Vector: Tensor
            Move: Tensor option
            /// what the next meta step finds in the method's memory, if it has one
            Kept: Tensor option
            /// read when it is asked for, in the step's scope: numbers of the response may still be on their device
            Report: Lazy<Report>
        }

/// What a solver of the adjoint system (∂u/∂θ)ᵀ q = v found: (dθ*/dλ)ᵀ v = −(∂g/∂λ)ᵀ p − (∂u/∂λ|_g)ᵀ q, p = (∂u/∂g)ᵀ q.
[<NoComparison; NoEquality>]
type internal Adjoint =
    {
        P: Tensor
        /// null where an elementwise rule's p was found by itself: q = p/D then
        Q: Tensor
        Report: Report
    }

/// A solver of the adjoint system, from the solution and its linearization; may overwrite the vector.
type internal AdjointSolver = IBaseSolution -> ILinearization -> Tensor -> Adjoint

/// How a level moves when what it depends on is moved: what a level above needs to know for its own total derivative.
[<NoComparison; NoEquality>]
type internal Motion =
    /// its last step is taken again
    | Retaken
    /// along dθ*/dλ, by the solver
    | AlongTangent of AdjointSolver
    /// not known, for this reason
    | Unknown of string

/// A best-response vjp v ↦ (dθ*/dλ)ᵀ v, and what it needs.
[<NoComparison; NoEquality>]
type HypergradientMethod =
    internal
        {
            Name: string
            Needs: Need list
            /// may overwrite v
            BestResponse: IBaseSolution -> Tensor -> Response
            Motion: Motion
            /// the method of each meta step, counted from 0, where it is made of several
            Choose: (int64 -> HypergradientMethod) option
        }

    override self.ToString() = self.Name

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// What the methods share.
module internal Method =

    /// p/D where D = ∂u/∂g is not 0, elsewhere 0: such a coordinate leaves the system.
    let over (at: IRuleJacobians) (p: Tensor) : Tensor =
        Scope.tensor (fun () ->
            let d = at.Adapt(torch.ones_like p)
            let stay = d.ne (Number.scalar 0.0)
            torch.where (stay, p / torch.where (stay, d, torch.ones_like d), torch.zeros_like p))

    let private inner (at: IRuleJacobians) (adjoint: Adjoint) : Tensor =
        if isNull adjoint.Q then over at adjoint.P else adjoint.Q

    /// The method whose response is −(∂g/∂λ)ᵀ p − (∂u/∂λ|_g)ᵀ q, at θₜ₋₁.
    let ofAdjoint name needs followStops (solve: AdjointSolver) : HypergradientMethod =
        { Name = name
          Needs = needs @ [ Adaptation; LearnedOptions ]
          Motion = AlongTangent solve
          Choose = None
          BestResponse =
            fun at v ->
                Scope.run (fun keep ->
                    let linear = at.Linearize(at.ThetaBefore, followStops)
                    let adjoint = solve at linear v
                    let vector = linear.LambdaVjp(adjoint.P).neg_ ()

                    if at.LearnsOptions then
                        vector.sub_ (at.OptionsVjp(inner at adjoint)) |> ignore

                    { Vector = keep vector
                      Move = None
                      Kept = None
                      Report = lazy adjoint.Report }) }

    /// (∂u/∂θ)ᵀ w = Hᵀ (∂u/∂g)ᵀ w + (the rule's decay).
    let transposed (at: IBaseSolution) (linear: ILinearization) (w: Tensor) : Tensor =
        Scope.tensor (fun () ->
            let product = Scope.tensor (fun () -> linear.ThetaVjp(at.Adapt w))
            product.add_ (at.Decay w))

    /// An elementwise rule has ∂u/∂θ = D H + E, D and E diagonal. With p = D q the adjoint system (∂u/∂θ)ᵀ q = v is
    /// Hᵀ p + (E/D) p = v, symmetric where H is, and without decay (E = 0) free of the rule. Coordinates with D = 0 have
    /// p = 0 and leave the system. The coordinates that stay, and E/D there: one 0 where the rule has no decay.
    let diagonals (at: IRuleJacobians) (like: Tensor) : Tensor * Tensor =
        Scope.run (fun keep ->
            let ones = torch.ones_like like
            let d, e = at.Adapt ones, at.Decay ones
            let stay = d.ne (Number.scalar 0.0)
            let over = torch.where (stay, e / torch.where (stay, d, ones), torch.zeros_like d)
            keep stay, keep (if over.any().item<bool> () then over else over.sum ()))

    let size (x: Tensor) : float =
        Scope.run (fun _ -> Number.read (Flat.norm x))

    /// ‖r‖/‖v‖, 0 for v = 0.
    let relative (residual: float) (norm: float) : float =
        if norm = 0.0 then 0.0 else residual / norm

    let positive name (value: float) =
        if not (value > 0.0 && Double.IsFinite value) then
            invalidArg name $"{name} is a positive number, not {value}"

    let nonNegative name (value: float) =
        if not (value >= 0.0 && Double.IsFinite value) then
            invalidArg name $"{name} is a finite number of at least 0, not {value}"

    /// A residual by which a solver stops, relative to the right-hand side: 0 solves to 1.
    let tolerance name (value: float) =
        if not (value >= 0.0 && value < 1.0) then
            invalidArg name $"{name} is a residual relative to v, in [0, 1), not {value}: at 1 the answer 0 would do"

    let atLeast (least: int) name (value: int) =
        if value < least then
            invalidArg name $"{name} is at least {least}, not {value}"
