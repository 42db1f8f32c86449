namespace Sama.Language

open System
open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// Parameters that stay as they are: constants outside θ, on the CPU, and copies in the types and on the devices that
/// passes ask for, made once.
[<Sealed; AllowNullLiteral>]
type internal Frozen(layout: Layout, vector: Tensor) =
    let views = Dictionary<string, Dictionary<string, Tensor>>()
    let owned = ResizeArray<Tensor>()

    let make (like: Tensor) : Dictionary<string, Tensor> =
        use scope = torch.NewDisposeScope()
        let own = vector.``to``(like.dtype, like.device).alias().DetachFromDisposeScope()
        owned.Add own
        let made = Parameters.views layout own

        for view in made.Values do
            owned.Add(view.DetachFromDisposeScope())

        made

    /// Names and shapes.
    member _.Layout = layout

    /// Their values, as they were given.
    member _.Vector = vector

    /// Views of the values in the type and on the device of a tensor. Threads may ask at once.
    member _.Like(tensor: Tensor) : Dictionary<string, Tensor> =
        let key = $"{tensor.dtype} {tensor.device}"

        lock views (fun () ->
            match views.TryGetValue key with
            | true, found -> found
            | _ ->
                views[key] <- make tensor
                views[key])

    interface IDisposable with
        member _.Dispose() =
            lock views (fun () ->
                for tensor in owned do
                    tensor.Dispose()

                owned.Clear()
                views.Clear()
                vector.Dispose())
