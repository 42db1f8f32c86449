namespace Sama

/// Options of SGD, with PyTorch's names and defaults.
[<NoComparison>]
type SgdOptions =
    {
        LearningRate: float
        Momentum: float
        Dampening: float
        Nesterov: bool
        /// coupled: added to the gradient
        WeightDecay: float
        Maximize: bool
    }

    /// Rate 1e-3, nothing else on.
    static member Default =
        { LearningRate = 1e-3
          Momentum = 0.0
          Dampening = 0.0
          Nesterov = false
          WeightDecay = 0.0
          Maximize = false }

namespace Sama.Functional

open System
open TorchSharp
open Sama

module internal Options =

    /// ArgumentException naming an option that is negative or not finite.
    let requireNonNegative name (value: float) =
        if not (value >= 0.0 && Double.IsFinite value) then
            invalidArg name $"{name} is a finite number of at least 0, not {value}"

    /// ArgumentException naming an option outside [0, 1).
    let requireFraction name (value: float) =
        if not (value >= 0.0 && value < 1.0) then
            invalidArg name $"{name} lies in [0, 1), not at {value}"

/// Stochastic gradient descent (torch.optim.SGD).
[<AutoOpen>]
module SgdRule =

    /// b ← μb + (1 − dampening)g, b₁ = g; u = lr·b, Nesterov lr(g + μb). ∂u/∂g = lr·k, Nesterov lr(1 + μk), with k = 1 at
    /// t = 1 and 1 − dampening after. ArgumentException names an option out of range.
    let sgdWith (o: SgdOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireNonNegative "Momentum" o.Momentum
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        if o.Nesterov && (o.Momentum = 0.0 || o.Dampening <> 0.0) then
            invalidArg "Nesterov" "Nesterov needs a momentum and no dampening"

        let sign = if o.Maximize then -1.0 else 1.0

        let seen (g: Tensor) (theta: Tensor) =
            let g = if o.Maximize then -g else g
            if o.WeightDecay = 0.0 then g else g + theta * o.WeightDecay

        let init (theta: Tensor) =
            let buffer =
                if o.Momentum = 0.0 then
                    []
                else
                    [ "momentum_buffer", torch.zeros_like theta ]

            RuleState.create 0L buffer []

        let fresh (state: RuleState) =
            if state.Count = 0L then 1.0 else 1.0 - o.Dampening

        let step (state: RuleState) g theta =
            let g = seen g theta

            if o.Momentum = 0.0 then
                g * o.LearningRate, RuleState.create (state.Count + 1L) [] []
            else
                let b = state["momentum_buffer"] * o.Momentum + g * fresh state
                let direction = if o.Nesterov then g + b * o.Momentum else b
                direction * o.LearningRate, RuleState.create (state.Count + 1L) [ "momentum_buffer", b ] []

        let adapt (state: RuleState) (_: Tensor) (_: Tensor) (v: Tensor) =
            let k = if o.Momentum = 0.0 then 1.0 else fresh state
            let factor = if o.Nesterov then 1.0 + o.Momentum * k else k
            v * (sign * o.LearningRate * factor)

        UpdateRule.create "sgd" init step
        |> UpdateRule.withAdaptation adapt
        |> UpdateRule.elementwise

    /// Plain SGD: u = lr·g.
    let sgd (learningRate: float) : UpdateRule =
        sgdWith
            { SgdOptions.Default with
                LearningRate = learningRate }
