namespace Sama.Reference

open System
open Numbers

/// Approximate solutions q of H q = v by dense algebra, none by the recursion that a library would run.
module Adjoint =

    /// I − ηH to the power k
    let private contraction (h: Mat) (step: float) (k: int) =
        (identity h.RowCount - step * h).Power k

    /// q ← q − η(Hq − v), k times: q_k = H⁻¹v + (I − ηH)ᵏ (q₀ − H⁻¹v).
    let fixedPoint (iterations: int) (step: float) (start: Vec) (h: Mat) (v: Vec) : Vec =
        let q = h.Solve v
        q + contraction h step iterations * (start - q)

    /// η Σ_{j<terms} (I − ηH)ʲ v, by the same formula from 0.
    let neumann (terms: int) (step: float) (h: Mat) (v: Vec) : Vec =
        fixedPoint terms step (zeros v.Count) h v

    /// The minimiser of ½qᵀ(H + ρI)q − vᵀq over the Krylov space of k products, from an orthonormal basis.
    let conjugateGradient (iterations: int) (damping: float) (h: Mat) (v: Vec) : Vec =
        let h = h + damping * identity v.Count

        let orthogonalise (basis: Vec list) (x: Vec) =
            (x, basis) ||> List.fold (fun x b -> x - b * (b * x))

        let extend (basis: Vec list) _ =
            let x = if basis.IsEmpty then v else h * basis.Head
            let twice = x |> orthogonalise basis |> orthogonalise basis
            // the space is exhausted
            if norm twice <= 1e-13 * norm x then
                basis
            else
                twice / norm twice :: basis

        let basis = List.fold extend [] [ 1 .. min iterations v.Count ]
        let w = Mat.Build.DenseOfColumnVectors(Array.ofList basis)
        w * (w.TransposeThisAndMultiply(h * w)).Solve(w.TransposeThisAndMultiply v)

    /// (H_K + ρI)⁻¹ v, H_K = H[:,K] H[K,K]⁺ H[K,:], without Woodbury's identity.
    let nystrom (columns: int[]) (rho: float) (h: Mat) (v: Vec) : Vec =
        let c = Mat.Build.DenseOfColumnVectors [| for k in columns -> h.Column k |]
        let block = Mat.Build.DenseOfRowVectors [| for k in columns -> c.Row k |]

        (c * block.PseudoInverse() * c.Transpose() + rho * identity v.Count).Solve v

    /// h = d − Cᵀq at a point.
    let hypergradient (point: ExactPoint) (q: Vec) : Vec =
        point.Direct - point.Derivatives.Cross.TransposeThisAndMultiply q

    /// ‖Hq − v‖/‖v‖
    let residual (h: Mat) (v: Vec) (q: Vec) : float = norm (h * q - v) / norm v

    /// Ehrhardt and Roberts (Analyzing inexact hypergradients for bilevel learning, 2023): an inexact θ with ‖g‖ and an
    /// adjoint with ‖r‖ = ‖v − Hq‖ err by at most (‖C‖/μ)(‖r‖ + L‖g‖/μ), where H ⪰ μI does not depend on θ and L is
    /// the Lipschitz constant of ∂L_meta/∂θ.
    let aPosterioriBound (mu: float) (lipschitz: float) (cross: Mat) (residual: float) (gradient: float) : float =
        if not (mu > 0.0) then
            raise (ArgumentException($"the base problem is not strongly convex: mu = {mu}", nameof mu))

        cross.L2Norm() / mu * (residual + lipschitz * gradient / mu)
