namespace Sama

/// Options of Adamax, with PyTorch's names and defaults.
[<NoComparison>]
type AdamaxOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of the first moment, in [0, 1)
        Beta1: float
        /// decay of the second moment, in [0, 1)
        Beta2: float
        /// ε, at least 0
        Epsilon: float
        /// coupled: added to the gradient
        WeightDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 2e-3, β 0.9 and 0.999, ε 1e-8, no decay.
    static member Default =
        { LearningRate = 2e-3
          Beta1 = 0.9
          Beta2 = 0.999
          Epsilon = 1e-8
          WeightDecay = 0.0
          Maximize = false }

/// Options of NAdam, with PyTorch's names and defaults.
[<NoComparison>]
type NAdamOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of the first moment, in [0, 1)
        Beta1: float
        /// decay of the second moment, in [0, 1)
        Beta2: float
        /// ε, at least 0
        Epsilon: float
        /// coupled: added to the gradient
        WeightDecay: float
        /// the decay is lr·weightDecay·θ, beside the gradient
        DecoupledDecay: bool
        /// ψ of μₜ = β₁(1 − ½·0.96^(tψ)); infinity: μₜ = β₁, which is Optax's NAdam
        MomentumDecay: float
        /// ascends instead
        Maximize: bool
    }

    /// Rate 2e-3, β 0.9 and 0.999, ε 1e-8, ψ 4e-3, no decay.
    static member Default =
        { LearningRate = 2e-3
          Beta1 = 0.9
          Beta2 = 0.999
          Epsilon = 1e-8
          WeightDecay = 0.0
          DecoupledDecay = false
          MomentumDecay = 4e-3
          Maximize = false }

/// Options of RAdam, with PyTorch's names and defaults.
[<NoComparison>]
type RAdamOptions =
    {
        /// lr, at least 0
        LearningRate: float
        /// decay of the first moment, in [0, 1)
        Beta1: float
        /// decay of the second moment, in [0, 1)
        Beta2: float
        /// ε, at least 0
        Epsilon: float
        /// coupled: added to the gradient
        WeightDecay: float
        /// the decay is lr·weightDecay·θ, beside the gradient
        DecoupledDecay: bool
        /// ε is added after the bias correction of the root, as in Optax; PyTorch adds it before
        EpsilonAfterCorrection: bool
        /// ascends instead
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
          EpsilonAfterCorrection = false
          Maximize = false }

namespace Sama.Functional

open Sama
open Sama.Functional.Real

/// m ← β₁m + (1−β₁)g, n ← max(β₂n, |g| + ε), u = q m/n.
[<Struct; NoComparison; NoEquality>]
type internal AdamaxFormula =
    { Given: Given
      Maximize: bool
      Q: Coefficient }

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, m: 'V, n: 'V, rest: 'V) : FormulaStep<'V> =
            let o = f.Given
            let g = seen f.Maximize o["WeightDecay"] g theta
            let m = weigh m o["Beta1"] g (k 1.0 .- o["Beta1"])
            let n = larger (magnitude g .+ c o["Epsilon"]) (n .* c o["Beta2"])

            { U = m ./ n .* c f.Q
              A = m
              B = n
              C = rest }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, m: 'V, n: 'V, _: 'V) : 'V =
            let o = f.Given
            let q = if f.Maximize then f.Q .* k -1.0 else f.Q
            let g = seen f.Maximize o["WeightDecay"] g theta
            let now = magnitude g .+ c o["Epsilon"]
            let old = n .* c o["Beta2"]

            let fresh =
                (c ((k 1.0 .- o["Beta1"]) .* o["Epsilon"]) .- m .* sign g .* c o["Beta1"])
                ./ now
                ./ now
                .* c q
            // n is still ε where no gradient was ever seen
            let seenNow = ifPositive (now .- c o["Epsilon"]) fresh (k 0.0)
            ifPositive (now .- old) seenNow (c (q .* (k 1.0 .- o["Beta1"])) ./ old)

/// Relatives of Adam: Adamax (Kingma and Ba, 2015), NAdam (Dozat, 2016), RAdam (Liu et al., 2020).
[<AutoOpen>]
module AdamVariants =

    /// m ← β₁m + (1−β₁)g, n ← max(β₂n, |g| + ε), u = lr m/(c₁n), c₁ = 1−β₁ᵗ. ∂u/∂g = lr/c₁·[(1−β₁)ε − β₁m₋ sign g]/n² where
    /// n = |g| + ε > β₂n₋, else lr(1−β₁)/(c₁n); 0 where no gradient was ever seen. State: exp_avg, exp_inf.
    /// ArgumentException names an option out of range.
    let adamaxWith (o: AdamaxOptions) : UpdateRule =
        requireMoments o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay

        let at (given: Given) (rate: float) t _ =
            Kernel.ofFormula
                { Given = given
                  Maximize = o.Maximize
                  Q = k rate .* given["LearningRate"] ./ correction given["Beta1"] t }

        { Elementwise.stateless "adamax" at with
            Options = momentOptions o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay
            Vectors = fun _ -> [ "exp_avg", 0.0; "exp_inf", 0.0 ] }
        |> Elementwise.withDecay o.Maximize false
        |> Elementwise.rule

    /// Adamax with that rate.
    let adamax (learningRate: float) : UpdateRule =
        adamaxWith
            { AdamaxOptions.Default with
                LearningRate = learningRate }

    /// Adam's moments; μₜ = β₁(1 − ½·0.96^(tψ)), Π = μ₁…μₜ, d as Adam's: u = lr(p g + q m)/d, p = (1−μₜ)/(1−Π),
    /// q = μₜ₊₁/(1−Πμₜ₊₁). ∂u/∂g = lr[P(β₂s₋ + ε√(c₂s)) − β₁(1−β₂) q m₋g]/(d²√(c₂s)), P = p + q(1−β₁); 0 where s = 0.
    /// State: exp_avg, exp_avg_sq, mu_product. ArgumentException names an option out of range.
    let nadamWith (o: NAdamOptions) : UpdateRule =
        requireMoments o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay

        if not (o.MomentumDecay >= 0.0) then
            invalidArg "MomentumDecay" $"MomentumDecay is at least 0, infinity included, not {o.MomentumDecay}"

        let mu (given: Given) (t: int64) =
            let decayed = Coefficient.Of(0.96).Power(k (float t) .* given["MomentumDecay"])
            given["Beta1"] .* (k 1.0 .- k 0.5 .* decayed)

        let at (given: Given) (rate: float) t (product: Coefficient) =
            let rate, ahead = k rate .* given["LearningRate"], mu given (t + 1L)
            let mu = mu given

            Kernel.ofFormula
                { momentFormula given rate o.DecoupledDecay o.Maximize with
                    P = rate .* (k 1.0 .- mu t) ./ (k 1.0 .- product)
                    Q = rate .* ahead ./ (k 1.0 .- product .* ahead)
                    A = k 1.0 ./ correction given["Beta2"] t }

        { Elementwise.stateless "nadam" at with
            Options =
                momentOptions o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay
                @ [ Learnable.nonNegative "MomentumDecay" o.MomentumDecay ]
            Vectors = fun _ -> moments
            Number = Some("mu_product", 1.0, fun given t product -> product .* mu given t) }
        |> Elementwise.withDecay o.Maximize o.DecoupledDecay
        |> Elementwise.rule

    /// NAdam with that rate.
    let nadam (learningRate: float) : UpdateRule =
        nadamWith
            { NAdamOptions.Default with
                LearningRate = learningRate }

    /// Adam's moments; ρ∞ = 2/(1−β₂) − 1, ρ = ρ∞ − 2tβ₂ᵗ/c₂. Where ρ > 5: u = lr r√c₂ m/(c₁(√s + ε)),
    /// r² = (ρ−4)(ρ−2)ρ∞/((ρ∞−4)(ρ∞−2)ρ); else lr m/c₁, whose ∂u/∂g = lr(1−β₁)/c₁ holds where s = 0 too.
    /// State: exp_avg, exp_avg_sq. ArgumentException names an option out of range.
    let radamWith (o: RAdamOptions) : UpdateRule =
        requireMoments o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay

        let at (given: Given) (rate: float) t _ =
            let rate, beta2 = k rate .* given["LearningRate"], given["Beta2"]
            let c1, c2 = correction given["Beta1"] t, correction beta2 t
            let one = Coefficient.Of 1.0

            let top = k 2.0 ./ (k 1.0 .- beta2) .- k 1.0
            let rho = top .- k (2.0 * float t) .* beta2.Power(k (float t)) ./ c2

            let rectified = rho.Single "Beta2" > 5.0

            let r =
                if rectified then
                    root (
                        (rho .- k 4.0) .* (rho .- k 2.0) .* top
                        ./ ((top .- k 4.0) .* (top .- k 2.0) .* rho)
                    )
                else
                    one

            let late = o.EpsilonAfterCorrection || not rectified

            Kernel.ofFormula
                { momentFormula given rate o.DecoupledDecay o.Maximize with
                    Q = rate .* r ./ c1 .* (if late then one else root c2)
                    A = if late then one ./ c2 else one
                    Divide = rectified }

        { Elementwise.stateless "radam" at with
            Options = momentOptions o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay
            Vectors = fun _ -> moments }
        |> Elementwise.withDecay o.Maximize o.DecoupledDecay
        |> Elementwise.rule

    /// RAdam with that rate.
    let radam (learningRate: float) : UpdateRule =
        radamWith
            { RAdamOptions.Default with
                LearningRate = learningRate }
