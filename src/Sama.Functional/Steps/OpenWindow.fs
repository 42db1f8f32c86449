namespace Sama

open System
open System.Collections.Generic

/// The base steps that a level took since its window began: where it began, and with which batches they were taken.
/// Kept for methods that differentiate through them, recorded and never derived again. Holds a copy of θ and the rule's
/// state, and every batch.
[<Sealed; AllowNullLiteral>]
type OpenWindow
    internal (began: int64, theta: Tensor, rule: RuleState, taken: struct (int64 * Sama.Functional.Micro list) list) =
    let mutable disposed = false

    /// Base steps taken before it, skipped ones included.
    member _.Began = began

    /// Numbers of the base steps that were taken; skipped ones are not there.
    member _.Steps: IReadOnlyList<int64> = [| for struct (step, _) in taken -> step |]

    member internal _.Theta = theta
    member internal _.Rule = rule
    member internal _.Taken = taken

    /// One step more; the batches belong to the window from now on.
    member internal _.With(step: int64, micros: Sama.Functional.Micro list) : OpenWindow =
        new OpenWindow(began, theta, rule, taken @ [ struct (step, micros) ])

    /// The same window with its tensors changed, sharing the batches.
    member internal _.Map(f: Tensor -> Tensor) : OpenWindow =
        let shared =
            [ for struct (step, micros) in taken -> struct (step, [ for micro in micros -> micro.Retain() ]) ]

        new OpenWindow(began, f theta, Sama.Functional.RuleState.map f rule, shared)

    interface IDisposable with
        member _.Dispose() =
            if not disposed then
                disposed <- true
                theta.Dispose()

                for tensor in rule.All do
                    tensor.Dispose()

                for struct (_, micros) in taken do
                    for micro in micros do
                        (micro :> IDisposable).Dispose()
