namespace Sama

/// Options of the fixed-point iteration.
[<NoComparison>]
type FixedPointOptions =
    {
        /// iterations at most
        Iterations: int
        /// η
        Step: float
        /// stops at this relative residual, below 1
        Tolerance: float
        /// q₀, flat, borrowed; null is 0
        Start: Tensor
    }

    /// 100 iterations from 0, η = 1, to 1e-6.
    static member Default =
        { Iterations = 100
          Step = 1.0
          Tolerance = 1e-6
          Start = null }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The fixed-point iteration q ← q − η((∂u/∂θ)ᵀ q − v) (Grazzi et al., On the Iteration Complexity of Hypergradient
/// Computation, ICML 2020).
module internal FixedPoint =

    let private adjoint (o: FixedPointOptions) (at: IBaseSolution) (linear: ILinearization) (v: Tensor) =
        let q =
            if isNull o.Start then
                torch.zeros_like v
            else
                if o.Start.numel () <> v.numel () then
                    invalidArg "Start" $"Start has {o.Start.numel ()} elements, θ has {v.numel ()}"

                o.Start.reshape(-1L).to_type(v.dtype).clone ()

        let norm = Method.size v

        let gap () =
            Scope.tensor (fun () -> (Method.transposed at linear q).sub_ v)

        let mutable rest = gap ()
        let mutable residual = Method.relative (Method.size rest) norm
        let mutable count = 0

        while count < o.Iterations && residual > o.Tolerance do
            q.add_ (rest, Number.scalar -o.Step) |> ignore
            rest.Dispose()
            rest <- gap ()
            residual <- Method.relative (Method.size rest) norm
            count <- count + 1

        { P = at.Adapt q
          Q = q
          Report =
            { Report.empty "fixedPoint" with
                Passes = 1
                Products = count + 2
                Residual = Nullable residual
                Converged = Nullable(residual <= o.Tolerance) } }

    let method (o: FixedPointOptions) : HypergradientMethod =
        Method.atLeast 0 "Iterations" o.Iterations
        Method.positive "Step" o.Step
        Method.tolerance "Tolerance" o.Tolerance

        Method.ofAdjoint "fixedPoint" [ Products ProductForm.Default ] false (adjoint o)
