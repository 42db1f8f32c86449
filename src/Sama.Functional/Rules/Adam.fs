namespace Sama

/// Options of Adam and AdamW, with PyTorch's names and defaults.
[<NoComparison>]
type AdamOptions =
    {
        LearningRate: float
        Beta1: float
        Beta2: float
        Epsilon: float
        WeightDecay: float
        /// AdamW: the decay is lr·weightDecay·θ, beside the gradient
        DecoupledDecay: bool
        Maximize: bool
    }

    /// Rate 1e-3, β 0.9 and 0.999, ε 1e-8, no decay.
    static member Default =
        { LearningRate = 1e-3
          Beta1 = 0.9
          Beta2 = 0.999
          Epsilon = 1e-8
          WeightDecay = 0.0
          DecoupledDecay = false
          Maximize = false }

namespace Sama.Functional

open TorchSharp
open Sama

/// Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019), bias correction included.
[<AutoOpen>]
module AdamRule =

    /// m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g², d = √(s/c₂) + ε, c = 1−βᵗ: u = lr m/(c₁ d).
    /// ∂u/∂g = lr [(1−β₁)(β₂s₋ + ε√(c₂s)) − β₁(1−β₂) m₋ g] / (c₁ d² √(c₂s)), m₋ and s₋ before the step, the g² terms
    /// cancelled (at t = 1 they are all there is and rounding would be the result); 0 where s = 0: the limit lr/ε
    /// there would drown every other coordinate. ArgumentException names an option out of range.
    let adamWith (o: AdamOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireFraction "Beta1" o.Beta1
        Options.requireFraction "Beta2" o.Beta2
        Options.requireNonNegative "Epsilon" o.Epsilon
        Options.requireNonNegative "WeightDecay" o.WeightDecay
        let sign = if o.Maximize then -1.0 else 1.0

        let seen (g: Tensor) (theta: Tensor) =
            let g = if o.Maximize then -g else g

            if o.WeightDecay = 0.0 || o.DecoupledDecay then
                g
            else
                g + theta * o.WeightDecay

        let corrections (t: int64) =
            1.0 - o.Beta1 ** float t, 1.0 - o.Beta2 ** float t

        // √ at 0 has an infinite derivative: the floor keeps the step differentiable and changes no bit of d
        let denominator (s: Tensor) (c2: float) =
            (Number.floor (s / c2)).sqrt () + o.Epsilon

        let moments (state: RuleState) (g: Tensor) =
            state["exp_avg"] * o.Beta1 + g * (1.0 - o.Beta1), state["exp_avg_sq"] * o.Beta2 + g * g * (1.0 - o.Beta2)

        let init (theta: Tensor) =
            RuleState.create 0L [ "exp_avg", torch.zeros_like theta; "exp_avg_sq", torch.zeros_like theta ] []

        let step (state: RuleState) g (theta: Tensor) =
            let t = state.Count + 1L
            let c1, c2 = corrections t
            let m, s = moments state (seen g theta)
            let u = m / denominator s c2 * (o.LearningRate / c1)

            let u =
                if o.DecoupledDecay && o.WeightDecay <> 0.0 then
                    u + theta * (o.LearningRate * o.WeightDecay)
                else
                    u

            u, RuleState.create t [ "exp_avg", m; "exp_avg_sq", s ] []

        let adapt (state: RuleState) g theta (v: Tensor) =
            let c1, c2 = corrections (state.Count + 1L)
            let g = seen g theta
            let _, s = moments state g
            let d = denominator s c2
            let root = (Number.floor (s * c2)).sqrt ()

            let top =
                (state["exp_avg_sq"] * o.Beta2 + root * o.Epsilon) * (1.0 - o.Beta1)
                - state["exp_avg"] * g * (o.Beta1 * (1.0 - o.Beta2))

            let adapted = top / root / d / d * (sign * o.LearningRate / c1) * v
            torch.where (s.gt (Number.scalar 0.0), adapted, torch.zeros_like v)

        UpdateRule.create (if o.DecoupledDecay then "adamW" else "adam") init step
        |> UpdateRule.withAdaptation adapt
        |> UpdateRule.elementwise

    /// Adam with that rate.
    let adam (learningRate: float) : UpdateRule =
        adamWith
            { AdamOptions.Default with
                LearningRate = learningRate }

    /// AdamW with that rate and decay (PyTorch's default decay is 1e-2).
    let adamW (learningRate: float) (weightDecay: float) : UpdateRule =
        adamWith
            { AdamOptions.Default with
                LearningRate = learningRate
                WeightDecay = weightDecay
                DecoupledDecay = true }
