namespace Sama.Functional

open System
open System.Diagnostics
open System.Runtime.InteropServices

/// Native memory of this process, freed with it.
[<Sealed>]
type internal RankMemory(bytes: int) =
    let mutable address = Marshal.AllocHGlobal(max 8 bytes)
    member _.Address = address
    member _.Bytes = bytes

    interface IDisposable with
        member _.Dispose() =
            if address <> 0n then
                Marshal.FreeHGlobal address
                address <- 0n

/// One message on its way.
[<Sealed>]
type internal Message() =
    let request = new RankMemory(8)
    let flag = new RankMemory(8)
    let mutable under = false

    member _.Send(data: nativeint, bytes: int, peer: int, tag: int) : unit =
        Mpi.send data bytes peer tag request.Address
        under <- true

    member _.Receive(data: nativeint, bytes: int, peer: int, tag: int) : unit =
        Mpi.receive data bytes peer tag request.Address
        under <- true

    /// True if nothing is on its way (any more).
    member _.Done: bool =
        if under && Mpi.test request.Address flag.Address then
            under <- false

        not under

    interface IDisposable with
        member _.Dispose() =
            (request :> IDisposable).Dispose()
            (flag :> IDisposable).Dispose()

/// The connection of this rank to the others, for the one thread that owns MPI. Whoever waits looks after `beat`, which
/// ends what takes too long.
[<Sealed>]
type internal Wire(rank: int, size: int, beat: (unit -> string) -> unit) =

    /// A twentieth of what has been waited for already, in microseconds: the core is others' meanwhile. Not Thread.Yield: Linux
    /// (since 6.18) takes a slice from who yields.
    let patience (idle: TimeSpan) =
        int (Math.Clamp(idle.TotalMicroseconds / 20.0, 50.0, 1000.0))

    member _.Rank = rank
    member _.Size = size

    /// Polls until `moved` says that all is done; `missing` names what is waited for.
    member _.Await(poll: unit -> struct (bool * bool), missing: unit -> string) : unit =
        // since when nothing has moved
        let mutable still = 0L
        let mutable going = true

        while going do
            let struct (isDone, moved) = poll ()

            if isDone then
                going <- false
            elif moved then
                still <- 0L
            else
                beat missing

                if still = 0L then
                    still <- Stopwatch.GetTimestamp()

                Signals.pause (patience (Stopwatch.GetElapsedTime still))
