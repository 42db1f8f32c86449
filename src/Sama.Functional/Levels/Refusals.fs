namespace Sama.Functional

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// What a level says of its delegates.
module internal Refusals =

    /// What a delegate of a level raises, in the library's own words where it is TorchSharp's or libtorch's about tensors
    /// that are gone or lie on two devices.
    let explained name (what: string) (device: torch.Device) (body: unit -> 'result) : 'result =
        try
            body ()
        with
        | e when e.Message.Contains "empty handle" ->
            raise (
                InvalidOperationException(
                    $"level '{name}': its {what} used a tensor that is disposed. What a delegate makes is freed at the end of the step, and a module's parameters are replaced by to(dtype): make what a delegate keeps before the run, or take it out by DetachFromDisposeScope()",
                    e
                )
            )
        | :? ExternalException as e ->
            let reason = (e.Message.Split '\n')[0]

            let hint =
                if reason.Contains "device" then
                    $" (the level is on {device}; its batches are moved there, what the delegate captured is not)"
                elif reason.Contains "does not require grad" then
                    $" (does it call backward() itself? A loss is returned, and the run differentiates it; in some passes its parameters need no gradient)"
                else
                    ""

            raise (InvalidOperationException($"level '{name}': libtorch refused its {what}: {reason}{hint}", e))
        | e ->
            e.Data["Sama.Level"] <- name
            reraise ()

    /// What the leaves' gradients are before the backward pass, as numbers; nothing else tells that they were written.
    let private lengths (levels: Params[]) : Tensor =
        use _ = torch.no_grad ()

        torch.stack
            [| torch.zeros 1L
               for own in levels do
                   if own.Mode = Leaves && not (isNull own.Gradients) then
                       for slot in own.Gradients do
                           (slot.norm ()).to_type(torch.float32).cpu().reshape 1L |]

    /// True if a leaf's gradient is not where the pass put it.
    let private isMoved (own: Params) : bool =
        let isElsewhere i (view: Tensor) =
            not view.IsInvalid
            && view.numel () > 0L
            && (use gradient = view.grad

                not (isNull gradient)
                && (isNull own.Gradients || Number.place gradient <> Number.place own.Gradients[i]))

        own.Mode = Leaves && own.Views |> Array.mapi isElsewhere |> Array.exists id

    /// Runs the loss of a level, whose first passes are watched. InvalidOperationException for one that calls `backward`
    /// itself: it would add its gradient to that of the pass.
    let withoutBackward name : Params[] -> (unit -> Tensor) -> Tensor =
        let watched = 8
        let mutable passes = 0

        fun levels loss ->
            if passes >= watched || levels |> Array.forall (fun own -> own.Mode <> Leaves) then
                loss ()
            else
                passes <- passes + 1
                let before = lengths levels
                let value = loss ()

                let wrote =
                    not (before.allclose (lengths levels, 0.0, 0.0, true))
                    || Array.exists isMoved levels

                if wrote then
                    invalidOp
                        $"level '{name}': its loss called backward() itself, which adds to the gradient of the step; a loss is returned, and the run differentiates it (a gradient within a loss is taken by torch.autograd.grad)"

                value

    /// A loss that is one number, and there.
    let requireNumber name (value: Tensor) : Tensor =
        if isNull value then
            invalidOp $"level '{name}': its loss is null"

        if value.IsInvalid then
            invalidOp
                $"level '{name}': its loss is a tensor that is disposed; take it out of a scope of one's own by MoveToOuterDisposeScope()"

        if value.numel () <> 1L then
            let shape = String.Join("x", value.shape)
            invalidOp $"level '{name}': a loss is one number; this one has shape [{shape}] (take its mean or sum)"

        if not (torch.is_floating_point value) then
            invalidOp
                $"level '{name}': its loss is of {value.dtype}, which has no derivative (an integer tensor, a count); it is to be a floating-point number"

        value
