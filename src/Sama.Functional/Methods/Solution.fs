namespace Sama

/// Where SAMA evaluates the derivatives of the base loss: at θₜ₋₁, where its last step began (the difference then tends
/// to the one-step-unrolled response), or at θₜ, where that step ended.
type Centre =
    /// θₜ₋₁, before the last base step
    | PreUpdate = 0
    /// θₜ, after it
    | PostUpdate = 1

/// Reverse through several base steps.
[<NoComparison>]
type UnrolledOptions =
    {
        /// base steps from the first to θₜ; 0 is the whole window of `Unroll` steps
        Steps: int
        /// how many of them, the last, are differentiated; 0 is all
        Last: int
        /// find the gradient of a step taken again instead of keeping those of the window; either way about √(2·Steps) states are
        /// kept and each step of the rule is taken again once at most (revolve)
        Recompute: bool
        /// differentiate through stop-features too, as the trajectory does: they depend on θ from the second step on
        FollowStops: bool
    }

    /// The whole window, every gradient kept, through stop-features.
    static member Default =
        { Steps = 0
          Last = 0
          Recompute = false
          FollowStops = true }

/// The Jacobians of the base rule's update u at its last step, (stateₜ₋₁, g, θₜ₋₁). Results are fresh handles.
type IRuleJacobians =
    /// True if ∂u/∂g is diagonal.
    abstract Elementwise: bool
    /// (∂u/∂g)ᵀ v.
    abstract Adapt: v: Tensor -> Tensor
    /// v ← (∂u/∂g)ᵀ v.
    abstract AdaptInPlace: v: Tensor -> unit
    /// (∂u/∂g) w.
    abstract AdaptForward: w: Tensor -> Tensor
    /// (∂u/∂θ)ᵀ v at fixed g: a rule's decay.
    abstract Decay: v: Tensor -> Tensor
    /// (∂u/∂θ) w at fixed g.
    abstract DecayForward: w: Tensor -> Tensor
    /// True if options of the rule are learned: u depends on λ at fixed g then.
    abstract LearnsOptions: bool
    /// (∂u/∂λ)ᵀ v at fixed g, by learned options; 0 without any.
    abstract OptionsVjp: v: Tensor -> Tensor
    /// (∂u/∂λ) d at fixed g.
    abstract OptionsJvp: d: Tensor -> Tensor

/// The base problem at its last step and its first-order gradients on that step's batch, with its masks and
/// stop-features. Vectors are flat, λ that of all upper levels, one behind the other; results are fresh handles unless
/// said otherwise.
type IBaseGradients =
    /// θₜ, after the last base step; borrowed, until `Perturbed` is called.
    abstract Theta: Tensor
    /// θₜ₋₁, before it; borrowed.
    abstract ThetaBefore: Tensor
    /// λ; borrowed.
    abstract Lambda: Tensor
    /// g = ∂L_base/∂θ at θₜ₋₁; borrowed.
    abstract Gradient: Tensor
    /// Mean over the micro-batches of their squared gradients at θₜ₋₁.
    abstract SquaredGradient: unit -> Tensor
    /// c + scale·v, c the centre and scale 0-D; borrowed until the next call.
    abstract Perturbed: centre: Centre * scale: Tensor * v: Tensor -> Tensor
    /// ∂L_base/∂θ at (theta, λ).
    abstract ThetaGradient: theta: Tensor -> Tensor
    /// ∂L_base/∂λ at (theta, λ), no graph of theta; at `ThetaBefore` the base pass's own where the method asked for it.
    abstract LambdaGradient: theta: Tensor -> Tensor
    /// The same on the first `microBatches` of an accumulated step alone, their mean.
    abstract LambdaGradient: theta: Tensor * microBatches: int -> Tensor

/// Products with the derivatives of the base gradient g(θ, λ) at one θ. Alive in the scope it was made in; results are
/// fresh handles.
type ILinearization =
    /// (∂g/∂θ)ᵀ w.
    abstract ThetaVjp: w: Tensor -> Tensor
    /// (∂g/∂λ)ᵀ w.
    abstract LambdaVjp: w: Tensor -> Tensor
    /// Both, at the price of one.
    abstract Vjps: w: Tensor -> struct (Tensor * Tensor)
    /// (∂g/∂λ) d.
    abstract LambdaJvp: d: Tensor -> Tensor

/// Products with second derivatives.
type IBaseProducts =
    /// The linearization at theta; with `followStops` also through stop-features. In the form
    /// that the method asked for (`Need.Products`), exactly without it.
    abstract Linearize: theta: Tensor * followStops: bool -> ILinearization

/// The base steps that led to θₜ.
type ITrajectory =
    /// (dθₜ/dλ)ᵀ v through the steps that were taken since the window began, and how many were
    /// differentiated.
    abstract Unrolled: options: UnrolledOptions * v: Tensor -> struct (Tensor * int)

/// What a method that has a memory (`Need.Memory`) kept.
type IMethodMemory =
    /// The vector of θ's length that its meta step before this one left; 0 at the first. Borrowed.
    abstract Kept: Tensor

/// A level at its last step, as a hypergradient method sees it.
type IBaseSolution =
    inherit IMethodMemory
    inherit IRuleJacobians
    inherit IBaseGradients
    inherit IBaseProducts
    inherit ITrajectory
