namespace Sama

open System
open System.Collections.Generic

/// One level of a run's state: its flat vector, its rule's state, and what they belong to.
[<ReferenceEquality>]
type LevelState =
    {
        /// the level's name
        Name: string
        /// names and shapes of its parameters
        Layout: Layout
        /// the rule's name
        Update: string
        /// the parameters, flat
        Vector: Tensor
        /// the state of their rule
        Rule: RuleState
        /// the steps of the window that is open, for methods that differentiate through them; else null
        Window: OpenWindow
        /// what the level's method keeps between meta steps (soba, amigo), of the vector's length; null for nothing
        Kept: Tensor
    }

    /// Frees its tensors.
    member level.Dispose() : unit =
        level.Vector.Dispose()

        for tensor in level.Rule.All do
            tensor.Dispose()

        if not (isNull level.Window) then
            (level.Window :> IDisposable).Dispose()

        if not (isNull level.Kept) then
            level.Kept.Dispose()

/// The state of a run as a value: nothing that is not in it decides the next step. Whoever holds it disposes it, which
/// frees its tensors.
[<ReferenceEquality>]
type RunState =
    {
        /// from the base level up
        Levels: IReadOnlyList<LevelState>
        /// buffers of the modules that the problem's losses call (running statistics), by level and name
        Buffers: IReadOnlyDictionary<string, Tensor>
        /// base steps taken
        Step: int64
        /// fixes batches and masks
        Seed: int64
    }

    /// The base level's flat vector.
    member state.Theta = state.Levels[0].Vector

    /// The meta level's flat vector.
    member state.Lambda = state.Levels[state.Levels.Count - 1].Vector

    /// Frees every tensor of the state.
    member state.Dispose() : unit =
        for level in state.Levels do
            level.Dispose()

        for buffer in state.Buffers.Values do
            buffer.Dispose()

    interface IDisposable with
        member state.Dispose() = state.Dispose()

    override state.ToString() =
        let levels =
            String.Join(
                ", ",
                [ for level in state.Levels -> $"'{level.Name}' {level.Vector.numel ():N0} under {level.Update}" ]
            )

        $"state at base step {state.Step}, seed {state.Seed}: {levels}, {state.Buffers.Count} buffers"

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// States of runs.
module RunState =

    /// The same state with every tensor changed; the batches of an open window are shared.
    let map (f: Tensor -> Tensor) (state: RunState) : RunState =
        { state with
            Levels =
                [| for level in state.Levels ->
                       { level with
                           Vector = f level.Vector
                           Rule = RuleState.map f level.Rule
                           Window = if isNull level.Window then null else level.Window.Map f
                           Kept = if isNull level.Kept then null else f level.Kept } |]
            Buffers = readOnlyDict [ for buffer in state.Buffers -> buffer.Key, f buffer.Value ] }

    /// A copy, owned by the caller.
    let copy (state: RunState) : RunState = map Scope.copy state

    /// A copy of the state on that device, owned by the caller. InvalidOperationException inside a window whose batches
    /// it holds: they do not move.
    let toDevice (device: torch.Device) (state: RunState) : RunState =
        for level in state.Levels do
            if not (isNull level.Window) then
                invalidOp
                    $"the state is inside a window of level '{level.Name}', whose batches are on {state.Theta.device}; move it behind a meta step"

        map (fun tensor -> Scope.detach (tensor.``to`` (device, copy = true))) state

    /// Frees every tensor of a state.
    let dispose (state: RunState) : unit = state.Dispose()

    /// A level's part of a state, with another vector: for the same problem at another point.
    let internal at (index: int) (vector: Tensor) (state: RunState) : RunState =
        { state with
            Levels =
                [| for i, level in Seq.indexed state.Levels ->
                       if i = index then { level with Vector = vector } else level |] }

    let private requireRule (refuse: string -> unit) (level: Level) (own: LevelState) =
        if own.Update <> Level.rule level then
            refuse $"level '{level.Name}' is under the rule '{Level.rule level}', the state under '{own.Update}'"

        let expected, misplaced =
            Scope.run (fun _ ->
                let fresh = level.Rule.Start own.Vector
                RuleState.signature "" fresh, RuleState.misplaced fresh own.Rule)

        match misplaced with
        | Some(ours, theirs) ->
            refuse
                $"level '{level.Name}': a group of its rule '{level.Update.Name}' has the parameters {ours}, the state's has {theirs}"
        | None -> ()

        let found = RuleState.signature "" own.Rule

        if expected <> found then
            let missing, other = expected |> List.except found, found |> List.except expected

            let text lines =
                String.Join(", ", [ for line in lines -> $"'{line}'" ])

            let difference =
                match missing, other with
                | [], other -> $"the state has {text other} beside it"
                | missing, [] -> $"the state lacks {text missing}"
                | missing, other -> $"it has {text missing}, the state {text other}"

            refuse
                $"level '{level.Name}': its rule '{level.Update.Name}' has another state than the one given: {difference}"

    let private requireLevel (argument: string) (level: Level) (own: LevelState) =
        let refuse what = invalidArg argument what

        if own.Vector.IsInvalid || own.Rule.All |> Seq.exists _.IsInvalid then
            refuse $"the state of level '{level.Name}' is disposed"

        if own.Name <> level.Name then
            refuse $"the state has a level '{own.Name}' where the problem has '{level.Name}'"

        let slices (layout: Layout) =
            [ for slice in layout.Slices -> slice.Name, List.ofArray slice.Shape ]

        let text (name, shape: int64 list) =
            let shape = String.Join("x", shape)
            $"'{name}' [{shape}]"

        let ours, theirs = slices level.Layout, slices own.Layout

        if ours <> theirs then
            let first =
                List.zip (List.truncate theirs.Length ours) (List.truncate ours.Length theirs)
                |> List.tryFind (fun (a, b) -> a <> b)

            match first with
            | Some(a, b) ->
                refuse $"level '{level.Name}': the state has parameter {text b} where the problem has {text a}"
            | None -> refuse $"level '{level.Name}' has {ours.Length} parameters, the state {theirs.Length}"

        if own.Vector.numel () <> level.Layout.Length then
            refuse $"level '{level.Name}' has {level.Layout.Length} numbers, the state {own.Vector.numel ()}"

        if own.Vector.dtype <> level.Type then
            refuse $"level '{level.Name}' is {level.Type}, the state {own.Vector.dtype}"

        if
            not (isNull own.Kept)
            && (own.Kept.IsInvalid
                || own.Kept.numel () <> level.Layout.Length
                || own.Kept.dtype <> level.Type)
        then
            refuse
                $"level '{level.Name}': what its method kept is disposed, or not {level.Layout.Length} numbers of {level.Type}"

        if string own.Vector.device <> string level.Device then
            refuse
                $"level '{level.Name}' of the state is on {own.Vector.device}, of the problem on {level.Device}; move one of them (RunState.toDevice, Problem.toDevice)"

        requireRule refuse level own

    let private requireBuffers (argument: string) (problem: BilevelProblem) (state: RunState) =
        for name, buffer in Problem.buffers problem do
            match state.Buffers.TryGetValue name with
            | true, own when own.IsInvalid -> invalidArg argument $"buffer '{name}' of the state is disposed"
            | true, own when own.shape <> buffer.shape ->
                let shape (x: Tensor) = String.Join("x", x.shape)

                invalidArg
                    argument
                    $"buffer '{name}' of the state has shape [{shape own}], the module's [{shape buffer}]"
            | true, _ -> ()
            | _ -> invalidArg argument $"the state has no buffer '{name}', which a module of the problem has"

    let private requireWindows (argument: string) (problem: BilevelProblem) (state: RunState) =
        let window = Structure.window problem
        let inside = state.Step % window
        let ends = state.Step - inside + window - 1L

        for i, own in Seq.indexed state.Levels do
            if inside > 0L && problem.Heights[i] = 0 && Structure.due problem 1 ends then
                let began = state.Step - inside + window - Structure.lookback problem i

                let lacks =
                    isNull own.Window
                    // what was taken earlier is left out, unless the level started anew in between
                    || own.Window.Began > began
                    || (own.Window.Began < began && problem.Levels[i].Reset.IsSome)

                if state.Step > began && lacks then
                    invalidArg
                        argument
                        $"the state stands {inside} steps inside a window of {window}, whose beginning it does not hold for {Structure.methodOf problem i}: start from a state at the beginning of a window, or from a Snapshot of a run under that method"

    /// ArgumentException, by that name, for a state that is not of this problem, with what differs, or is disposed.
    let internal requireOf (problem: BilevelProblem) (argument: string) (state: RunState) : unit =
        if state.Step < 0L then
            invalidArg argument $"the state is at base step {state.Step}, which is negative"

        if state.Levels.Count <> problem.Levels.Length then
            invalidArg argument $"the state has {state.Levels.Count} levels, the problem {problem.Levels.Length}"

        for level, own in Seq.zip problem.Levels state.Levels do
            requireLevel argument level own

        requireBuffers argument problem state
        requireWindows argument problem state
