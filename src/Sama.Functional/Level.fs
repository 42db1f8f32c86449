namespace Sama

open System.Collections.Generic

/// The parameters of every level of a problem, by the level's name.
[<Sealed>]
type Levels internal (names: string[], parameters: Params[]) =
    /// A level's parameters. ArgumentException if there is no level of that name.
    member _.Item
        with get (name: string): Params =
            match System.Array.IndexOf(names, name) with
            | -1 ->
                let known = System.String.Join(", ", names)
                raise (System.ArgumentException($"no level is named '{name}'; there are: {known}", nameof name))
            | i -> parameters[i]

    member internal _.At(index: int) = parameters[index]

/// One level: what it optimises, by which rule, on which data. The type of its batches is known only to its maker.
[<NoComparison; NoEquality>]
type Level =
    internal
        {
            Name: string
            Layout: Layout
            /// where its parameters are, and its batches must be
            Device: TorchSharp.torch.Device
            Initial: unit -> Tensor
            Rule: BoundRule
            Module: TorchSharp.torch.nn.Module option
            Bind: Params -> unit
            /// the batch is fetched once a draw: a base pass and its perturbed passes see the same
            Objective: Draw -> Stops -> Levels -> Tensor
        }

namespace Sama.Functional

open System
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// Levels over named tensors or modules.
module Level =

    /// The tensors of a batch that are not on the device, of what can be looked into: tensors, tuples, sequences.
    let rec private misplaced (device: torch.Device) (path: string) (batch: obj) : string list =
        match batch with
        | :? Tensor as tensor when string tensor.device = string device -> []
        | :? Tensor as tensor ->
            let shape = String.Join("x", tensor.shape)
            [ $"{path} ([{shape}]) on {tensor.device}" ]
        | :? ITuple as parts ->
            List.concat [ for i in 0 .. parts.Length - 1 -> misplaced device $"{path}, item {i + 1}" parts[i] ]
        | :? seq<Tensor> as parts ->
            parts
            |> Seq.mapi (fun i part -> misplaced device $"{path}, item {i + 1}" part)
            |> List.concat
        | _ -> []

    /// The loss; where libtorch finds tensors of two devices, ArgumentException names those of the batch that are off.
    let private onDevice name (device: torch.Device) (batch: 'batch) (loss: unit -> Tensor) : Tensor =
        try
            loss ()
        with :? ExternalException as e when e.Message.Contains "device" && not (isNull (box batch)) ->
            match misplaced device "the batch" (box batch) with
            | [] -> reraise ()
            | off ->
                let off = String.Join("; ", off)

                raise (
                    ArgumentException(
                        $"level '{name}' is on {device}, {off}: let its data give tensors of that device",
                        "data",
                        e
                    )
                )

    let private build
        name
        layout
        (device: torch.Device)
        initial
        m
        rule
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        =
        let objective draw =
            let batch = data draw
            let record = System.Collections.Generic.Dictionary()

            fun stops (levels: Levels) ->
                let device = (levels.At 0).Vector.device

                Draw.masks draw (fun () ->
                    onDevice name device batch (fun () -> loss (Pass(draw, stops, record)) levels batch))

        { Name = name
          Layout = layout
          Device = device
          Initial = initial
          Rule = UpdateRule.bind layout rule
          Module = m
          Bind = m |> Option.map NnModule.bind |> Option.defaultValue ignore
          Objective = objective }

    /// A level over named tensors (borrowed; copied when a run starts) whose loss sees every level by name.
    let general
        (name: string)
        (parameters: (string * Tensor) list)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        : Level =
        let layout = Layout.ofNamed parameters
        let device = (snd parameters.Head).device
        build name layout device (fun () -> Layout.ravel parameters) None rule data loss

    /// A level of a two-level problem: `loss pass θ λ batch`, one number. Its batch's tensors die with the step
    /// unless they were made before it.
    let create
        (name: string)
        (parameters: (string * Tensor) list)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Params -> Params -> 'batch -> Tensor)
        : Level =
        general name parameters rule data (fun pass levels batch -> loss pass (levels.At 0) (levels.At 1) batch)

    /// A level over a module's trainable parameters, which are trained in place, whose loss sees every level by name.
    /// Frozen parameters stay outside.
    let ofModuleGeneral
        (name: string)
        (m: torch.nn.Module)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        : Level =
        if isNull m then
            nullArg (nameof m)

        let layout = NnModule.layout m
        let device = (Array.head (NnModule.parameters m)).device
        build name layout device (fun () -> NnModule.ravel m) (Some m) rule data loss

    /// A level over a module's trainable parameters whose loss calls the modules itself: `loss pass batch`.
    let ofModule
        (name: string)
        (m: torch.nn.Module)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> 'batch -> Tensor)
        : Level =
        ofModuleGeneral name m rule data (fun pass _ batch -> loss pass batch)

    /// The level with its parameters on that device; a module is moved itself, buffers and frozen parameters too.
    let internal toDevice (device: torch.Device) (level: Level) : Level =
        // as tensors name it: "cuda" is "cuda:0"
        let device = Scope.run (fun _ -> (torch.empty (0L, device = device)).device)
        level.Module |> Option.iter (fun m -> m.``to`` device |> ignore)

        { level with
            Device = device
            Initial = fun () -> Scope.tensor (fun () -> level.Initial().``to`` device)
            Bind = level.Module |> Option.map NnModule.bind |> Option.defaultValue ignore }
