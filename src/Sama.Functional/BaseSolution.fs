namespace Sama

open System

/// Where a method evaluates the derivatives of the base loss: at θₜ₋₁, where its last step began (SAMA's difference then
/// tends to the one-step-unrolled response), or at θₜ, where that step ended.
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
        /// keep every √Steps-th state and take the others' steps again, instead of keeping all
        Recompute: bool
        /// differentiate through stop-features too, as the trajectory does: they depend on θ from the second step on
        FollowStops: bool
    }

    /// The whole window, every state kept, through stop-features.
    static member Default =
        { Steps = 0
          Last = 0
          Recompute = false
          FollowStops = true }

/// The base gradient g(θ, λ) with its graph, at one θ: products with its derivatives. Alive in the scope it was made in.
type ILinearization =
    /// (∂g/∂θ)ᵀ w; a fresh handle.
    abstract ThetaVjp: w: Tensor -> Tensor
    /// (∂g/∂λ)ᵀ w; a fresh handle.
    abstract LambdaVjp: w: Tensor -> Tensor

/// The base problem at its last step u = rule(state, g(θ, λ), θ), as a hypergradient method sees it: vectors are flat,
/// λ that of all upper levels, one behind the other. Results are fresh handles unless said otherwise.
type IBaseSolution =
    /// θₜ, after the last base step; borrowed, until `Perturbed` is called.
    abstract Theta: Tensor
    /// θₜ₋₁, before it; borrowed.
    abstract ThetaBefore: Tensor
    /// λ; borrowed.
    abstract Lambda: Tensor
    /// g = ∂L_base/∂θ at θₜ₋₁ on the last base batch; borrowed.
    abstract Gradient: Tensor
    /// Mean over the micro-batches of their squared gradients at θₜ₋₁.
    abstract SquaredGradient: unit -> Tensor
    /// True if the rule's ∂u/∂g is diagonal.
    abstract Elementwise: bool
    /// (∂u/∂g)ᵀ v at (stateₜ₋₁, g, θₜ₋₁).
    abstract Adapt: v: Tensor -> Tensor
    /// v ← (∂u/∂g)ᵀ v.
    abstract AdaptInPlace: v: Tensor -> unit
    /// (∂u/∂g) w.
    abstract AdaptForward: w: Tensor -> Tensor
    /// (∂u/∂θ)ᵀ v at fixed g: a rule's decay.
    abstract Decay: v: Tensor -> Tensor
    /// (∂u/∂θ) w at fixed g.
    abstract DecayForward: w: Tensor -> Tensor
    /// c + scale·v, c the centre and scale 0-D; borrowed until the next call.
    abstract Perturbed: centre: Centre * scale: Tensor * v: Tensor -> Tensor
    /// ∂L_base/∂θ at (theta, λ) on the last base batch, first order.
    abstract ThetaGradient: theta: Tensor -> Tensor
    /// ∂L_base/∂λ at (theta, λ) on the last base batch with its masks and stop-features; first order, no graph of theta.
    abstract LambdaGradient: theta: Tensor -> Tensor
    /// The same on the first `microBatches` of an accumulated step alone, their mean.
    abstract LambdaGradientOn: theta: Tensor * microBatches: int -> Tensor
    /// ∂L_base/∂λ at θₜ₋₁: the base pass's own, where the method asked for it.
    abstract LambdaGradientBefore: unit -> Tensor
    /// Second derivatives at theta, functional models only; with `followStops` also through stop-features.
    abstract Linearize: theta: Tensor * followStops: bool -> ILinearization
    /// (dθₜ/dλ)ᵀ v through the base steps that led to θₜ, functional models only, and how many were differentiated.
    abstract Unrolled: options: UnrolledOptions * v: Tensor -> struct (Tensor * int)

namespace Sama.Functional

open TorchSharp
open Sama

/// One base step before it was taken: the passes of its micro-batches, and where they were evaluated.
[<NoComparison; NoEquality>]
type internal BaseStep =
    {
        Micros: (Stops -> Params[] -> Tensor) list
        Theta: Tensor
        State: RuleState
        Gradient: Tensor
        /// ∂L_base/∂λ of the base pass itself, or null
        LambdaGradient: Tensor
        /// the first of `count` steps that ended here: θ, rule state and each step's passes; null unless asked for
        History: int -> struct (Tensor * RuleState * (Stops -> Params[] -> Tensor) list list)
    }

/// Vectors that a solution may use.
[<NoComparison; NoEquality>]
type internal Work =
    {
        /// θₜ, formed again if its vector was lent
        After: unit -> Tensor
        /// a vector to overwrite, until `After` is called
        Scratch: unit -> Tensor
        AdaptInPlace: Tensor -> unit
    }

/// The base loss and its gradient with their graphs.
module internal Linearization =

    /// The base loss on vectors in a graph: the mean over micro-batches.
    let loss
        (levels: Level[])
        (micros: (Stops -> Params[] -> Tensor) list)
        stops
        (theta: Tensor)
        (lambda: Tensor)
        : Tensor =
        let upper =
            match levels.Length with
            | 2 -> [| lambda |]
            | _ -> lambda.split (levels[1..] |> Array.map _.Layout.Length, 0L)

        let seen =
            Array.map2 (fun (level: Level) v -> Params.traced level.Layout v) levels (Array.append [| theta |] upper)

        let share = 1.0 / float (List.length micros)
        micros |> List.map (fun micro -> micro stops seen * share) |> List.reduce (+)

    /// λ of all upper levels, one behind the other; the tensor itself if there is one.
    let joined (upper: Tensor[]) : Tensor =
        if upper.Length = 1 then upper[0] else torch.cat upper

    /// g at (θ, λ), and products with its derivatives; through the stop-features too with `Follow`.
    let at (levels: Level[]) micros (lambda: Tensor) (stops: Stops) (theta: Tensor) : Tensor * ILinearization =
        let x, l = Autodiff.leaf theta, Autodiff.leaf lambda
        let g = Autodiff.gradientInGraph (loss levels micros stops x l) x

        let product (input: Tensor) (w: Tensor) =
            Scope.tensor (fun () ->
                match stops with
                | Follow features when features.Count > 0 ->
                    let leaves, through =
                        List.unzip [ for struct (leaf, feature) in features -> leaf, feature ]

                    let pulled =
                        Autodiff.pullAll Autodiff.Kept [ g, w ] (Array.ofList (input :: leaves))

                    let seeds = List.ofArray pulled[1..]

                    pulled[0]
                    + (Autodiff.pullAll Autodiff.Kept (List.zip through seeds) [| input |])[0]
                | _ -> Autodiff.pull Autodiff.Kept g w input)

        g.detach (),
        { new ILinearization with
            member _.ThetaVjp w = product x w
            member _.LambdaVjp w = product l w }
