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
                else
                    ""

            raise (InvalidOperationException($"level '{name}': libtorch refused its {what}: {reason}{hint}", e))
        | e ->
            e.Data["Sama.Level"] <- name
            reraise ()

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
