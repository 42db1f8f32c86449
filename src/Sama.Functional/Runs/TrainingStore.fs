namespace Sama.Functional

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open TorchSharp
open Sama

/// What a folder holds of a training that is reversed.
[<NoComparison; NoEquality>]
type internal Stored =
    {
        /// the checksums of the steps that were taken
        Trace: int64[]
        /// numbers of the steps before which a state is kept
        Kept: int list
        /// what is found already, and the steps that are left; None while the training goes forward
        Found: (int * IReadOnlyDictionary<string, Tensor>) option
    }

/// A folder of one training: `place-<step>.safetensors` (a checkpoint), `trace.safetensors`, `found.safetensors`, each whole
/// or not there, each marked with what it belongs to.
[<Sealed>]
type internal TrainingFolder(folder: string, identity: string) =
    let key, leftKey = "sama.metagradient", "sama.left"

    let at name =
        Path.Combine(folder, $"{name}.safetensors")

    let number (step: int) =
        step.ToString("D9", CultureInfo.InvariantCulture)

    let place step = at $"place-{number step}"

    let requireOwn (path: string) (metadata: IReadOnlyDictionary<string, string>) =
        match metadata with
        | null -> raise (InvalidDataException $"'{path}' is no part of a metagradient's folder")
        | metadata ->
            match metadata.TryGetValue key with
            | true, own when own = identity -> ()
            | true, _ ->
                invalidOp
                    $"'{folder}' holds the states of another training (other levels, options, start, seed or number of steps): give it a folder of its own, or empty this one"
            | _ -> raise (InvalidDataException $"'{path}' is no part of a metagradient's folder")

    let write name (tensors: (string * Tensor) list) notes =
        Safetensors.Save(
            at name,
            [ for name, tensor in tensors -> struct (name, tensor) ],
            readOnlyDict ((key, identity) :: notes)
        )

    /// All tensors of a file and what it says beside them.
    let read name =
        if File.Exists(at name) then
            use file = SafetensorsFile.Open(at name)
            requireOwn (at name) file.Metadata
            Some(readOnlyDict [ for entry in file.Entries -> entry.Name, file.Read entry.Name ], file.Metadata)
        else
            None

    let steps () =
        [ for path in Directory.EnumerateFiles(folder, "place-*.safetensors") do
              let digits = Path.GetFileNameWithoutExtension(path).Substring "place-".Length

              match Int32.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture) with
              | true, step ->
                  requireOwn path (Checkpoint.info path).Notes
                  step
              | _ -> () ]

    /// A state before that step.
    member _.Keep(step: int, state: RunState, trace: TrainingTrace) : unit =
        // a place is of use only with the checksums of the steps before it
        use marks = torch.tensor (Array.ofSeq trace.Marks)
        write "trace" [ "marks", marks ] []
        Checkpoint.saveWith (readOnlyDict [ key, identity ]) (place step) state

    /// The state before that step.
    member _.Restore(problem: BilevelProblem, step: int) : RunState = Checkpoint.load problem (place step)

    /// That state is not needed any more.
    member _.Drop(step: int) : unit = File.Delete(place step)

    /// What is found so far, with the trace of the whole training.
    member _.Save(left: int, found: (string * Tensor) list, trace: TrainingTrace) : unit =
        use marks = torch.tensor (Array.ofSeq trace.Marks)
        write "found" (("marks", marks) :: found) [ leftKey, string left ]

    /// What there is, without what a process that was ended left half written.
    member folder_.Open() : Stored =
        Directory.CreateDirectory folder |> ignore

        for path in Directory.EnumerateFiles(folder, "*.safetensors.*.tmp") do
            File.Delete path

        let marks (tensors: IReadOnlyDictionary<string, Tensor>) =
            tensors["marks"].data<int64>().ToArray()

        let found, traced = read "found", read "trace"

        let trace, left =
            match found, traced with
            | Some(tensors, metadata), _ -> marks tensors, int metadata[leftKey]
            | None, Some(tensors, _) -> marks tensors, Int32.MaxValue
            | None, None -> [||], Int32.MaxValue

        let kept, stale =
            steps () |> List.partition (fun step -> step < left && step <= trace.Length)

        List.iter folder_.Drop stale

        { Trace = trace
          Kept = List.sort kept
          Found = found |> Option.map (fun (tensors, _) -> left, tensors) }

    /// The training is reversed: nothing is left.
    member folder_.Clear() : unit =
        // what says that places are of use goes last
        steps () |> List.iter folder_.Drop
        File.Delete(at "trace")
        File.Delete(at "found")

/// The states that are kept while a training is reversed: the lowest of a stack in a folder, the others in memory.
[<Sealed>]
type internal TrainingStore(problem: BilevelProblem, start: RunState, folder: TrainingFolder, disk: int) =
    let memory = Dictionary<int, RunState>()
    let onDisk = HashSet<int>()

    /// Most states at once in memory, and in the folder.
    member val Most = struct (0, 0) with get, set

    /// True if that state is in the folder.
    member _.IsOnDisk(step: int) : bool = onDisk.Contains step

    /// The folder has these already.
    member _.Take(steps: int list) : unit = onDisk.UnionWith steps

    member store.Keep(step: int, depth: int, engine: Engine, trace: TrainingTrace) : unit =
        let state = engine.Snapshot()

        // the start, below all, is the caller's
        if depth <= disk then
            use state = state
            folder.Keep(step, state, trace)
            onDisk.Add step |> ignore
        else
            memory[step] <- state

        let struct (inMemory, inFolder) = store.Most
        store.Most <- struct (max inMemory memory.Count, max inFolder onDisk.Count)

    member _.Restore(step: int, engine: Engine) : unit =
        match memory.TryGetValue step with
        | true, state -> engine.Load state
        | _ when onDisk.Contains step ->
            use state = folder.Restore(problem, step)
            engine.Load state
        | _ -> engine.Load start

    member _.Drop(step: int) : unit =
        match memory.TryGetValue step with
        | true, state ->
            memory.Remove step |> ignore
            state.Dispose()
        | _ ->
            if onDisk.Remove step then
                folder.Drop step

    interface IDisposable with
        member _.Dispose() =
            for state in memory.Values do
                state.Dispose()
