namespace Sama

/// Options of RMSprop, with PyTorch's names and defaults.
[<NoComparison>]
type RmsPropOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of the second moment, in [0, 1)
        Alpha: float
        /// ε, at least 0
        Epsilon: float
        /// μ, at least 0
        Momentum: float
        /// divide by the variance: the mean of g² less the square of the mean of g, at least 0
        Centered: bool
        /// √(s + ε), as in Optax; PyTorch has √s + ε
        EpsilonInsideRoot: bool
        /// coupled: added to the gradient
        WeightDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 1e-2, α 0.99, ε 1e-8, nothing else on.
    static member Default =
        { LearningRate = 1e-2
          Alpha = 0.99
          Epsilon = 1e-8
          Momentum = 0.0
          Centered = false
          EpsilonInsideRoot = false
          WeightDecay = 0.0
          Maximize = false }

namespace Sama.Functional

open Sama
open Sama.Functional.Real

/// s ← αs + (1−α)g², mean ← α·mean + (1−α)g, q = s or max(s − mean², 0), b ← μb + g/(√q + ε), u = lr·b.
[<Struct; NoComparison; NoEquality>]
type internal RmsPropFormula =
    { Options: RmsPropOptions
      Given: Given
      Rate: Coefficient }

    /// s, mean and q after the step
    member private f.Moments<'V when 'V :> IReal<'V>>(g: 'V, s: 'V, mean: 'V) : FormulaStep<'V> =
        let o, given = f.Options, f.Given
        let s = weigh s given["Alpha"] (g .* g) (k 1.0 .- given["Alpha"])

        if o.Centered then
            let mean = weigh mean given["Alpha"] g (k 1.0 .- given["Alpha"])
            let q = s .- mean .* mean

            { U = q
              A = s
              B = mean
              C = ifPositive q q (k 0.0) }
        else
            { U = s; A = s; B = mean; C = s }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, mean: 'V, b: 'V) : FormulaStep<'V> =
            let o, given = f.Options, f.Given
            let g = seen o.Maximize given["WeightDecay"] g theta
            let next = f.Moments(g, s, mean)

            let d =
                if o.EpsilonInsideRoot then
                    root (next.C .+ c given["Epsilon"])
                else
                    root next.C .+ c given["Epsilon"]

            let b =
                if given["Momentum"].IsOff then
                    g ./ d
                else
                    b .* c given["Momentum"] .+ g ./ d

            { U = b .* c f.Rate
              A = next.A
              B = next.B
              C = b }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, s: 'V, mean: 'V, _: 'V) : 'V =
            let o, given = f.Options, f.Given
            let rate = if o.Maximize then f.Rate .* k -1.0 else f.Rate
            let g = seen o.Maximize given["WeightDecay"] g theta
            let next = f.Moments(g, s, mean)
            let old = if o.Centered then s .- mean .* next.B else s

            let slope =
                if o.EpsilonInsideRoot then
                    let inside = next.C .+ c given["Epsilon"]
                    (old .* c given["Alpha"] .+ c given["Epsilon"]) ./ inside ./ root inside
                else
                    let r = root next.C
                    let d = r .+ c given["Epsilon"]
                    (old .* c given["Alpha"] .+ r .* c given["Epsilon"]) ./ (r .* d) ./ d

            ifPositive next.U (slope .* c rate) (k 0.0)

/// RMSprop (Hinton, 2012; torch.optim.RMSprop).
[<AutoOpen>]
module RmsPropRule =

    /// s ← αs + (1−α)g², q = s (centred: s − m², at least 0), u = lr·b, b ← μb + g/(√q + ε). ∂u/∂g = lr[α·a + ε√q]/(√q(√q+ε)²),
    /// a = s₋ (centred: s₋ − m m₋); ε inside the root: lr(α·a + ε)/(q+ε)^{3/2}; 0 where q = 0.
    /// State: square_avg, grad_avg, momentum_buffer. ArgumentException names an option out of range.
    let rmspropWith (o: RmsPropOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireFraction "Alpha" o.Alpha
        Options.requireNonNegative "Epsilon" o.Epsilon
        Options.requireNonNegative "Momentum" o.Momentum
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        let at (given: Given) (rate: float) _ _ =
            Kernel.ofFormula
                { Options = o
                  Given = given
                  Rate = k rate .* given["LearningRate"] }

        { Elementwise.stateless "rmsprop" at with
            Options =
                [ Learnable.nonNegative "LearningRate" o.LearningRate
                  Learnable.fraction "Alpha" o.Alpha
                  Learnable.nonNegative "Epsilon" o.Epsilon
                  Learnable.nonNegative "Momentum" o.Momentum
                  Learnable.nonNegative "WeightDecay" o.WeightDecay ]
            Vectors =
                fun given ->
                    [ "square_avg", 0.0
                      (if o.Centered then "grad_avg" else ""), 0.0
                      (if given["Momentum"].IsOff then "" else "momentum_buffer"), 0.0 ] }
        |> Elementwise.withDecay o.Maximize false
        |> Elementwise.rule

    /// RMSprop with that rate.
    let rmsprop (learningRate: float) : UpdateRule =
        rmspropWith
            { RmsPropOptions.Default with
                LearningRate = learningRate }
