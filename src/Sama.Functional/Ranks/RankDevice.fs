namespace Sama.Functional

open System
open TorchSharp
open Sama

/// A part of a tensor in a device's memory.
[<Struct; NoComparison; NoEquality>]
type internal DevicePart =
    {
        /// the device's number
        Device: int
        /// where the part begins
        Address: nativeint
        /// elements
        Count: int64
        /// bytes of an element
        Bytes: int
        Type: torch.ScalarType
    }

/// This rank's device among the others', by NCCL, for the one thread that owns MPI. The ranks join where they first have
/// something to do: what they find each other by goes over MPI. Work is done on a stream of its own, behind what libtorch
/// has been given so far.
[<Sealed>]
type internal RankDevice(wire: Wire, ring: Ring) =
    let mutable device = -1
    let mutable communicator = 0n
    let mutable stream = 0n
    // what is done here
    let mutable behind = 0n

    let join (ordinal: int) =
        Nccl.load ()
        Cuda.enter ordinal
        stream <- Cuda.stream ()
        behind <- Cuda.event ()
        use id = new RankMemory(128)

        if wire.Rank = 0 then
            Nccl.newId id.Address

        ring.Broadcast(id.Address, 128L, 0)
        communicator <- Nccl.join wire.Size wire.Rank id.Address
        device <- ordinal

    let require (ordinal: int) =
        if communicator = 0n then
            join ordinal
        elif ordinal <> device then
            invalidOp
                $"a tensor is on cuda:{ordinal}, but this rank's device is cuda:{device}, of what it reduced first: a rank has one device"

    /// Behind an event, which is freed. Polls, so that a rank that fails or does not come is noticed.
    let run (ordinal: int) (before: nativeint) (work: unit -> unit) =
        require ordinal
        Cuda.wait stream before
        Cuda.destroyEvent before
        work ()
        Cuda.record behind stream

        wire.Await(
            (fun () ->
                Nccl.requireSound communicator
                struct (Cuda.hasCome behind, false)),
            fun () -> "the other ranks, for what NCCL does"
        )

    /// part ← scale · Σ over ranks, behind the event `before`; scale is 1, or 1/number of ranks.
    member _.Sum(part: DevicePart, before: nativeint, scale: float) : unit =
        run part.Device before (fun () ->
            Nccl.reduce communicator stream (scale <> 1.0) part.Address part.Count (Nccl.kind part.Type).Value)

    /// The part of one rank on all.
    member _.Broadcast(part: DevicePart, root: int) : unit =
        run part.Device (Cuda.mark part.Device) (fun () ->
            Nccl.broadcast communicator stream root part.Address (part.Count * int64 part.Bytes))

    /// Of rank r, elements `bounds[r]` to `bounds[r + 1]` on all.
    member _.Gather(part: DevicePart, bounds: int64[]) : unit =
        run part.Device (Cuda.mark part.Device) (fun () ->
            Nccl.together communicator (fun () ->
                for root in 0 .. wire.Size - 1 do
                    let count = bounds[root + 1] - bounds[root]

                    if count > 0L then
                        let at = part.Address + nativeint (bounds[root] * int64 part.Bytes)
                        Nccl.broadcast communicator stream root at (count * int64 part.Bytes)))

    /// The end, in spite of what is under way.
    member _.Abort() : unit =
        if communicator <> 0n then
            let own = communicator
            communicator <- 0n
            Nccl.abort own

    interface IDisposable with
        member _.Dispose() =
            if communicator <> 0n then
                Nccl.destroy communicator
                communicator <- 0n
                Cuda.destroyEvent behind
                Cuda.destroyStream stream
