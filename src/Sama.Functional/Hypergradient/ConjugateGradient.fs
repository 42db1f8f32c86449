namespace Sama

/// Options of conjugate gradients.
[<NoComparison>]
type ConjugateGradientOptions =
    {
        /// iterations at most
        Iterations: int
        /// stops at this relative residual
        Tolerance: float
        /// ρ, added to the diagonal
        Damping: float
        /// where the derivatives are taken
        Centre: Centre
    }

    /// 20 iterations or to 1e-6, no damping, at θₜ₋₁.
    static member Default =
        { Iterations = 20
          Tolerance = 1e-6
          Damping = 0.0
          Centre = Centre.PreUpdate }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Conjugate gradients (Pedregosa, Hyperparameter Optimization with Approximate Gradient, ICML 2016). For an elementwise
/// rule on its symmetric form (H + E/D + ρ) p = v (`Method.diagonals`), by MINRES where E/D has negative entries; for
/// others on the normal equations J Jᵀ q = J v, J = ∂u/∂θ, where ρ is added to J Jᵀ. A base Hessian that is not positive
/// definite ends it, and the report says that it did not converge.
module internal ConjugateGradient =

    let private adjoint (o: ConjugateGradientOptions) (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let damped (product: Tensor -> Tensor) (x: Tensor) =
            Scope.tensor (fun () ->
                if o.Damping = 0.0 then
                    product x
                else
                    product x + x * o.Damping)

        let p, (solution: LinearSolve.Solution), cost =
            if at.Elementwise then
                let stay, decay = Method.diagonals at
                let product x = linear.ThetaVjp x * stay + decay * x

                let solver =
                    if decay.lt(Number.scalar 0.0).any().item<bool> () then
                        LinearSolve.minres
                    else
                        LinearSolve.conjugateGradient

                let solution = solver (damped product) (v * stay) o.Iterations o.Tolerance
                solution.X, solution, 1
            else
                let forward w =
                    Scope.tensor (fun () -> at.AdaptForward(linear.ThetaVjp w) + at.DecayForward w)

                let product q = forward (Method.transposed at linear q)

                let solution =
                    LinearSolve.conjugateGradient (damped product) (forward v) o.Iterations o.Tolerance

                at.Adapt solution.X, solution, 2

        p,
        { Report.empty "conjugateGradient" with
            Passes = 1
            Products = cost * solution.Products + cost
            Residual = Nullable solution.Residual
            Converged = Nullable(solution.Residual <= o.Tolerance) }

    let method (o: ConjugateGradientOptions) : HypergradientMethod =
        Method.atLeast 1 "Iterations" o.Iterations
        Method.nonNegative "Tolerance" o.Tolerance
        Method.nonNegative "Damping" o.Damping

        Method.ofAdjoint
            "conjugateGradient"
            []
            { Centre = o.Centre
              FollowStops = false
              Solve = adjoint o }
