namespace Sama.Functional

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// What functions of a user's own promise; InvalidOperationException naming them where they do not keep it.
module internal Contract =

    /// What `what` was given is still there.
    let there (what: string) (named: string) (given: Tensor) : unit =
        if given.IsInvalid then
            invalidOp $"{what} disposed {named}, which is not its own"

    /// The tensor that `what` returned, of the type and shape of `model`, which is `named`.
    let like (what: string) (named: string) (model: Tensor) (given: Tensor) : Tensor =
        if isNull given then
            invalidOp $"{what} returned null"

        if given.IsInvalid then
            invalidOp $"{what} returned a tensor that is disposed"

        there what named model

        if given.dtype <> model.dtype || given.shape <> model.shape then
            invalidOp $"{what} returned {Number.told given}, {named} is {Number.told model}"

        given

    /// The rule's state that `what` returned.
    let state (what: string) (given: RuleState) : RuleState =
        if isNull (box given) then
            invalidOp $"{what} returned null"

        if given.Count < 0L then
            invalidOp $"{what} returned a state of {given.Count} steps"

        for tensor in given.Tensors do
            if isNull tensor.Value || tensor.Value.IsInvalid then
                let state = if isNull tensor.Value then "null" else "disposed"
                invalidOp $"{what} returned a state whose '{tensor.Key}' is {state}"

        given

    /// What `what` does, libtorch's and TorchSharp's errors in it under that name.
    let run (what: string) (body: unit -> 'result) : 'result =
        try
            body ()
        with
        | e when e.Message.Contains "empty handle" ->
            raise (InvalidOperationException($"{what} used a tensor that is disposed", e))
        | :? ExternalException as e ->
            let reason = (e.Message.Split '\n')[0]
            raise (InvalidOperationException($"{what} failed in libtorch: {reason}", e))
