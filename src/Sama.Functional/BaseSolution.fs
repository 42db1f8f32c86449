namespace Sama

/// The base problem at its last step, as a hypergradient method sees it. Every result is a fresh handle.
type IBaseSolution =
    /// θₜ, after the last base step; borrowed.
    abstract Theta: Tensor
    /// θₜ₋₁, before it; borrowed.
    abstract ThetaBefore: Tensor
    /// λ; borrowed.
    abstract Lambda: Tensor
    /// g = ∂L_base/∂θ at θₜ₋₁ on the last base batch; borrowed.
    abstract Gradient: Tensor
    /// (∂u/∂g)ᵀ v at (stateₜ₋₁, g, θₜ₋₁).
    abstract Adapt: v: Tensor -> Tensor
    /// ∂L_base/∂λ at (theta, λ) on the last base batch with its masks and stop-features; first order, no graph of theta.
    abstract LambdaGradient: theta: Tensor -> Tensor
    /// (∂g/∂λ)ᵀ w at θₜ₋₁, by a second derivative; functional models only.
    abstract MixedVjp: w: Tensor -> Tensor

namespace Sama.Functional

open TorchSharp
open Sama

/// One base step before it was taken: the passes of its micro-batches, and where they were evaluated.
[<NoComparison; NoEquality>]
type internal BaseStep =
    { Micros: (PassKind -> Params[] -> Tensor) list
      Theta: Tensor
      State: RuleState
      Gradient: Tensor }

module internal BaseSolution =

    /// Mean of the micro-batches' losses, each differentiated by itself.
    let private accumulate (step: BaseStep) kind parameters =
        let share = 1.0 / float step.Micros.Length

        for micro in step.Micros do
            let loss: Tensor = micro kind parameters

            if loss.requires_grad then
                Autodiff.backward (if share = 1.0 then loss else loss * share)

    /// `vectors` holds every level's vector, the base level's after the step.
    let ofStep (levels: Level[]) (vectors: Tensor[]) (step: BaseStep) : IBaseSolution =
        let lower, upper = levels[0], levels[1]

        let seen mode0 mode1 =
            [| for i, level in Array.indexed levels ->
                   match i with
                   | 0 -> mode0 ()
                   | 1 -> mode1 ()
                   | _ -> Params.frozen level.Layout vectors[i] |]

        { new IBaseSolution with
            member _.Theta = vectors[0]
            member _.ThetaBefore = step.Theta
            member _.Lambda = vectors[1]
            member _.Gradient = step.Gradient

            member _.Adapt v =
                match lower.Rule.Adapt with
                | Ok adapt -> Scope.tensor (fun () -> adapt step.State step.Gradient step.Theta v)
                | Error reason -> invalidOp reason

            member _.LambdaGradient theta =
                Scope.tensor (fun () ->
                    let total = torch.zeros_like vectors[1]

                    seen (fun () -> Params.frozen lower.Layout theta) (fun () ->
                        Params.leaves upper.Layout vectors[1] total)
                    |> accumulate step PassKind.Perturbed

                    total)

            member _.MixedVjp w =
                let share = 1.0 / float step.Micros.Length

                let gradient lambda =
                    let at (micro: PassKind -> Params[] -> Tensor) theta =
                        seen (fun () -> Params.traced lower.Layout theta) (fun () -> Params.traced upper.Layout lambda)
                        |> micro PassKind.Perturbed

                    let total theta =
                        step.Micros |> List.map (fun micro -> at micro theta * share) |> List.reduce (+)

                    Autodiff.gradientInGraph total (Autodiff.leaf step.Theta)

                Autodiff.vjp gradient vectors[1] w }
