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
    { Given: Given
      Maximize: bool
      Nesterov: bool
      Rate: Coefficient
      Fresh: Coefficient }

    member private f.Momentum = f.Given["Momentum"]

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, b: 'V, _: 'V, rest: 'V) : FormulaStep<'V> =
            let g = seen f.Maximize f.Given["WeightDecay"] g theta

            let b = if f.Momentum.IsOff then g else weigh b f.Momentum g f.Fresh

            let direction = if f.Nesterov then g .+ b .* c f.Momentum else b

            { U = direction .* c f.Rate
              A = b
              B = rest
              C = rest }

        member f.Slope<'V when 'V :> IReal<'V>>(_: 'V, _: 'V, _: 'V, _: 'V, _: 'V) : 'V =
            let fresh = if f.Momentum.IsOff then Coefficient.Of 1.0 else f.Fresh

            let factor = if f.Nesterov then k 1.0 .+ f.Momentum .* fresh else fresh

            c (
                if f.Maximize then
                    f.Rate .* k -1.0 .* factor
                else
                    f.Rate .* factor
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

        let at (given: Given) (rate: float) t _ =
            Kernel.ofFormula
                { Given = given
                  Maximize = o.Maximize
                  Nesterov = o.Nesterov
                  Rate = k rate .* given["LearningRate"]
                  Fresh =
                    if t = 1L then
                        Coefficient.Of 1.0
                    else
                        k 1.0 .- given["Dampening"] }

        { Elementwise.stateless "sgd" at with
            Options =
                [ Learnable.nonNegative "LearningRate" o.LearningRate
                  Learnable.nonNegative "Momentum" o.Momentum
                  Learnable.finite "Dampening" o.Dampening
                  Learnable.nonNegative "WeightDecay" o.WeightDecay ]
            Vectors =
                fun given ->
                    if given["Momentum"].IsOff then
                        []
                    else
                        [ "momentum_buffer", 0.0 ] }
        |> Elementwise.withDecay o.Maximize false
        |> Elementwise.rule

    /// Plain SGD: u = lr·g.
    let sgd (learningRate: float) : UpdateRule =
        sgdWith
            { SgdOptions.Default with
                LearningRate = learningRate }
