namespace Sama.Reference

open System
open Numbers

/// P1 (Ehrhardt and Roberts): base ‖Cλ + Dθ − e‖², meta ‖Aθ − b‖².
type LeastSquares =
    {
        /// A
        MetaMatrix: Mat
        /// b
        MetaTarget: Vec
        /// C
        CrossMatrix: Mat
        /// D
        BaseMatrix: Mat
        /// e
        BaseTarget: Vec
    }

module LeastSquares =

    /// A, C, D ~ U[0, 1]; b = Aξ + 0.01 N, e = Cξ′ + Dξ″ + 0.01 N, ξ ~ U[0, 1].
    let draw (seed: int) samples n m : LeastSquares =
        let rng = Random seed
        let a = uniformMatrix rng samples n
        let c = uniformMatrix rng samples m
        let d = uniformMatrix rng samples n

        { MetaMatrix = a
          MetaTarget = a * uniform rng n + 0.01 * normal rng samples
          CrossMatrix = c
          BaseMatrix = d
          BaseTarget = c * uniform rng m + d * uniform rng n + 0.01 * normal rng samples }

    let problem (p: LeastSquares) : ReferenceProblem =
        let squared (x: Vec) = x * x

        let residual theta lambda =
            p.CrossMatrix * lambda + p.BaseMatrix * theta - p.BaseTarget

        let meta theta = p.MetaMatrix * theta - p.MetaTarget
        let hessian = 2.0 * p.BaseMatrix.TransposeThisAndMultiply p.BaseMatrix
        let cross = 2.0 * p.BaseMatrix.TransposeThisAndMultiply p.CrossMatrix

        { Name = "P1"
          Start = zeros p.BaseMatrix.ColumnCount
          Lambda = zeros p.CrossMatrix.ColumnCount + 1.0
          BaseLoss = fun theta lambda -> squared (residual theta lambda)
          MetaLoss = fun theta _ -> squared (meta theta)
          Base =
            fun theta lambda ->
                { Gradient = 2.0 * p.BaseMatrix.TransposeThisAndMultiply(residual theta lambda)
                  Hessian = hessian
                  Cross = cross }
          Meta = fun theta lambda -> 2.0 * p.MetaMatrix.TransposeThisAndMultiply(meta theta), 0.0 * lambda
          // x* = D⁺(e − Cλ)
          Solution = Some(fun lambda -> p.BaseMatrix.QR().Solve(p.BaseTarget - p.CrossMatrix * lambda)) }

    /// h = −2 CᵀD(DᵀD)⁻¹Aᵀ(Aθ* − b)
    let closedForm (p: LeastSquares) (theta: Vec) : Vec =
        let v = p.MetaMatrix.TransposeThisAndMultiply(p.MetaMatrix * theta - p.MetaTarget)

        let q = (p.BaseMatrix.TransposeThisAndMultiply p.BaseMatrix).Solve v
        -2.0 * p.CrossMatrix.TransposeThisAndMultiply(p.BaseMatrix * q)

    /// μ = 2σ_min(D)², the smallest eigenvalue of H.
    let convexity (p: LeastSquares) : float =
        2.0 * p.BaseMatrix.Svd(false).S.Minimum() ** 2.0

    /// 2‖A‖², the Lipschitz constant of ∂L_meta/∂θ.
    let lipschitz (p: LeastSquares) : float = 2.0 * p.MetaMatrix.L2Norm() ** 2.0

    /// g with every sum in twice the precision: near θ* it is a small rest of large terms.
    let preciseGradient (p: LeastSquares) (theta: Vec) (lambda: Vec) : Vec =
        let at = vector (Seq.concat [ theta; lambda; vector [ -1.0 ] ])
        let all = p.BaseMatrix.Append(p.CrossMatrix).Append(p.BaseTarget.ToColumnMatrix())
        let residual = vector [ for row in all.EnumerateRows() -> preciseDot row at ]
        vector [ for column in p.BaseMatrix.EnumerateColumns() -> 2.0 * preciseDot column residual ]

    /// The a-posteriori bound at an inexact (θ, q): ‖r‖ = ‖v − Hq‖ and ‖g‖ in.
    let bound (p: LeastSquares) (residual: float) (gradient: float) : float =
        let cross = 2.0 * p.BaseMatrix.TransposeThisAndMultiply p.CrossMatrix
        Adjoint.aPosterioriBound (convexity p) (lipschitz p) cross residual gradient
