namespace Sama.Reference

open Numbers

/// ∂L_base/∂θ and its derivatives.
type BaseDerivatives =
    {
        /// g
        Gradient: Vec
        /// H = ∂g/∂θ, n × n
        Hessian: Mat
        /// C = ∂g/∂λ, n × m
        Cross: Mat
    }

/// A bilevel problem whose derivatives are written by hand; functions of θ ∈ ℝⁿ and λ ∈ ℝᵐ.
[<NoEquality; NoComparison>]
type ReferenceProblem =
    {
        Name: string
        /// θ₀ of iterations
        Start: Vec
        /// the λ of the suite
        Lambda: Vec
        BaseLoss: Vec -> Vec -> float
        MetaLoss: Vec -> Vec -> float
        Base: Vec -> Vec -> BaseDerivatives
        /// v = ∂L_meta/∂θ and d = ∂L_meta/∂λ
        Meta: Vec -> Vec -> Vec * Vec
        /// λ ↦ θ* in closed form, where there is one
        Solution: (Vec -> Vec) option
    }

/// A base solution and the exact hypergradient there.
type ExactPoint =
    {
        Lambda: Vec
        Theta: Vec
        Derivatives: BaseDerivatives
        /// v
        MetaGradient: Vec
        /// d
        Direct: Vec
        /// q = H⁻¹v
        Adjoint: Vec
        /// h = d − Cᵀq
        Hypergradient: Vec
        ConditionNumber: float
    }

/// Exact answers by dense algebra.
module Exact =

    /// Newton's iteration with halved steps while ‖g‖ would rise; ends where ‖g‖ falls no more.
    let private newton (problem: ReferenceProblem) lambda =
        let size theta =
            norm (problem.Base theta lambda).Gradient

        let rec iterate (theta: Vec) count =
            let at = problem.Base theta lambda
            let step = at.Hessian.Solve at.Gradient

            let lower =
                Seq.init 30 (fun k -> theta - step * 0.5 ** float k)
                |> Seq.tryFind (fun next -> size next < norm at.Gradient)

            match lower with
            | Some next when count < 200 -> iterate next (count + 1)
            | _ -> theta

        iterate problem.Start 0

    /// θ*(λ)
    let solve (problem: ReferenceProblem) (lambda: Vec) : Vec =
        match problem.Solution with
        | Some solution -> solution lambda
        | None -> newton problem lambda

    /// Adjoint and hypergradient at any θ: h = d − Cᵀ H⁻¹ v.
    let at (problem: ReferenceProblem) (lambda: Vec) (theta: Vec) : ExactPoint =
        let derivatives = problem.Base theta lambda
        let v, direct = problem.Meta theta lambda
        let q = derivatives.Hessian.Transpose().Solve v

        { Lambda = lambda
          Theta = theta
          Derivatives = derivatives
          MetaGradient = v
          Direct = direct
          Adjoint = q
          Hypergradient = direct - derivatives.Cross.TransposeThisAndMultiply q
          ConditionNumber = derivatives.Hessian.ConditionNumber() }

    /// The exact hypergradient at λ.
    let point (problem: ReferenceProblem) (lambda: Vec) : ExactPoint =
        at problem lambda (solve problem lambda)

    /// The same by central differences of λ ↦ L_meta(θ*(λ), λ), the base problem solved anew each time.
    let byDifferences (problem: ReferenceProblem) (h: float) (lambda: Vec) : Vec =
        gradientByDifferences (fun lambda -> problem.MetaLoss (solve problem lambda) lambda) h lambda
