namespace Sama

/// Options of the exact hypergradient.
[<NoComparison>]
type ExactOptions =
    {
        /// where the derivatives are taken
        Centre: Centre
        /// refused above so many base parameters
        MaxSize: int64
        /// differentiate through stop-features too, as the fixed point does
        FollowStops: bool
    }

    /// At θₜ₋₁, up to 4096 parameters, through stop-features.
    static member Default =
        { Centre = Centre.PreUpdate
          MaxSize = 4096L
          FollowStops = true }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The implicit function theorem, densely: (∂u/∂θ)ᵀ q = v, (dθ*/dλ)ᵀ v = −(∂u/∂λ)ᵀ q, solved in float64 by LU.
/// Elementwise rules in their symmetric form (`Method.diagonals`), others as they are.
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

    let private solve (matrix: Tensor) (v: Tensor) =
        let matrix, v = matrix.to_type torch.float64, v.to_type torch.float64
        let x = torch.linalg.solve (matrix, v)
        let residual = Method.size (matrix.mv x - v) / max (Method.size v) Double.Epsilon
        x, residual, (torch.linalg.cond matrix).item<float> ()

    let private adjoint (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let n = int (v.numel ())

        let p, residual, condition =
            if at.Elementwise then
                let stay, decay = Method.diagonals at
                let rows = stay.nonzero().reshape -1L
                let matrix = dense linear.ThetaVjp v + decay.diag ()
                let pick (t: Tensor) = t.index_select (0L, rows)

                if rows.numel () = 0L then
                    torch.zeros_like v, 0.0, 1.0
                else
                    let x, residual, condition =
                        solve (matrix.index_select(0L, rows).index_select (1L, rows)) (pick v)

                    torch.zeros_like(v).index_copy_ (0L, rows, x.to_type v.dtype), residual, condition
            else
                let q, residual, condition = solve (dense (Method.transposed at linear) v) v
                at.Adapt(q.to_type v.dtype), residual, condition

        p,
        { Report.empty "exact" with
            Passes = 1
            Products = n + 1
            Residual = Nullable residual
            ConditionNumber = Nullable condition
            Converged = Nullable(residual <= 1e-8) }

    let method (o: ExactOptions) : HypergradientMethod =
        if o.MaxSize < 1L then
            invalidArg "MaxSize" $"MaxSize is at least 1, not {o.MaxSize}"

        Method.ofAdjoint
            "exact"
            [ AtMost o.MaxSize ]
            { Centre = o.Centre
              FollowStops = o.FollowStops
              Solve = adjoint }
