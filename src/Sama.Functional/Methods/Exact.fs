namespace Sama

/// Options of the exact hypergradient.
[<NoComparison>]
type ExactOptions =
    {
        /// refused above so many base parameters
        MaxSize: int64
        /// differentiate through stop-features too, as the fixed point does
        FollowStops: bool
    }

    /// Up to 4096 parameters, through stop-features.
    static member Default = { MaxSize = 4096L; FollowStops = true }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The implicit function theorem, densely, at θₜ₋₁: (∂u/∂θ)ᵀ q = v, (dθ*/dλ)ᵀ v = −(∂u/∂λ)ᵀ q, solved in float64 by LU,
/// by the pseudo-inverse where the matrix is singular. Elementwise rules in their symmetric form (`Method.diagonals`),
/// others as they are.
module internal Exact =

    /// The matrix whose i-th column is `product eᵢ`.
    let private dense (product: Tensor -> Tensor) (like: Tensor) : Tensor =
        let n = like.numel ()

        torch.stack (
            [| for i in 0L .. n - 1L ->
                   Scope.tensor (fun () ->
                       let unit = torch.zeros_like like
                       unit.narrow(0L, i, 1L).fill_ (Number.scalar 1.0) |> ignore
                       product unit) |],
            1L
        )

    /// x, its relative residual and the 2-norm condition number.
    let private solve (matrix: Tensor) (v: Tensor) =
        let matrix, v = matrix.to_type torch.float64, v.to_type torch.float64

        if not (Number.isFinite matrix) then
            // a derivative that is not finite is reported as what it makes of h
            torch.full_like (v, Number.scalar nan), nan, nan
        else
            let condition = (torch.linalg.cond matrix).item<float> ()
            // the matrix is a sum of products of the vectors' own type: below its rounding it is singular
            let singular = not (condition < 1e15)

            let x =
                if singular then
                    torch.linalg.pinv(matrix).mv v
                else
                    torch.linalg.solve (matrix, v)

            let residual = Method.relative (Method.size (matrix.mv x - v)) (Method.size v)

            x, residual, condition

    let private adjoint (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let n = int (v.numel ())

        let p, q, residual, condition =
            if at.Elementwise then
                let stay, decay = Method.diagonals at v
                let rows = stay.nonzero().reshape -1L
                let matrix = dense linear.ThetaVjp v + (decay.expand_as v).diag ()
                let pick (t: Tensor) = t.index_select (0L, rows)

                if rows.numel () = 0L then
                    torch.zeros_like v, null, 0.0, 1.0
                else
                    let x, residual, condition =
                        solve (matrix.index_select(0L, rows).index_select (1L, rows)) (pick v)

                    torch.zeros_like(v).index_copy_ (0L, rows, x.to_type v.dtype), null, residual, condition
            else
                let q, residual, condition = solve (dense (Method.transposed at linear) v) v
                let q = q.to_type v.dtype
                at.Adapt q, q, residual, condition

        { P = p
          Q = q
          Report =
            { Report.empty "exact" with
                Passes = 1
                Products = n + 1
                Residual = Nullable residual
                ConditionNumber = Nullable condition
                Converged = Nullable(residual <= 1e-8)
                Note =
                    // products of the vectors' own type carry its rounding
                    (if condition < 0.2 / torch.finfo(v.dtype).eps then
                         null
                     else
                         "the base Hessian is singular (some direction of θ does not change the base gradient): the response of least norm is given, and is right only if the meta gradient has no part along that direction (see the residual)") } }

    let method (o: ExactOptions) : HypergradientMethod =
        if o.MaxSize < 1L then
            invalidArg "MaxSize" $"MaxSize is at least 1, not {o.MaxSize}"

        Method.ofAdjoint "exact" [ SecondDerivatives; AtMost o.MaxSize ] o.FollowStops adjoint
