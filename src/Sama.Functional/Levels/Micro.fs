namespace Sama.Functional

open System
open System.Threading
open TorchSharp
open Sama

/// A level's loss on one fetched batch, for as many passes as are wanted of it. It owns handles on the batch's tensors and
/// the features that its base pass recorded; counted, so that a window and its copies can share it.
[<Sealed>]
type internal Micro
    (
        draw: Draw,
        tensors: Tensor list,
        repeatable: bool,
        rows: unit -> int64,
        loss: Mode -> Params[] -> Tensor,
        stops: unit -> bool,
        perturbed: unit -> torch.ScalarType,
        free: unit -> unit
    ) =
    let mutable owners = 1

    /// What fixed the batch.
    member _.Draw = draw

    /// The batch's tensors; its own.
    member _.Tensors = tensors

    /// Rows of the batch; 0 where they are not known.
    member _.Rows: int64 = rows ()

    /// False for a batch of a stream, which no draw gives again.
    member _.Repeatable = repeatable

    /// True if its base pass recorded a stop-feature.
    member _.Stops: bool = stops ()

    /// The type in which its last perturbed pass gave the loss.
    member _.Perturbed: torch.ScalarType = perturbed ()

    /// The loss, at every level's parameters.
    member _.Loss (mode: Mode) (levels: Params[]) : Tensor = loss mode levels

    /// One owner more.
    member micro.Retain() : Micro =
        Interlocked.Increment &owners |> ignore
        micro

    interface IDisposable with
        /// One owner less; the last one frees the batch.
        member _.Dispose() =
            if Interlocked.Decrement &owners = 0 then
                free ()
