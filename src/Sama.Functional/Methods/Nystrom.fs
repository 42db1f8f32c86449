namespace Sama

/// Options of the Nyström method.
[<NoComparison>]
type NystromOptions =
    {
        /// columns of H that are computed, drawn by the seed
        Rank: int
        /// the columns themselves instead; null: drawn
        Columns: int64[]
        /// ρ, which stands for H outside their span
        Rho: float
        /// draws the columns
        Seed: int64
    }

    /// Rank 10, ρ = 0.01, seed 0.
    static member Default =
        { Rank = 10
          Columns = null
          Rho = 0.01
          Seed = 0L }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The Nyström method (Hataya and Yamada, Nyström Method for Accurate and Scalable Implicit Differentiation, AISTATS 2023):
/// p = (A_K + ρI)⁻¹ v, A_K = C W⁻¹ Cᵀ, C = A[:, K], W = A[K, K], by Woodbury's identity
/// p = v/ρ − C (W + CᵀC/ρ)⁻¹ Cᵀ v/ρ², A the symmetric form of an elementwise rule (`Method.diagonals`).
module internal Nystrom =

    let private columnsOf (o: NystromOptions) (stay: Tensor) : Tensor =
        let candidates = stay.nonzero().reshape -1L

        if isNull o.Columns then
            use generator = new torch.Generator(uint64 o.Seed)
            let order = torch.randperm (candidates.numel (), generator = generator)
            let rank = min (int64 o.Rank) (candidates.numel ())
            candidates.index_select (0L, order.narrow(0L, 0L, rank).``to`` candidates.device)
        else
            for column in o.Columns do
                if column < 0L || column >= stay.numel () then
                    invalidArg "Columns" $"column {column} is outside θ, which has {stay.numel ()} coordinates"

            torch.tensor(o.Columns).``to`` candidates.device

    let private adjoint (o: NystromOptions) (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let stay, decay = Method.diagonals at v
        let columns = columnsOf o stay
        let count = columns.numel ()

        let column i =
            Scope.tensor (fun () ->
                let unit = torch.zeros_like v
                unit.index_fill_ (0L, columns.narrow (0L, i, 1L), Number.scalar 1.0) |> ignore
                // a named column may be that of a coordinate that left the system
                linear.ThetaVjp(unit * stay) * stay + decay * unit)

        // what is left of v/ρ is a difference of numbers ‖A‖/ρ times as large: 16 bits have none of it
        let wide = if v.ElementSize < 4L then torch.float32 else v.dtype
        let c = torch.stack([| for i in 0L .. count - 1L -> column i |], 1L).to_type wide
        let w = c.index_select (0L, columns)
        let v = v * stay
        let whole = v.to_type wide
        // k × k, in float64: its condition is that of W squared over ρ
        let small =
            w.to_type torch.float64
            + (c.t().mm c / Number.scalar o.Rho).to_type torch.float64

        let right = c.t().mv(whole).to_type torch.float64

        let inner =
            // a column of zeros, of a coordinate that the base loss does not see, makes it singular
            if torch.linalg.cond(small).item<float> () < 1e15 then
                torch.linalg.solve (small, right)
            else
                torch.linalg.pinv(small).mv right

        let p =
            (whole / Number.scalar o.Rho
             - c.mv (inner.to_type wide) / Number.scalar (o.Rho * o.Rho))
                .to_type
                v.dtype

        let residual =
            let off = (linear.ThetaVjp p * stay + decay * p) - v
            Method.relative (Method.size off) (Method.size v)

        { P = p
          Q = null
          Report =
            { Report.empty "nystrom" with
                Passes = 1
                Products = int count + 2
                Residual = Nullable residual
                Note =
                    (if residual < 1.0 then
                         null
                     else
                         $"the columns do not span what the meta gradient needs: p solves the adjoint system worse than 0 does (residual {residual:G3}); take more columns (Rank) or a larger Rho") } }

    let method (o: NystromOptions) : HypergradientMethod =
        Method.positive "Rho" o.Rho

        if isNull o.Columns then
            Method.atLeast 1 "Rank" o.Rank
        elif o.Columns.Length = 0 then
            invalidArg "Columns" "at least one column is needed"

        Method.ofAdjoint "nystrom" [ Products ProductForm.Default; ElementwiseRule ] false (adjoint o)
