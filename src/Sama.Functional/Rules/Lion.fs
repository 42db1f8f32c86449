namespace Sama

/// What stands in for the derivative of a sign, which is 0 almost everywhere.
type SignSurrogate =
    /// nothing: methods that need an adaptation refuse the rule
    | None = 0
    /// the derivative of the sign's argument itself (Bengio et al., 2013)
    | StraightThrough = 1
    /// the derivative of x/√(x² + τ²), which tends to the sign as τ → 0
    | Smooth = 2

/// Options of Lion, with the paper's names and Optax's defaults.
[<NoComparison>]
type LionOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of the first moment, in [0, 1)
        Beta1: float
        /// decay of the second moment, in [0, 1)
        Beta2: float
        /// decoupled: lr·weightDecay·θ
        WeightDecay: float
        /// what stands in for the sign's derivative
        Surrogate: SignSurrogate
        /// τ of the smooth surrogate, in units of the gradient
        Temperature: float
    }

    /// Rate 1e-4, β 0.9 and 0.99, decay 1e-3, no surrogate.
    static member Default =
        { LearningRate = 1e-4
          Beta1 = 0.9
          Beta2 = 0.99
          WeightDecay = 1e-3
          Surrogate = SignSurrogate.None
          Temperature = 1e-3 }

namespace Sama.Functional

open Sama
open Sama.Functional.Real

/// u = rate(sign(β₁m + (1−β₁)g) + w θ), m ← β₂m + (1−β₂)g.
[<Struct; NoComparison; NoEquality>]
type internal LionFormula =
    { Options: LionOptions
      Given: Given
      Rate: Coefficient }

    member private f.Argument<'V when 'V :> IReal<'V>>(g: 'V, m: 'V) : 'V =
        weigh m f.Given["Beta1"] g (k 1.0 .- f.Given["Beta1"])

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, m: 'V, b: 'V, _: 'V) : FormulaStep<'V> =
            let o = f.Options
            let x = f.Argument(g, m)

            // what differentiates the step, by the state too, sees the surrogate
            let direction =
                match o.Surrogate with
                | SignSurrogate.StraightThrough -> 'V.Through(sign x, (fun () -> x))
                | SignSurrogate.Smooth ->
                    'V.Through(sign x, fun () -> x ./ root (x .* x .+ k (o.Temperature * o.Temperature)))
                | _ -> sign x

            let u = direction .* c f.Rate

            { U =
                if f.Given["WeightDecay"].IsOff then
                    u
                else
                    u .+ theta .* c (f.Rate .* f.Given["WeightDecay"])
              A = weigh m f.Given["Beta2"] g (k 1.0 .- f.Given["Beta2"])
              B = b
              C = b }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, _: 'V, m: 'V, _: 'V, _: 'V) : 'V =
            let o = f.Options
            let through = f.Rate .* (k 1.0 .- f.Given["Beta1"])

            if o.Surrogate = SignSurrogate.Smooth then
                let x = f.Argument(g, m)
                let square = o.Temperature * o.Temperature
                let wide = x .* x .+ k square
                c (through .* k square) ./ wide ./ root wide
            else
                c through

/// Lion (Chen et al., 2023).
[<AutoOpen>]
module LionRule =

    /// u = lr(sign(β₁m + (1−β₁)g) + wθ), m ← β₂m + (1−β₂)g. A sign has derivative 0 almost everywhere, so there is no
    /// adaptation unless a surrogate is named: straight-through lr(1−β₁), smooth lr(1−β₁)τ²/(x²+τ²)^{3/2} at the sign's
    /// argument x; the step's derivatives by g and by the state are the surrogate's. State: exp_avg. ArgumentException names an option out of range.
    let lionWith (o: LionOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireFraction "Beta1" o.Beta1
        Options.requireFraction "Beta2" o.Beta2
        Options.requireOne "Surrogate" o.Surrogate
        Options.requireNonNegative "WeightDecay" o.WeightDecay
        Options.requirePositive "Temperature" o.Temperature

        let at (given: Given) (rate: float) _ _ =
            Kernel.ofFormula
                { Options = o
                  Given = given
                  Rate = k rate .* given["LearningRate"] }

        Elementwise.rule
            { Elementwise.stateless "lion" at with
                Options =
                    [ Learnable.nonNegative "LearningRate" o.LearningRate
                      Learnable.fraction "Beta1" o.Beta1
                      Learnable.fraction "Beta2" o.Beta2
                      Learnable.nonNegative "WeightDecay" o.WeightDecay ]
                Vectors = fun _ -> [ "exp_avg", 0.0 ]
                ReadsTheta = fun given -> not given["WeightDecay"].IsOff
                Decoupled = fun given rate _ -> k rate .* given["LearningRate"] .* given["WeightDecay"]
                Refused =
                    if o.Surrogate = SignSurrogate.None then
                        Some
                            "Lion's update is a sign, whose derivative is 0 almost everywhere; use samaNa, another rule, or name a Surrogate in LionOptions"
                    else
                        None }

    /// Lion with that rate.
    let lion (learningRate: float) : UpdateRule =
        lionWith
            { LionOptions.Default with
                LearningRate = learningRate }
