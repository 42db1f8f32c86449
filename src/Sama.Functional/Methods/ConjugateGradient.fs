namespace Sama

/// Options of conjugate gradients.
[<NoComparison>]
type ConjugateGradientOptions =
    {
        /// iterations at most
        Iterations: int
        /// stops at this relative residual, below 1
        Tolerance: float
        /// ρ, added to the diagonal
        Damping: float
    }

    /// 20 iterations or to 1e-6, no damping.
    static member Default =
        { Iterations = 20
          Tolerance = 1e-6
          Damping = 0.0 }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Conjugate gradients (Pedregosa, Hyperparameter Optimization with Approximate Gradient, ICML 2016). For an elementwise
/// rule on its symmetric form (H + E/D + ρ) p = v (`Method.diagonals`); for others on the normal equations J Jᵀ q = J v,
/// J = ∂u/∂θ, where ρ is added to J Jᵀ. By MINRES where E/D has negative entries, and from the start again where the
/// matrix turns out singular; from a direction of negative curvature on, by the iterate of least residual. The report says
/// so. The residual is that of the adjoint system itself.
module internal ConjugateGradient =

    let private adjoint (o: ConjugateGradientOptions) (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let damped (product: Tensor -> Tensor) (x: Tensor) =
            Scope.tensor (fun () ->
                let found = product x

                if o.Damping = 0.0 then
                    found
                else
                    found.add_ (x, Number.scalar o.Damping))

        let p, q, (solution: Solution), products, residual =
            if at.Elementwise then
                let stay, decay = Method.diagonals at v

                let product x =
                    linear.ThetaVjp(x).mul_(stay).addcmul_ (x, decay, Number.scalar 1.0)

                let solver =
                    if decay.lt(Number.scalar 0.0).any().item<bool> () then
                        LinearSolve.minres
                    else
                        LinearSolve.conjugateGradient

                let solution = solver (damped product) (v.mul_ stay) o.Iterations o.Tolerance
                solution.X, null, solution, solution.Products + 1, solution.Residual
            else
                let forward w =
                    Scope.tensor (fun () -> at.AdaptForward(linear.ThetaVjp w) + at.DecayForward w)

                let product q = forward (Method.transposed at linear q)

                let solution =
                    LinearSolve.conjugateGradient (damped product) (forward v) o.Iterations o.Tolerance

                let rest = Method.transposed at linear solution.X - v
                let residual = Method.relative (Method.size rest) (Method.size v)
                at.Adapt solution.X, solution.X, solution, 2 * solution.Products + 3, residual

        { P = p
          Q = q
          Report =
            { Report.empty "conjugateGradient" with
                Passes = 1
                Products = products
                Residual = Nullable residual
                Converged = Nullable(residual <= o.Tolerance)
                Note =
                    (if solution.Broken then
                         "the base Hessian is singular or not positive definite where the meta gradient is (a coordinate that the base loss does not see?): this is the response of least residual; damping makes the matrix regular"
                     else
                         null) } }

    let method (o: ConjugateGradientOptions) : HypergradientMethod =
        Method.atLeast 1 "Iterations" o.Iterations
        Method.tolerance "Tolerance" o.Tolerance
        Method.nonNegative "Damping" o.Damping

        Method.ofAdjoint "conjugateGradient" [ Products ProductForm.Default ] false (adjoint o)
