namespace Sama

/// Options of Adam, AdamW and AMSGrad, with PyTorch's names and defaults.
[<NoComparison>]
type AdamOptions =
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
        /// AdamW: the decay is lr·weightDecay·θ, beside the gradient
        DecoupledDecay: bool
        /// divide by the largest second moment so far
        AmsGrad: bool
        /// AMSGrad as in Optax: the maximum is taken over bias-corrected moments; PyTorch corrects the maximum
        CorrectBeforeMaximum: bool
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
          AmsGrad = false
          CorrectBeforeMaximum = false
          Maximize = false }

namespace Sama.Functional

open Sama
open Sama.Functional.Real

/// u = (p g + q m)/d + decay·θ, d = √(a s) + ε, with m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g²: the rules of Adam's family
/// differ in p, q and a, which hold the rate and the bias corrections. Without `Divide` d = 1.
/// ∂u/∂g = [w(aβ₂s₋ + ε√(as)) − a q β₁(1−β₂) m₋ g] / (d² √(as)), w = p + q(1−β₁): the terms in g² have cancelled (at t = 1
/// they are all there is and rounding would be the result). 0 where s = 0: the limit w/ε would drown every coordinate.
[<Struct; NoComparison; NoEquality>]
type internal AdamFormula =
    { P: Coefficient
      Q: Coefficient
      A: Coefficient
      Beta1: Coefficient
      Beta2: Coefficient
      Epsilon: Coefficient
      Coupled: Coefficient
      Decoupled: Coefficient
      Divide: bool
      AmsGrad: bool
      CorrectBeforeMaximum: bool
      Maximize: bool }

    member private f.Second<'V when 'V :> IReal<'V>>(g: 'V, s: 'V) : 'V =
        weigh s f.Beta2 (g .* g) (k 1.0 .- f.Beta2)

    /// What joins the maximum, and its factor under the root.
    member private f.Candidate<'V when 'V :> IReal<'V>>(s: 'V) : 'V =
        if f.CorrectBeforeMaximum then s .* c f.A else s

    member private f.Outer = if f.CorrectBeforeMaximum then Coefficient.Of 1.0 else f.A

    interface IFormula with
        member f.Step<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, m: 'V, s: 'V, top: 'V) : FormulaStep<'V> =
            let g = seen f.Maximize f.Coupled g theta
            let m = weigh m f.Beta1 g (k 1.0 .- f.Beta1)
            let s = f.Second(g, s)
            let now = f.Candidate s
            let top = if f.AmsGrad then larger top now else now
            let numerator = if f.P.IsOff then m .* c f.Q else weigh g f.P m f.Q

            let u =
                if f.Divide then
                    numerator ./ (root (top .* c f.Outer) .+ c f.Epsilon)
                else
                    numerator

            { U = if f.Decoupled.IsOff then u else u .+ theta .* c f.Decoupled
              A = m
              B = s
              C = top }

        member f.Slope<'V when 'V :> IReal<'V>>(g: 'V, theta: 'V, m: 'V, s: 'V, top: 'V) : 'V =
            let sign = if f.Maximize then -1.0 else 1.0
            let w = k sign .* (f.P .+ f.Q .* (k 1.0 .- f.Beta1))

            if not f.Divide then
                c w
            else
                let g = seen f.Maximize f.Coupled g theta
                let corrected = weigh s (f.A .* f.Beta2) (g .* g) (f.A .* (k 1.0 .- f.Beta2))
                let r = root corrected
                let d = r .+ c f.Epsilon

                let numerator =
                    weigh
                        (weigh s (w .* f.A .* f.Beta2) r (w .* f.Epsilon))
                        (Coefficient.Of 1.0)
                        (m .* g)
                        (k -sign .* f.A .* f.Q .* f.Beta1 .* (k 1.0 .- f.Beta2))

                let slope = ifPositive corrected (numerator ./ (r .* d) ./ d) (k 0.0)

                if f.AmsGrad then
                    let next = f.Second(g, s)
                    let held = root (top .* c f.Outer) .+ c f.Epsilon
                    ifPositive (top .- f.Candidate next) (c w ./ held) slope
                else
                    slope

/// Adam (Kingma and Ba, 2015), AdamW (Loshchilov and Hutter, 2019) and AMSGrad (Reddi et al., 2018), bias correction
/// included.
[<AutoOpen>]
module AdamRule =

    /// 1 − βᵗ
    let internal correction (beta: Coefficient) (t: int64) : Coefficient = k 1.0 .- beta.Power(k (float t))

    let internal requireMoments rate beta1 beta2 epsilon decay =
        Options.requireNonNegative "LearningRate" rate
        Options.requireFraction "Beta1" beta1
        Options.requireFraction "Beta2" beta2
        Options.requireNonNegative "Epsilon" epsilon
        Options.requireNonNegative "WeightDecay" decay

    let internal moments = [ "exp_avg", 0.0; "exp_avg_sq", 0.0 ]

    /// The options that Adam's relatives share, as they may be learned.
    let internal momentOptions rate beta1 beta2 epsilon decay : Learnable list =
        [ Learnable.nonNegative "LearningRate" rate
          Learnable.fraction "Beta1" beta1
          Learnable.fraction "Beta2" beta2
          Learnable.nonNegative "Epsilon" epsilon
          Learnable.nonNegative "WeightDecay" decay ]

    /// The formula of Adam and its relatives at that learning rate with its schedule, without an update yet: p = q = 0, s as
    /// it is under the root.
    let internal momentFormula (given: Given) (rate: Coefficient) (decoupled: bool) (maximize: bool) : AdamFormula =
        let off = Coefficient.Of 0.0

        { P = off
          Q = off
          A = k 1.0
          Beta1 = given["Beta1"]
          Beta2 = given["Beta2"]
          Epsilon = given["Epsilon"]
          Coupled = if decoupled then off else given["WeightDecay"]
          Decoupled = if decoupled then rate .* given["WeightDecay"] else off
          Divide = true
          AmsGrad = false
          CorrectBeforeMaximum = false
          Maximize = maximize }

    /// m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g², d = √(s/c₂) + ε, c = 1−βᵗ: u = lr m/(c₁ d).
    /// ∂u/∂g = lr [(1−β₁)(β₂s₋ + ε√(c₂s)) − β₁(1−β₂) m₋ g] / (c₁ d² √(c₂s)), m₋ and s₋ before the step; 0 where s = 0.
    /// AMSGrad: s is the maximum so far; where it is an older one ∂u/∂g = lr(1−β₁)/(c₁d). State: exp_avg, exp_avg_sq,
    /// max_exp_avg_sq. ArgumentException names an option out of range.
    let adamWith (o: AdamOptions) : UpdateRule =
        requireMoments o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay

        if o.CorrectBeforeMaximum && not o.AmsGrad then
            invalidArg "CorrectBeforeMaximum" "CorrectBeforeMaximum is about AmsGrad's maximum; set AmsGrad too"

        let at (given: Given) (rate: float) t _ =
            let rate = k rate .* given["LearningRate"]

            Kernel.ofFormula
                { momentFormula given rate o.DecoupledDecay o.Maximize with
                    Q = rate ./ correction given["Beta1"] t
                    A = k 1.0 ./ correction given["Beta2"] t
                    AmsGrad = o.AmsGrad
                    CorrectBeforeMaximum = o.CorrectBeforeMaximum }

        { Elementwise.stateless (if o.DecoupledDecay then "adamW" else "adam") at with
            Options = momentOptions o.LearningRate o.Beta1 o.Beta2 o.Epsilon o.WeightDecay
            Vectors =
                fun _ ->
                    if o.AmsGrad then
                        moments @ [ "max_exp_avg_sq", 0.0 ]
                    else
                        moments }
        |> Elementwise.withDecay o.Maximize o.DecoupledDecay
        |> Elementwise.rule

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

    /// AMSGrad with that rate.
    let amsgrad (learningRate: float) : UpdateRule =
        adamWith
            { AdamOptions.Default with
                LearningRate = learningRate
                AmsGrad = true }
