namespace Sama

/// Options of Adagrad, with PyTorch's names and defaults.
[<NoComparison>]
type AdagradOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// the rate at step t is lr/(1 + (t−1)·this)
        LearningRateDecay: float
        /// s before the first step
        InitialAccumulator: float
        /// ε, at least 0
        Epsilon: float
        /// √(s + ε), as in Optax; PyTorch has √s + ε
        EpsilonInsideRoot: bool
        /// coupled: added to the gradient
        WeightDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 1e-2, ε 1e-10, nothing else on.
    static member Default =
        { LearningRate = 1e-2
          LearningRateDecay = 0.0
          InitialAccumulator = 0.0
          Epsilon = 1e-10
          EpsilonInsideRoot = false
          WeightDecay = 0.0
          Maximize = false }

/// Options of Adadelta, with PyTorch's names and defaults.
[<NoComparison>]
type AdadeltaOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of both averages, in [0, 1)
        Rho: float
        /// ε, at least 0
        Epsilon: float
        /// coupled: added to the gradient
        WeightDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 1, ρ 0.9, ε 1e-6, no decay.
    static member Default =
        { LearningRate = 1.0
          Rho = 0.9
          Epsilon = 1e-6
          WeightDecay = 0.0
          Maximize = false }

namespace Sama.Functional

open Sama
open Sama.Functional.Real

/// s ← s + g², u = rate·g/(√s + ε).
[<Struct; NoComparison; NoEquality>]
type internal AdagradFormula =
    { Options: AdagradOptions
      Rate: float }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, b: 'V, _: 'V) : FormulaStep<'V> =
            let o = f.Options
            let g = seen o.Maximize o.WeightDecay g theta
            let s = s .+ g .* g

            let d =
                if o.EpsilonInsideRoot then
                    root (s .+ k o.Epsilon)
                else
                    root s .+ k o.Epsilon

            { U = g ./ d .* k f.Rate
              A = s
              B = b
              C = b }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, _: 'V, _: 'V) : 'V =
            let o = f.Options
            let rate = if o.Maximize then -f.Rate else f.Rate
            let g = seen o.Maximize o.WeightDecay g theta
            let next = s .+ g .* g

            let slope =
                if o.EpsilonInsideRoot then
                    let inside = next .+ k o.Epsilon
                    (s .+ k o.Epsilon) ./ inside ./ root inside
                else
                    let r = root next
                    let d = r .+ k o.Epsilon
                    (s .+ r .* k o.Epsilon) ./ (r .* d) ./ d

            ifPositive next (slope .* k rate) (k 0.0)

/// s ← ρs + (1−ρ)g², d = g√(a + ε)/√(s + ε), a ← ρa + (1−ρ)d², u = rate·d.
[<Struct; NoComparison; NoEquality>]
type internal AdadeltaFormula =
    { Options: AdadeltaOptions
      Rate: float }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, a: 'V, c: 'V) : FormulaStep<'V> =
            let o = f.Options
            let g = seen o.Maximize o.WeightDecay g theta
            let s = weigh s o.Rho (g .* g) (1.0 - o.Rho)
            let d = root (a .+ k o.Epsilon) ./ root (s .+ k o.Epsilon) .* g

            { U = d .* k f.Rate
              A = s
              B = weigh a o.Rho (d .* d) (1.0 - o.Rho)
              C = c }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, a: 'V, _: 'V) : 'V =
            let o = f.Options
            let rate = if o.Maximize then -f.Rate else f.Rate
            let g = seen o.Maximize o.WeightDecay g theta
            let inside = weigh s o.Rho (g .* g) (1.0 - o.Rho) .+ k o.Epsilon

            root (a .+ k o.Epsilon) .* (s .* k o.Rho .+ k o.Epsilon)
            ./ inside
            ./ root inside
            .* k rate

/// Adagrad (Duchi et al., 2011) and Adadelta (Zeiler, 2012).
[<AutoOpen>]
module AdagradRule =

    /// s ← s + g², u = lrₜ g/(√s + ε), lrₜ = lr/(1+(t−1)·decay). ∂u/∂g = lrₜ(s₋ + ε√s)/(√s(√s+ε)²), ε inside the root:
    /// lrₜ(s₋+ε)/(s+ε)^{3/2}; 0 where s = 0. State: sum. ArgumentException names an option out of range.
    let adagradWith (o: AdagradOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireNonNegative "LearningRateDecay" o.LearningRateDecay
        Options.requireNonNegative "InitialAccumulator" o.InitialAccumulator
        Options.requireNonNegative "Epsilon" o.Epsilon
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        let at rate (t: int64) _ =
            Kernel.ofFormula
                { AdagradFormula.Options = o
                  Rate = rate * o.LearningRate / (1.0 + float (t - 1L) * o.LearningRateDecay) }

        { Elementwise.stateless "adagrad" at with
            Vectors = [ "sum", o.InitialAccumulator ] }
        |> Elementwise.withDecay o.Maximize o.WeightDecay None
        |> Elementwise.rule

    /// Adagrad with that rate.
    let adagrad (learningRate: float) : UpdateRule =
        adagradWith
            { AdagradOptions.Default with
                LearningRate = learningRate }

    /// s ← ρs + (1−ρ)g², d = g√(a+ε)/√(s+ε), a ← ρa + (1−ρ)d², u = lr·d. ∂u/∂g = lr√(a₋+ε)(ρs₋+ε)/(s+ε)^{3/2}, an ordinary
    /// number where s = 0 too. State: square_avg, acc_delta. ArgumentException names an option out of range.
    let adadeltaWith (o: AdadeltaOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireFraction "Rho" o.Rho
        Options.requirePositive "Epsilon" o.Epsilon
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        let at rate _ _ =
            Kernel.ofFormula
                { Options = o
                  Rate = rate * o.LearningRate }

        { Elementwise.stateless "adadelta" at with
            Vectors = [ "square_avg", 0.0; "acc_delta", 0.0 ] }
        |> Elementwise.withDecay o.Maximize o.WeightDecay None
        |> Elementwise.rule

    /// Adadelta with that rate.
    let adadelta (learningRate: float) : UpdateRule =
        adadeltaWith
            { AdadeltaOptions.Default with
                LearningRate = learningRate }
