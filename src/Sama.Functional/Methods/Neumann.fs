namespace Sama

/// Options of the Neumann series.
[<NoComparison>]
type NeumannOptions =
    {
        /// terms of the series
        Terms: int
        /// η; the series converges if all eigenvalues of I − η ∂u/∂θ are below 1 in size
        Step: float
        /// one product more, for the residual in the report
        MeasureResidual: bool
        /// relative residual that counts as converged, below 1
        Tolerance: float
    }

    /// Five terms, η = 1, residual measured, 1e-6.
    static member Default =
        { Terms = 5
          Step = 1.0
          MeasureResidual = true
          Tolerance = 1e-6 }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The Neumann series (Lorraine et al., Optimizing Millions of Hyperparameters by Implicit Differentiation, AISTATS 2020):
/// q = η Σ_{j<terms} (I − η (∂u/∂θ)ᵀ)ʲ v, terms − 1 products.
module internal Neumann =

    let private adjoint (o: NeumannOptions) (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let norm = if o.MeasureResidual then Method.size v else nan
        // v is the first term, and nobody's any more
        let term, q = v, v.clone ()

        let advance () =
            Scope.run (fun _ -> term.add_ (Method.transposed at linear term, Number.scalar -o.Step) |> ignore)

        for _ in 2 .. o.Terms do
            advance ()
            q.add_ term |> ignore

        let residual =
            if o.MeasureResidual then
                // v − (∂u/∂θ)ᵀ q is the first term left out
                advance ()
                Nullable(Method.relative (Method.size term) norm)
            else
                Nullable()

        q.mul_ (Number.scalar o.Step) |> ignore

        { P = at.Adapt q
          Q = q
          Report =
            { Report.empty "neumann" with
                Passes = 1
                Products = (if o.MeasureResidual then o.Terms else o.Terms - 1) + 1
                Residual = residual
                Converged =
                    (if residual.HasValue then
                         Nullable(residual.Value <= o.Tolerance)
                     else
                         Nullable()) } }

    let method (o: NeumannOptions) : HypergradientMethod =
        Method.atLeast 1 "Terms" o.Terms
        Method.positive "Step" o.Step
        Method.tolerance "Tolerance" o.Tolerance

        Method.ofAdjoint "neumann" [ Products ProductForm.Default ] false (adjoint o)
