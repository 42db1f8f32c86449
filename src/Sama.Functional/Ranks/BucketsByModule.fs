namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Buckets of a module, whose parameters are leaves of its own: a leaf's gradient comes once in a backward pass, whole. Until
/// then the leaf has none, so that where a node behind a part of the module is reached (a hook puts it there, where the part
/// is run by `call`) it is seen which are complete. Parameters with several leaves (tied ones, those that the loss reads by
/// name too) add into the vector by themselves, and are complete where the pass ends.
[<Sealed>]
type internal BucketsByModule(layout: Layout, gradient: Tensor, bytes, summing, m: torch.nn.Module, tied: Tied list) =
    inherit Buckets(layout, gradient, bytes, summing)

    // the one leaf of a slice, as long as its gradient is waited for
    let leaves =
        [| for one in tied ->
               match one.Parameters with
               | [ leaf ] -> leaf
               | _ -> null |]

    let isTaken = Array.create leaves.Length false
    let hooks = ResizeArray<unit -> unit>()
    let mutable slots: Tensor[] = [||]

    let hasCome i =
        isTaken[i]
        || not (isNull leaves[i])
           && (use given = leaves[i].grad
               not (isNull given))

    /// What a leaf was given is added where it would have added it by itself, and goes there from now on.
    let take i =
        if not (isNull leaves[i] || isTaken[i]) then
            use given = leaves[i].grad

            if not (isNull given) then
                slots[i].add_ given |> ignore

            leaves[i].grad <- slots[i]
            isTaken[i] <- true

    let mark (look: unit -> unit) (out: Tensor) : Tensor =
        if isNull out || not out.requires_grad then
            out
        else
            Milestone.apply (
                out,
                Arrival(fun given ->
                    look ()
                    given)
            )

    /// Behind a part that has parameters and gives a tensor.
    let hook look (part: torch.nn.Module) : unit =
        match part with
        | :? torch.nn.Module<Tensor, Tensor> as part ->
            let handle =
                part.register_forward_hook (
                    Func<torch.nn.Module<Tensor, Tensor>, Tensor, Tensor, Tensor>(fun _ _ out -> mark look out)
                )

            hooks.Add handle.remove
        | :? torch.nn.Module<Tensor, Tensor, Tensor> as part ->
            let handle =
                part.register_forward_hook (
                    Func<torch.nn.Module<Tensor, Tensor, Tensor>, Tensor, Tensor, Tensor, Tensor>(fun _ _ _ out ->
                        mark look out)
                )

            hooks.Add handle.remove
        | _ -> ()

    let unhook () =
        for remove in hooks do
            remove ()

        hooks.Clear()

    override buckets.Watch parameters =
        slots <- parameters.Gradients
        let bounds = buckets.Bounds

        for leaf in leaves do
            if not (isNull leaf) then
                leaf.grad <- null

        let isWhole () =
            let struct (first, until) = bounds[buckets.Next]
            Seq.forall hasCome (seq { first .. until - 1 })

        let look () =
            buckets.Calling(fun () ->
                while buckets.Next < bounds.Length && isWhole () do
                    let struct (first, until) = bounds[buckets.Next]
                    Seq.iter take (seq { first .. until - 1 })
                    buckets.Complete buckets.Next)

        for part in m.modules () do
            if part.named_parameters (recurse = false) |> Seq.isEmpty |> not then
                hook look part

        let seen i =
            if not (isNull leaves[i]) then
                leaves[i].grad <- slots[i]
                leaves[i] <- null

            parameters.Views[i]

        parameters.Seeing seen

    override _.Ended() =
        unhook ()
        Seq.iter take (seq { 0 .. leaves.Length - 1 })

    override _.Free() =
        unhook ()
        base.Free()
