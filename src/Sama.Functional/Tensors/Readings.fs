namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Values that the host must know of a step: losses, norms, whether vectors are finite. On the CPU each is looked at
/// where it is made; any other device would be waited for each time, so there they are brought over together, by
/// `Close`. `together` does so on the CPU too.
[<Sealed>]
type internal Readings(together: bool, gather: (float[] -> float[][]) option) =
    let pending = ResizeArray<struct (Tensor * (float -> unit))>()
    let shared = ResizeArray<struct (Tensor * (float[] -> unit))>()

    let later (value: Tensor) receive =
        pending.Add(struct (Scope.copy value, receive))

    let atOnce (value: Tensor) = not together && Number.onHost value

    /// `receive` is given the value of a 0-D tensor.
    member _.Number(value: Tensor, receive: float -> unit) : unit =
        if atOnce value then
            receive (Number.read value)
        else
            later value receive

    /// `receive` is given the values that a 0-D tensor has on every rank, by rank; with others by `Close`, where every rank
    /// comes with as many.
    member readings.Shared(value: Tensor, receive: float[] -> unit) : unit =
        if gather.IsNone then
            readings.Number(value, (fun own -> receive [| own |]))
        else
            shared.Add(struct (Scope.copy value, receive))

    /// `failed`, which throws, is called if a 0-D tensor of truth is false.
    member readings.Holds(truth: Tensor, failed: unit -> unit) : unit =
        readings.Number(
            truth,
            fun value ->
                if value = 0.0 then
                    failed ()
        )

    /// `failed`, which throws, is called if an entry is NaN or infinite.
    member readings.Finite(vector: Tensor, failed: unit -> unit) : unit =
        if not (atOnce vector) then
            readings.Holds(Scope.tensor (fun () -> vector.detach().isfinite().all ()), failed)
        elif not (Number.isFinite vector) then
            failed ()

    /// Waits for everything asked for so far, in its order.
    member _.Close() : unit =
        if pending.Count > 0 then
            let waiting = pending.ToArray()
            pending.Clear()
            let values = Number.readAll [ for struct (value, _) in waiting -> value ]

            for struct (value, _) in waiting do
                value.Dispose()

            for i, struct (_, receive) in Array.indexed waiting do
                receive values[i]

        if shared.Count > 0 then
            let waiting = shared.ToArray()
            shared.Clear()

            let byRank =
                gather.Value(Number.readAll [ for struct (value, _) in waiting -> value ])

            for struct (value, _) in waiting do
                value.Dispose()

            for i, struct (_, receive) in Array.indexed waiting do
                receive [| for own in byRank -> own[i] |]

    interface IDisposable with
        member _.Dispose() =
            for struct (value, _) in pending do
                value.Dispose()

            for struct (value, _) in shared do
                value.Dispose()
