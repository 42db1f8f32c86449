namespace Sama.Functional

open TorchSharp
open Sama

/// Buckets of a model that is a function of its parameters: one is complete when the node at its first use in the forward
/// pass is reached, where one thread takes all nodes; else when those of all its parameters that were used are.
[<Sealed>]
type internal BucketsByUse(layout: Layout, gradient: Tensor, bytes, summing, isOneThread: bool) =
    inherit Buckets(layout, gradient, bytes, summing)

    let known = Array.zeroCreate<Tensor> layout.Slices.Count
    let made = ResizeArray<Tensor>()
    // of each bucket, the nodes that are not reached yet; −1 before its first use
    let mutable left: int[] = null

    override buckets.Watch parameters =
        let bounds = buckets.Bounds
        left <- Array.create bounds.Length -1

        let arrive i bucket (given: Tensor) =
            buckets.Calling(fun () ->
                if not (isNull given) then
                    parameters.Gradients[i].add_ given |> ignore

                left[bucket] <- left[bucket] - 1

                if left[bucket] = 0 then
                    buckets.Complete bucket)

            null

        let seen i =
            let view = parameters.Views[i]

            let bucket =
                bounds |> Array.findIndex (fun struct (first, until) -> i >= first && i < until)

            if torch.is_grad_enabled () && not (isNull known[i]) && not known[i].IsInvalid then
                known[i]
            elif
                not view.requires_grad
                || not (torch.is_grad_enabled ())
                || isOneThread && left[bucket] >= 0 && isNull known[i]
            then
                view
            else
                // again behind a scope of the loss's own, which freed the first
                left[bucket] <- max 0 left[bucket] + 1
                known[i] <- Scope.detach (Milestone.apply (view, Arrival(arrive i bucket)))
                made.Add known[i]
                known[i]

        parameters.Seeing seen

    override _.Ended() =
        for tensor in made do
            tensor.Dispose()

        made.Clear()

    override buckets.Free() =
        buckets.Ended()
        base.Free()
