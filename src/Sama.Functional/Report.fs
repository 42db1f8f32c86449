namespace Sama

open System

/// What a best-response vjp did, in plain numbers. Null where it does not apply.
[<NoComparison>]
type Report =
    {
        /// the method's name
        Method: string
        /// ‖v‖ over all coordinates
        Norm: Nullable<float>
        /// ‖v‖_A over the coordinates whose loss gradient is not zero
        ActiveNorm: Nullable<float>
        /// ε of the difference
        Epsilon: Nullable<float>
        /// relative residual of the adjoint system
        Residual: Nullable<float>
        /// 2-norm condition number of the adjoint system
        ConditionNumber: Nullable<float>
        /// null for a method that does not iterate
        Converged: Nullable<bool>
        /// passes over the base loss
        Passes: int
        /// matrix-vector products
        Products: int
        /// coordinates that the difference leaves where they are: the adaptation is 0 (no gradient was ever seen there), or
        /// the meta gradient is
        Zeros: int64
    }

    /// InvalidOperationException, with the residual, if the method iterated and did not converge.
    member report.EnsureConverged() : unit =
        if report.Converged = Nullable false then
            raise (InvalidOperationException $"{report.Method} did not converge: residual {report.Residual}")

/// A loss, gradient or update that is not finite. The run's state is the one before the failed base step.
type NonFiniteException(step: int64, level: string, what: string) =
    inherit InvalidOperationException($"step {step}, level '{level}': {what} is not finite")

    /// Base steps taken before the failure.
    member _.Step = step

    /// Name of the level.
    member _.Level = level

namespace Sama.Functional

open System
open Sama

/// Reports of methods.
module Report =

    /// A report of that method with nothing in it yet.
    let empty (name: string) : Report =
        { Method = name
          Norm = Nullable()
          ActiveNorm = Nullable()
          Epsilon = Nullable()
          Residual = Nullable()
          ConditionNumber = Nullable()
          Converged = Nullable()
          Passes = 0
          Products = 0
          Zeros = 0L }
