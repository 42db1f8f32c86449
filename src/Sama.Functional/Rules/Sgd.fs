namespace Sama

/// Options of SGD, with PyTorch's names and defaults.
[<NoComparison>]
type SgdOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// μ, at least 0
        Momentum: float
        /// takes this share of the gradient out of the momentum
        Dampening: float
        /// Nesterov's momentum
        Nesterov: bool
        /// coupled: added to the gradient
        WeightDecay: float
        /// ascends instead
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

open Sama
open Sama.Functional.Real

/// b ← μb + fresh·g; u = lr·b, Nesterov lr(g + μb).
[<Struct; NoComparison; NoEquality>]
type internal SgdFormula =
    { Options: SgdOptions
      Rate: float
      Fresh: float }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, b: 'V, _: 'V, c: 'V) : FormulaStep<'V> =
            let g = seen f.Options.Maximize f.Options.WeightDecay g theta

            let b =
                if f.Options.Momentum = 0.0 then
                    g
                else
                    weigh b f.Options.Momentum g f.Fresh

            let direction =
                if f.Options.Nesterov then
                    g .+ b .* k f.Options.Momentum
                else
                    b

            { U = direction .* k f.Rate
              A = b
              B = c
              C = c }

        member f.Slope<'V when 'V :> IReal<'V>>(_: 'V, _: 'V, _: 'V, _: 'V, _: 'V) : 'V =
            let fresh = if f.Options.Momentum = 0.0 then 1.0 else f.Fresh

            let factor =
                if f.Options.Nesterov then
                    1.0 + f.Options.Momentum * fresh
                else
                    fresh

            k (
                if f.Options.Maximize then
                    -f.Rate * factor
                else
                    f.Rate * factor
            )

/// Stochastic gradient descent (torch.optim.SGD).
[<AutoOpen>]
module SgdRule =

    /// b ← μb + (1 − dampening)g, b₁ = g; u = lr·b, Nesterov lr(g + μb). ∂u/∂g = lr·k, Nesterov lr(1 + μk), with k = 1 at
    /// t = 1 and 1 − dampening after. State: momentum_buffer, with momentum. ArgumentException names an option out of
    /// range.
    let sgdWith (o: SgdOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireNonNegative "Momentum" o.Momentum
        Options.requireFinite "Dampening" o.Dampening
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        if o.Nesterov && (o.Momentum = 0.0 || o.Dampening <> 0.0) then
            invalidArg "Nesterov" "Nesterov needs a momentum and no dampening"

        let at rate t _ =
            Kernel.ofFormula
                { Options = o
                  Rate = rate * o.LearningRate
                  Fresh = if t = 1L then 1.0 else 1.0 - o.Dampening }

        { Elementwise.stateless "sgd" at with
            Vectors = (if o.Momentum = 0.0 then [] else [ "momentum_buffer", 0.0 ]) }
        |> Elementwise.withDecay o.Maximize o.WeightDecay None
        |> Elementwise.rule

    /// Plain SGD: u = lr·g.
    let sgd (learningRate: float) : UpdateRule =
        sgdWith
            { SgdOptions.Default with
                LearningRate = learningRate }
