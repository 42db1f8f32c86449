namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// What happens to a gradient in the backward pass, where a node is reached, and what goes on from there; null: nothing.
type internal Arrival = delegate of Tensor -> Tensor

/// The identity. The engine of derivatives takes nodes in the order in which they were made, the last first: when this one
/// is reached, everything that was made behind it in the forward pass is done, as far as it is the same thread's (nodes of
/// a device have a thread of their own).
type internal Milestone() =
    inherit torch.autograd.SingleTensorFunction<Milestone>()
    override _.Name = "SamaMilestone"

    override _.forward(context, values) =
        context.save_data ("arrival", values[1])
        // a view would refuse operators in place behind it
        (values[0] :?> Tensor).detach ()

    override _.backward(context, gradient) =
        let next = List<Tensor>()
        next.Add((context.get_data "arrival" :?> Arrival).Invoke gradient)
        next.Add null
        next
