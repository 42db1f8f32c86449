namespace Sama.Functional

open TorchSharp
open Sama

/// Rules for constrained parameters: the step is taken, then each parameter is projected.
[<AutoOpen>]
module Projection =

    /// `own`: of the user, who may return anything; then u is looked at behind it, before the state is written.
    let rec private projected name elementwise own (onto: Tensor -> Tensor) (rule: UpdateRule) : UpdateRule =
        let on (layout: Layout) =
            let inner = rule.Bind layout

            let project z =
                Slices.each layout (fun _ views -> onto views[0]) [ z ]

            let step state g theta =
                let u, next = inner.Step state g theta
                theta - project (theta - u), next

            let adapt =
                inner.Adapt
                |> Result.map (fun adapt state g theta v ->
                    let u, _ = inner.Step state g theta
                    adapt state g theta (Autodiff.vjp project (theta - u) v))

            let update advance state g (theta: Tensor) (out: Tensor) =
                let next = inner.InPlace.Update advance state g theta out
                Scope.run (fun _ -> out.copy_ (theta - project (theta - out)) |> ignore)
                next

            let adaptInto state (g: Tensor) (theta: Tensor) (v: Tensor) =
                Scope.run (fun _ ->
                    let u = torch.empty_like g
                    inner.InPlace.Update None state g theta u |> ignore
                    v.copy_ (Autodiff.vjp project (theta - u) v) |> ignore)

                inner.InPlace.AdaptInto state g theta v

            let bound =
                UpdateRule.bound inner.Init step adapt (elementwise && inner.Elementwise)

            { bound with
                InPlace =
                    if own then
                        { bound.InPlace with
                            AdaptInto = adaptInto }
                    else
                        { Update = update
                          Asks = inner.InPlace.Asks
                          AdaptInto = adaptInto } }

        { Name = $"{rule.Name} → {name}"
          Bind = on
          Rescale = Some(fun schedule -> projected name elementwise own onto (UpdateRule.scheduled schedule rule)) }

    /// u = θ − P(θ − rule's u), P a differentiable function of each parameter in its own shape; the adaptation goes
    /// through P by differentiation. θ − u is P up to one rounding.
    let project (onto: Tensor -> Tensor) (rule: UpdateRule) : UpdateRule =
        projected "project" false true onto rule

    /// Every coordinate stays in [lower, upper]; those that are stopped have adaptation 0. ArgumentException for an
    /// empty box or NaN; bounds may be infinite.
    let projectBox (lower: float) (upper: float) (rule: UpdateRule) : UpdateRule =
        if not (lower <= upper) then
            invalidArg (nameof upper) $"the box [{lower}, {upper}] is empty"

        let clamp (x: Tensor) =
            x.clamp (Number.scalar lower, Number.scalar upper)

        projected "box" true false clamp rule

    /// The nearest point with coordinates ≥ 0 that sum to 1: max(x − τ, 0), τ = (Σ_A x − 1)/|A|, A the largest set of
    /// leading coordinates in order of size that stay positive (Duchi et al., 2008). Any shape.
    let simplex (x: Tensor) : Tensor =
        let flat = x.reshape -1L
        let struct (sorted, _) = flat.sort (0L, descending = true)
        let size = torch.arange (1L, flat.numel () + 1L, dtype = x.dtype, device = x.device)
        let level = (sorted.cumsum 0L - 1.0) / size
        let active = (sorted - level).gt(Number.scalar 0.0).sum().item<int64> ()
        let tau = level.select (0L, max 0L (active - 1L))
        (x - tau).clamp_min (Number.scalar 0.0)

    /// Each parameter stays a point of the simplex.
    let projectSimplex (rule: UpdateRule) : UpdateRule =
        projected "simplex" false false simplex rule
