namespace Sama.Reference

open System
open Numbers

/// One half of P2: ½θᵀAθ + ½λᵀBλ + λᵀCθ + a·θ + b·λ.
type QuadraticForm =
    { Theta: Mat
      Lambda: Mat
      Cross: Mat
      LinearTheta: Vec
      LinearLambda: Vec }

/// P2: means of a stochastic quadratic.
type Quadratic =
    { Base: QuadraticForm
      Meta: QuadraticForm }

module Quadratic =

    let private value (f: QuadraticForm) (theta: Vec) (lambda: Vec) =
        0.5 * (theta * (f.Theta * theta))
        + 0.5 * (lambda * (f.Lambda * lambda))
        + lambda * (f.Cross * theta)
        + f.LinearTheta * theta
        + f.LinearLambda * lambda

    let private byTheta (f: QuadraticForm) (theta: Vec) (lambda: Vec) =
        f.Theta * theta + f.Cross.TransposeThisAndMultiply lambda + f.LinearTheta

    let private byLambda (f: QuadraticForm) (theta: Vec) (lambda: Vec) =
        f.Lambda * lambda + f.Cross * theta + f.LinearLambda

    /// Mean of uuᵀ over the samples, u ~ N(0, UΛUᵀ), Λ log-spaced in [0.1, 1].
    let private meanSquare rng samples n =
        let u =
            normalMatrix rng samples n
            * diagonal (each sqrt (logspace -1.0 0.0 n))
            * (orthogonal rng n).Transpose()

        u.TransposeThisAndMultiply u / float samples

    /// Mean of x(0.1 Qx)ᵀ, Q with orthonormal rows or columns: singular values about 0.1. m × n.
    let private meanCross rng samples n m =
        let x = normalMatrix rng samples m
        let q = (orthogonal rng (max n m)).SubMatrix(0, n, 0, m)
        x.TransposeThisAndMultiply(0.1 * x * q.Transpose()) / float samples

    /// d²/dλ² of λ ↦ L_meta(θ*(λ), λ)
    let valueHessian (p: Quadratic) : Mat =
        let response = p.Base.Theta.Solve(p.Base.Cross.Transpose())
        let mixed = p.Meta.Cross * response

        p.Meta.Lambda - mixed - mixed.Transpose()
        + response.TransposeThisAndMultiply(p.Meta.Theta * response)

    /// Drawn again until the value function is convex.
    let draw (seed: int) samples n m : Quadratic =
        let rng = Random seed

        let form () =
            { Theta = meanSquare rng samples n
              Lambda = meanSquare rng samples m
              Cross = meanCross rng samples n m
              LinearTheta = normal rng n
              LinearLambda = normal rng m }

        Seq.initInfinite (fun _ -> { Base = form (); Meta = form () })
        |> Seq.find (fun p -> (valueHessian p).Evd().EigenValues |> Seq.forall (fun e -> e.Real > 0.0))

    let problem (p: Quadratic) : ReferenceProblem =
        { Name = "P2"
          Start = zeros p.Base.LinearTheta.Count
          Lambda = zeros p.Base.LinearLambda.Count - 2.0
          BaseLoss = value p.Base
          MetaLoss = value p.Meta
          Base =
            fun theta lambda ->
                { Gradient = byTheta p.Base theta lambda
                  Hessian = p.Base.Theta
                  Cross = p.Base.Cross.Transpose() }
          Meta = fun theta lambda -> byTheta p.Meta theta lambda, byLambda p.Meta theta lambda
          Solution =
            Some(fun lambda -> -p.Base.Theta.Solve(p.Base.LinearTheta + p.Base.Cross.TransposeThisAndMultiply lambda)) }

    /// H̄λ + K̄θ* + h̄ − C̄Ā⁻¹(F̄θ* + K̄ᵀλ + f̄)
    let closedForm (p: Quadratic) (lambda: Vec) (theta: Vec) : Vec =
        byLambda p.Meta theta lambda
        - p.Base.Cross * p.Base.Theta.Solve(byTheta p.Meta theta lambda)
