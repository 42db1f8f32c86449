namespace Sama

/// Options of averaged SGD, with PyTorch's names and defaults.
[<NoComparison>]
type AsgdOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay term λ
        Lambd: float
        /// power of the rate's decay
        Alpha: float
        /// step from which θ is averaged
        T0: float
        /// coupled: added to the gradient
        WeightDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 1e-2, λ 1e-4, α 0.75, t₀ 1e6, no decay.
    static member Default =
        { LearningRate = 1e-2
          Lambd = 1e-4
          Alpha = 0.75
          T0 = 1e6
          WeightDecay = 0.0
          Maximize = false }

namespace Sama.Functional

open Sama
open Sama.Functional.Real

/// u = η(g + λθ), average ← average + μ(θ − u − average).
[<Struct; NoComparison; NoEquality>]
type internal AsgdFormula =
    { Given: Given
      Maximize: bool
      Eta: Coefficient
      Mu: float }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, average: 'V, b: 'V, _: 'V) : FormulaStep<'V> =
            let g = seen f.Maximize f.Given["WeightDecay"] g theta
            let u = weigh g f.Eta theta (f.Eta .* f.Given["Lambd"])

            { U = u
              A = average .+ (theta .- u .- average) .* k f.Mu
              B = b
              C = b }

        member f.Slope<'V when 'V :> IReal<'V>>(_: 'V, _: 'V, _: 'V, _: 'V, _: 'V) : 'V =
            c (if f.Maximize then f.Eta .* k -1.0 else f.Eta)

/// Averaged SGD (Polyak and Juditsky, 1992; torch.optim.ASGD).
[<AutoOpen>]
module AsgdRule =

    /// η = lr/(1 + λ lr (t−1))^α, u = η(g + λθ), μ = 1/max(1, t−1−t₀), average ← average + μ(θₜ − average). ∂u/∂g = η. A
    /// schedule multiplies lr, inside η. State: ax, the average. ArgumentException names an option out of range.
    let asgdWith (o: AsgdOptions) : UpdateRule =
        Options.requireNonNegative "LearningRate" o.LearningRate
        Options.requireNonNegative "Lambd" o.Lambd
        Options.requireFinite "Alpha" o.Alpha
        Options.requireNonNegative "T0" o.T0
        Options.requireNonNegative "WeightDecay" o.WeightDecay

        let eta (given: Given) (rate: float) (t: int64) =
            let rate = k rate .* given["LearningRate"]

            rate
            ./ (k 1.0 .+ given["Lambd"] .* rate .* k (float (t - 1L))).Power given["Alpha"]

        let at (given: Given) rate (t: int64) _ =
            let taken = float (t - 1L)

            Kernel.ofFormula
                { Given = given
                  Maximize = o.Maximize
                  Eta = eta given rate t
                  Mu = 1.0 / max 1.0 (taken - o.T0) }

        Elementwise.rule
            { Elementwise.stateless "asgd" at with
                Options =
                    [ Learnable.nonNegative "LearningRate" o.LearningRate
                      Learnable.nonNegative "Lambd" o.Lambd
                      Learnable.finite "Alpha" o.Alpha
                      Learnable.nonNegative "WeightDecay" o.WeightDecay ]
                Vectors = fun _ -> [ "ax", 0.0 ]
                ReadsTheta = fun _ -> true
                Coupled = fun given -> Options.coupled o.Maximize given["WeightDecay"]
                Decoupled = fun given rate t -> eta given rate t .* given["Lambd"] }

    /// Averaged SGD with that rate.
    let asgd (learningRate: float) : UpdateRule =
        asgdWith
            { AsgdOptions.Default with
                LearningRate = learningRate }
