namespace Sama

/// One level: what it optimises, by which rule, on which data. The type of its batches is known only to its maker.
[<NoComparison; NoEquality>]
type Level =
    internal
        {
            Name: string
            Layout: Layout
            Type: TorchSharp.torch.ScalarType
            /// where its parameters are, and its batches must be
            Device: TorchSharp.torch.Device
            Initial: unit -> Tensor
            Update: UpdateRule
            Rule: BoundRule
            Module: TorchSharp.torch.nn.Module option
            /// the module's parameters by slice; none without a module
            Tied: Sama.Functional.Tied list
            /// modules that the loss calls and no level owns, as far as they are known
            Observed: Lazy<TorchSharp.torch.nn.Module list>
            /// names of all levels, draw ↦ the batch, fetched once, for all passes of a step
            Fetch: string[] -> Draw -> Sama.Functional.Micro
            /// steps of the levels below per step of this one
            Every: int option
            /// base steps before its first window
            WarmUp: int64 option
            /// how it responds to those above
            Method: HypergradientMethod option
            Response: MiddleResponse
            /// where a window starts, as a function of the levels above
            Reset: (Levels -> Tensor) option
            /// how many steps of its window it takes, the last ones
            Steps: int option
        }

    /// Its name, parameters, rule and what was asked of it, in one line.
    override level.ToString() =
        let tensors = level.Layout.Slices.Count

        System.String.Join(
            ", ",
            [ $"level '{level.Name}': {level.Layout.Length:N0} parameters in {tensors} tensors ({level.Type}, {level.Device})"
              level.Update.Name
              if level.Module.IsSome then
                  "a module trained in place"
              match level.Method with
              | Some method -> $"responds by {method}"
              | None -> ()
              match level.Steps with
              | Some steps -> $"the last {steps} steps of a window"
              | None -> ()
              if level.Reset.IsSome then
                  "starts anew with every window" ]
        )

namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// Levels over named tensors or modules.
module Level =

    let private fetch
        name
        device
        repeatable
        (watched: Params[] -> (unit -> Tensor) -> Tensor)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        (names: string[])
        draw
        =
        let batch, own =
            // what the delegate makes beside the batch dies here
            Scope.run (fun _ ->
                let given = Refusals.explained name "data" device (fun () -> data draw)

                try
                    Batch.hold device given
                with :? InvalidOperationException as e ->
                    raise (InvalidOperationException($"level '{name}': {e.Message}", e)))

        let record = Dictionary<string, Tensor>()
        let perturbed = ref torch.float64

        let evaluate mode (levels: Params[]) =
            Draw.masks draw (fun () ->
                Refusals.explained name "loss" device (fun () ->
                    watched levels (fun () ->
                        Stops.within mode.Stops (fun () ->
                            let value =
                                loss (Pass(draw, mode, record)) (Levels(names, levels)) batch
                                |> Refusals.requireNumber name

                            if mode.Kind = PassKind.Perturbed then
                                perturbed.Value <- value.dtype

                            value))))

        let free () =
            for tensor in own do
                tensor.Dispose()

            for feature in record.Values do
                feature.Dispose()

        let rows () = Batch.rows (box batch) own

        new Micro(
            draw,
            own,
            repeatable,
            rows,
            evaluate,
            (fun () -> record.Count > 0),
            (fun () -> perturbed.Value),
            free
        )

    let private build
        name
        layout
        (reference: Tensor)
        initial
        (m: torch.nn.Module option)
        rule
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        (closure: obj)
        =
        if String.IsNullOrEmpty name then
            invalidArg (nameof name) "a level needs a name"

        let device = reference.device

        { Name = name
          Layout = layout
          Type = reference.dtype
          Device = device
          Initial = initial
          Update = rule
          Rule = UpdateRule.bind layout rule
          Module = m
          Tied = m |> Option.map NnModule.trainable |> Option.defaultValue []
          Observed = lazy Captured.modules [| closure; box data |]
          Fetch = fetch name device (not (Streams.isStream (box data))) (Refusals.withoutBackward name) data loss
          Every = None
          WarmUp = None
          Method = None
          Response = MiddleResponse.Total
          Reset = None
          Steps = None }

    let private ofTensors name (parameters: (string * Tensor) list) rule data loss closure =
        let layout = Layout.ofNamed parameters
        build name layout (snd parameters.Head) (fun () -> Layout.ravel parameters) None rule data loss closure

    /// A level over named tensors (borrowed; copied when a run starts) whose loss sees every level by name.
    let general
        (name: string)
        (parameters: (string * Tensor) list)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        : Level =
        ofTensors name parameters rule data loss (box loss)

    /// A level of a two-level problem: `loss pass θ λ batch`, one number; in a problem of one level λ has no parameter. Its
    /// batch's tensors die with the step unless they were made before it.
    let create
        (name: string)
        (parameters: (string * Tensor) list)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Params -> Params -> 'batch -> Tensor)
        : Level =
        ofTensors
            name
            parameters
            rule
            data
            (fun pass levels batch -> loss pass levels.First levels.Second batch)
            (box loss)

    let private overModule name (m: torch.nn.Module) rule data loss closure =
        if isNull m then
            nullArg (nameof m)

        match NnModule.trainable m with
        | [] ->
            invalidArg
                (nameof m)
                $"the module of level '{name}' has no trainable parameter; unfreeze some, or keep it outside the levels"
        | tied ->
            let reference = tied.Head.Parameters.Head :> Tensor
            build name (NnModule.layout m) reference (fun () -> NnModule.ravel m) (Some m) rule data loss closure

    /// A level over a module's trainable parameters, which are trained in place, whose loss sees every level by name.
    /// Frozen parameters stay outside; buffers are part of a run's state. ArgumentException for a module without a
    /// trainable parameter.
    let ofModuleGeneral
        (name: string)
        (m: torch.nn.Module)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> Levels -> 'batch -> Tensor)
        : Level =
        overModule name m rule data loss (box loss)

    /// A level over a module's trainable parameters whose loss calls the modules itself: `loss pass batch`.
    let ofModule
        (name: string)
        (m: torch.nn.Module)
        (rule: UpdateRule)
        (data: Draw -> 'batch)
        (loss: Pass -> 'batch -> Tensor)
        : Level =
        overModule name m rule data (fun pass _ batch -> loss pass batch) (box loss)

    /// The level, with modules that its loss calls beside those of the levels (a frozen encoder, a teacher): their buffers
    /// are part of a run's state. Those that the loss or the data captured, or reads from static fields, are found without it.
    let observing (modules: torch.nn.Module list) (level: Level) : Level =
        { level with
            Observed = lazy (modules @ level.Observed.Value) }

    /// The level, taking one step every so many steps of the levels below it. ArgumentException for less than one.
    let every (steps: int) (level: Level) : Level =
        if steps < 1 then
            invalidArg (nameof steps) $"level '{level.Name}' steps every {steps} steps; at least 1 is needed"

        { level with Every = Some steps }

    /// The level, starting with the first window behind so many base steps. ArgumentException if they are negative.
    let warmUp (baseSteps: int64) (level: Level) : Level =
        if baseSteps < 0L then
            invalidArg (nameof baseSteps) $"level '{level.Name}' warms up for {baseSteps} steps; at least 0 are needed"

        { level with WarmUp = Some baseSteps }

    /// The level, whose response to those above it is found by that method instead of the problem's.
    let withMethod (method: HypergradientMethod) (level: Level) : Level = { level with Method = Some method }

    /// The level, responding to those above it in that way, if it has levels below it.
    let responding (response: MiddleResponse) (level: Level) : Level =
        Options.requireOne (nameof response) response
        { level with Response = response }

    /// The level, taking only so many steps of each window, the last ones: tasks of unequal length under one parent.
    /// ArgumentException for less than one.
    let steps (count: int) (level: Level) : Level =
        if count < 1 then
            invalidArg (nameof count) $"level '{level.Name}' takes {count} steps of a window; at least 1 is needed"

        { level with Steps = Some count }

    /// The level, which every window starts anew where `start` says, with a fresh rule state: `start` gives a flat vector
    /// of its length, or a tensor of as many numbers, from the levels above (MAML: the parent's own vector). `unrolled`
    /// differentiates through it.
    let resetTo (start: Levels -> Tensor) (level: Level) : Level =
        let flat (given: Tensor) =
            if isNull given then given else given.reshape -1L

        { level with
            Reset = Some(start >> flat) }

    /// The name of its rule, and which parameters the rule's groups have.
    let internal rule (level: Level) : string =
        match level.Rule.Groups with
        | "" -> level.Update.Name
        | groups -> $"{level.Update.Name} on {groups}"

    /// The level with its parameters on that device; a module is moved itself, buffers and frozen parameters too.
    let internal toDevice (device: torch.Device) (level: Level) : Level =
        // as tensors name it: "cuda" is "cuda:0"
        let device = Scope.run (fun _ -> (torch.empty (0L, device = device)).device)
        level.Module |> Option.iter (fun m -> m.``to`` device |> ignore)

        { level with
            Device = device
            Initial = fun () -> Scope.tensor (fun () -> level.Initial().``to`` device)
            Tied = level.Module |> Option.map NnModule.trainable |> Option.defaultValue [] }
