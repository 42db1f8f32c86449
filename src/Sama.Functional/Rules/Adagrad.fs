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
      Given: Given
      Rate: Coefficient }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, b: 'V, _: 'V) : FormulaStep<'V> =
            let o, given = f.Options, f.Given
            let g = seen o.Maximize given["WeightDecay"] g theta
            let s = s .+ g .* g

            let d =
                if o.EpsilonInsideRoot then
                    root (s .+ c given["Epsilon"])
                else
                    root s .+ c given["Epsilon"]

            { U = g ./ d .* c f.Rate
              A = s
              B = b
              C = b }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, _: 'V, _: 'V) : 'V =
            let o, given = f.Options, f.Given
            let rate = if o.Maximize then f.Rate .* k -1.0 else f.Rate
            let g = seen o.Maximize given["WeightDecay"] g theta
            let next = s .+ g .* g

            let slope =
                if o.EpsilonInsideRoot then
                    let inside = next .+ c given["Epsilon"]
                    (s .+ c given["Epsilon"]) ./ inside ./ root inside
                else
                    let r = root next
                    let d = r .+ c given["Epsilon"]
                    (s .+ r .* c given["Epsilon"]) ./ (r .* d) ./ d

            ifPositive next (slope .* c rate) (k 0.0)

/// s ← ρs + (1−ρ)g², d = g√(a + ε)/√(s + ε), a ← ρa + (1−ρ)d², u = rate·d.
[<Struct; NoComparison; NoEquality>]
type internal AdadeltaFormula =
    { Options: AdadeltaOptions
      Given: Given
      Rate: Coefficient }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, a: 'V, rest: 'V) : FormulaStep<'V> =
            let o, given = f.Options, f.Given
            let g = seen o.Maximize given["WeightDecay"] g theta
            let s = weigh s given["Rho"] (g .* g) (k 1.0 .- given["Rho"])
            let d = root (a .+ c given["Epsilon"]) ./ root (s .+ c given["Epsilon"]) .* g

            { U = d .* c f.Rate
              A = s
              B = weigh a given["Rho"] (d .* d) (k 1.0 .- given["Rho"])
              C = rest }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, a: 'V, _: 'V) : 'V =
            let o, given = f.Options, f.Given
            let rate = if o.Maximize then f.Rate .* k -1.0 else f.Rate
            let g = seen o.Maximize given["WeightDecay"] g theta

            let inside =
                weigh s given["Rho"] (g .* g) (k 1.0 .- given["Rho"]) .+ c given["Epsilon"]

            root (a .+ c given["Epsilon"]) .* (s .* c given["Rho"] .+ c given["Epsilon"])
            ./ inside
            ./ root inside
            .* c rate

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

        let at (given: Given) (rate: float) (t: int64) _ =
            Kernel.ofFormula
                { AdagradFormula.Options = o
                  Given = given
                  Rate =
                    k rate .* given["LearningRate"]
                    ./ (k 1.0 .+ k (float (t - 1L)) .* given["LearningRateDecay"]) }

        { Elementwise.stateless "adagrad" at with
            Options =
                [ Learnable.nonNegative "LearningRate" o.LearningRate
                  Learnable.nonNegative "LearningRateDecay" o.LearningRateDecay
                  Learnable.nonNegative "Epsilon" o.Epsilon
                  Learnable.nonNegative "WeightDecay" o.WeightDecay ]
            Vectors = fun _ -> [ "sum", o.InitialAccumulator ] }
        |> Elementwise.withDecay o.Maximize false
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

        let at (given: Given) (rate: float) _ _ =
            Kernel.ofFormula
                { Options = o
                  Given = given
                  Rate = k rate .* given["LearningRate"] }

        { Elementwise.stateless "adadelta" at with
            Options =
                [ Learnable.nonNegative "LearningRate" o.LearningRate
                  Learnable.fraction "Rho" o.Rho
                  Learnable.positive "Epsilon" o.Epsilon
                  Learnable.nonNegative "WeightDecay" o.WeightDecay ]
            Vectors = fun _ -> [ "square_avg", 0.0; "acc_delta", 0.0 ] }
        |> Elementwise.withDecay o.Maximize false
        |> Elementwise.rule

    /// Adadelta with that rate.
    let adadelta (learningRate: float) : UpdateRule =
        adadeltaWith
            { AdadeltaOptions.Default with
                LearningRate = learningRate }
