namespace Sama.Functional

open TorchSharp
open Sama

/// Rules that stand before or behind others in a chain.
[<AutoOpen>]
module Combinators =

    let private counted (state: RuleState) =
        RuleState.create (state.Count + 1L) [] []

    let private stateless (_: Tensor) = RuleState.create 0L [] []

    /// u = scale(t)·g, t from 0: a learning-rate schedule at the end of a chain.
    let scaleBy (scale: int64 -> float) : UpdateRule =
        UpdateRule.create "scale" stateless (fun state g _ -> g * scale state.Count, counted state)
        |> UpdateRule.withAdaptation (fun state _ _ v -> v * scale state.Count)
        |> UpdateRule.elementwise

    /// u = g·min(1, c/(‖g‖ + 1e-6)), as torch.nn.utils.clip_grad_norm_. With N = ‖g‖, N + e > c:
    /// (∂u/∂g)ᵀ w = c/(N+e)·[w − g (g·w)/(N(N+e))]. ArgumentException unless the limit is positive.
    let clipByGlobalNorm (limit: float) : UpdateRule =
        if not (limit > 0.0) then
            invalidArg (nameof limit) $"the norm is clipped to a positive number, not to {limit}"

        let slack = 1e-6
        let total (x: Tensor) = x.sum torch.float64

        let step state (g: Tensor) _ =
            let n = (Number.floor (total (g * g))).sqrt ()
            let factor: Tensor = limit / (n + slack)
            g * factor.clamp_max(Number.scalar 1.0).to_type g.dtype, counted state

        let adapt (_: RuleState) (g: Tensor) (_: Tensor) (w: Tensor) =
            let n = (Number.floor (total (g * g))).sqrt ()
            let clipped: Tensor = limit / (n + slack)
            let along = total (g * w) / (n * (n + slack))
            let inside = (w - g * along.to_type g.dtype) * clipped.to_type g.dtype
            torch.where (clipped.lt (Number.scalar 1.0), inside, w)

        UpdateRule.create "clipByGlobalNorm" stateless step
        |> UpdateRule.withAdaptation adapt
