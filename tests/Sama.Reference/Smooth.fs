namespace Sama.Reference

open System
open Numbers

/// P7: base ½Σ sᵢ exp((Tλ)ᵢ)(Vᵀθ)ᵢ² + (b + Bλ)·θ + Σ wₖ log cosh((Pθ + Rλ)ₖ), strongly convex;
/// meta ½‖Mθ − y‖² + (k·θ)(l·λ) + Σ cⱼ sin λⱼ.
type Smooth =
    {
        /// V, orthogonal
        Axes: Mat
        /// s
        Spectrum: Vec
        /// T
        Stretch: Mat
        /// b
        Linear: Vec
        /// B
        LinearLambda: Mat
        /// w
        CoshWeights: Vec
        /// P
        CoshTheta: Mat
        /// R
        CoshLambda: Mat
        /// M
        MetaMatrix: Mat
        /// y
        MetaTarget: Vec
        /// k
        MetaTheta: Vec
        /// l
        MetaLambda: Vec
        /// c
        MetaSine: Vec
    }

module Smooth =

    let private baseDerivatives (p: Smooth) (theta: Vec) (lambda: Vec) : BaseDerivatives =
        let stretch = times p.Spectrum (each exp (p.Stretch * lambda))
        let along = p.Axes.TransposeThisAndMultiply theta
        let bend = each tanh (p.CoshTheta * theta + p.CoshLambda * lambda)
        let curve = times p.CoshWeights (each (fun t -> 1.0 - t * t) bend)

        { Gradient =
            p.Axes * times stretch along
            + p.Linear
            + p.LinearLambda * lambda
            + p.CoshTheta.TransposeThisAndMultiply(times p.CoshWeights bend)
          Hessian =
            p.Axes * diagonal stretch * p.Axes.Transpose()
            + p.CoshTheta.TransposeThisAndMultiply(diagonal curve * p.CoshTheta)
          Cross =
            p.Axes * diagonal (times stretch along) * p.Stretch
            + p.LinearLambda
            + p.CoshTheta.TransposeThisAndMultiply(diagonal curve * p.CoshLambda) }

    /// A spectrum from 1/condition to 1, log cosh terms in its upper half, θ* of size 1. The λ of the problem is drawn too.
    let draw (seed: int) n m (condition: float) : Smooth * Vec =
        let rng = Random seed
        let axes = orthogonal rng n
        let upper = axes.SubMatrix(0, n, n / 2, n - n / 2)

        let p =
            { Axes = axes
              Spectrum =
                if n = 1 then
                    vector [ 1.0 ]
                else
                    logspace -(log10 condition) 0.0 n
              Stretch = 0.1 * normalMatrix rng n m
              Linear = zeros n
              LinearLambda = 0.3 * normalMatrix rng n m
              CoshWeights = vector [ 0.5; 0.3; 0.2 ]
              CoshTheta = normalMatrix rng 3 (n - n / 2) * upper.Transpose() / sqrt (float n)
              CoshLambda = normalMatrix rng 3 m
              MetaMatrix = normalMatrix rng n n / sqrt (float n)
              MetaTarget = normal rng n
              MetaTheta = normal rng n
              MetaLambda = 0.1 * normal rng m
              MetaSine = normal rng m }

        let lambda = normal rng m
        // the linear term that makes the target the solution
        { p with
            Linear = -(baseDerivatives p (normal rng n) lambda).Gradient },
        lambda

    let private logCosh (a: float) =
        abs a + Math.Log(1.0 + exp (-2.0 * abs a)) - log 2.0

    let problem (p: Smooth) (lambda: Vec) : ReferenceProblem =
        { Name = "P7"
          Start = zeros p.Linear.Count
          Lambda = lambda
          BaseLoss =
            fun theta lambda ->
                let along = p.Axes.TransposeThisAndMultiply theta
                let stretch = times p.Spectrum (each exp (p.Stretch * lambda))

                0.5 * (stretch * times along along)
                + (p.Linear + p.LinearLambda * lambda) * theta
                + p.CoshWeights * each logCosh (p.CoshTheta * theta + p.CoshLambda * lambda)
          MetaLoss =
            fun theta lambda ->
                let r = p.MetaMatrix * theta - p.MetaTarget

                0.5 * (r * r)
                + (p.MetaTheta * theta) * (p.MetaLambda * lambda)
                + p.MetaSine * each sin lambda
          Base = baseDerivatives p
          Meta =
            fun theta lambda ->
                p.MetaMatrix.TransposeThisAndMultiply(p.MetaMatrix * theta - p.MetaTarget)
                + p.MetaTheta * (p.MetaLambda * lambda),
                (p.MetaTheta * theta) * p.MetaLambda + times p.MetaSine (each cos lambda)
          Solution = None }
