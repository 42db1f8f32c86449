namespace Sama.Functional

open System
open System.Runtime.CompilerServices
open TorchSharp
open Sama

/// Whose values the buffers of a problem's modules have. Two runs may train one module in turn: each finds the buffers as
/// it left them.
[<Sealed>]
type internal BufferOwner(problem: BilevelProblem) =
    static let owners = ConditionalWeakTable<torch.nn.Module, WeakReference<BufferOwner>>()

    let mutable released = false
    let mutable isAway = false
    let mutable away: (string * Tensor) list = []

    let forget () =
        for _, value in away do
            value.Dispose()

        away <- []
        isAway <- false

    /// Another run takes the modules: the values are kept here.
    member private _.Leave() : unit =
        if not (released || isAway) then
            isAway <- true
            away <- Buffers.copy (Problem.buffers problem)

    /// The buffers have this run's values from now on.
    member owner.Claim() : unit =
        for _, m in Problem.modules problem do
            match owners.TryGetValue m with
            | true, other ->
                match other.TryGetTarget() with
                | true, other when not (obj.ReferenceEquals(other, owner)) -> other.Leave()
                | _ -> ()
            | _ -> ()

        for _, m in Problem.modules problem do
            match owners.TryGetValue m with
            | true, known when
                (let found, other = known.TryGetTarget()
                 found && obj.ReferenceEquals(other, owner))
                ->
                ()
            | _ -> owners.AddOrUpdate(m, WeakReference<BufferOwner> owner)

        if isAway then
            Buffers.load away (Problem.buffers problem)
            forget ()

    /// The run is over.
    member _.Release() : unit =
        released <- true
        forget ()
