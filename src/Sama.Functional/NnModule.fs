namespace Sama.Functional

open System
open System.Collections.Generic
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// A TorchSharp module as a function of Params: before a call its parameters are pointed at the views.
module NnModule =

    /// Trainable parameters, a tied one once.
    let private trainable (m: torch.nn.Module) =
        let seen = HashSet<nativeint>()

        [| for struct (name, p) in m.named_parameters () do
               if p.requires_grad && seen.Add p.Handle then
                   name, p |]

    let private sameStorage (a: Tensor) (b: Tensor) =
        a.device_type <> DeviceType.CPU
        || Unsafe.AreSame(&MemoryMarshal.GetReference a.bytes, &MemoryMarshal.GetReference b.bytes)

    let private named m =
        [ for name, p in trainable m -> name, (p :> Tensor) ]

    /// The layout of a module's trainable parameters.
    let layout (m: torch.nn.Module) : Layout = Layout.ofNamed (named m)

    /// A module's trainable parameters, copied into one new flat vector.
    let ravel (m: torch.nn.Module) : Tensor = Layout.ravel (named m)

    /// A module's trainable parameters themselves, in the order of its layout.
    let internal parameters (m: torch.nn.Module) : Tensor[] =
        trainable m |> Array.map (fun (_, p) -> p :> Tensor)

    /// Points the module's parameters at the views, storage and gradients: nothing is copied.
    /// InvalidOperationException for traced views, which a module's leaves cannot be.
    let bind (m: torch.nn.Module) : Params -> unit =
        let parameters = trainable m |> Array.map snd

        fun (p: Params) ->
            if p.Mode = Traced then
                raise (
                    InvalidOperationException
                        "a module cannot be differentiated twice; give the model as a function of Params"
                )

            use _ = torch.no_grad ()

            parameters
            |> Array.iteri (fun i parameter ->
                parameter.set_ p.Views[i] |> ignore
                parameter.requires_grad <- (p.Mode = Leaves)

                parameter.grad <-
                    if p.Mode = Leaves && not (isNull p.Gradients) then
                        p.Gradients[i]
                    else
                        null)

    /// InvalidOperationException naming a parameter whose gradient did not go into its slice of the flat gradient: the
    /// loss delegate broke the alias (`zero_grad()`, `to(dtype)`, `backward`).
    let internal checkAliases (m: torch.nn.Module) (p: Params) : unit =
        if p.Mode = Leaves && not (isNull p.Gradients) then
            let parameters = trainable m

            if parameters.Length <> p.Gradients.Length then
                invalidOp
                    "the module's parameters changed during the pass: freeze or add them before the problem is made"

            for i in 0 .. parameters.Length - 1 do
                let _, parameter = parameters[i]
                use gradient = parameter.grad

                if
                    isNull gradient
                    || not (sameStorage gradient p.Gradients[i])
                    || not (sameStorage parameter p.Views[i])
                then
                    invalidOp
                        $"parameter '{p.Layout.Slices[i].Name}' lost its gradient during the pass: the loss delegate must not call zero_grad(), to(), backward() or a module optimizer"

    /// Runs `pass` and puts the module's buffers back as they were: only base passes may update them.
    let keepingBuffers (modules: torch.nn.Module list) (pass: unit -> 'result) : 'result =
        let buffers =
            [ for m in modules do
                  for struct (_, buffer) in m.named_buffers () -> buffer ]

        if buffers.IsEmpty then
            pass ()
        else
            let before = buffers |> List.map _.clone()

            try
                pass ()
            finally
                use _ = torch.no_grad ()

                for buffer, saved in List.zip buffers before do
                    buffer.copy_ saved |> ignore
                    saved.Dispose()
