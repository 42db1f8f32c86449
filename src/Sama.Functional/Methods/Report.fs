namespace Sama

open System

/// How products with second derivatives, (∂g/∂θ)ᵀ w and (∂g/∂λ)ᵀ w, are formed.
type ProductForm =
    /// by a graph of the gradient where every level is a function of Params, by differences where one is a module
    | Default = 0
    /// by a graph of the gradient: models that are functions of Params, of operators with second derivatives
    | Exact = 1
    /// by central differences of first-order gradients: any model, in the memory of a plain step
    | Differences = 2

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
        /// how they were formed: `Exact` or `Differences`; null for a method that forms none
        ProductForm: Nullable<ProductForm>
        /// coordinates that the difference leaves where they are: the adaptation is 0 (no gradient was ever seen there), or
        /// the meta gradient is
        Zeros: int64
        /// coordinates without a base gradient whose part of v held ε down: without a bound they would be moved far, since
        /// ‖v‖_A does not count them; 0 where they did not
        Capped: int64
        /// why the response is 0, or what to know before using it; null if there is nothing to say
        Note: string
    }

    /// Every number that applies, with its name.
    override report.ToString() =
        let number name (value: Nullable<float>) =
            if value.HasValue then
                [ $"{name} {value.Value:G4}" ]
            else
                []

        let count name (value: int64) =
            if value > 0L then [ $"{name} {value}" ] else []

        String.Join(
            ", ",
            [ report.Method
              yield! number "‖v‖" report.Norm
              yield! number "‖v‖_A" report.ActiveNorm
              yield! number "ε" report.Epsilon
              yield! number "residual" report.Residual
              yield! number "condition number" report.ConditionNumber
              if report.Converged.HasValue then
                  if report.Converged.Value then
                      "converged"
                  else
                      "not converged"
              yield! count "passes" (int64 report.Passes)
              yield! count "products" (int64 report.Products)
              if report.ProductForm = Nullable ProductForm.Differences then
                  "by differences"
              yield! count "zeros" report.Zeros
              yield! count "capped" report.Capped
              if not (isNull report.Note) then
                  report.Note ]
        )

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
          ProductForm = Nullable()
          Zeros = 0L
          Capped = 0L
          Note = null }
