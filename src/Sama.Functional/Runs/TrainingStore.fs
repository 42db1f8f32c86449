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
/// or not there, each marked with what it belongs to and with a checksum of all it holds.
[<Sealed>]
type internal TrainingFolder(folder: string, identity: string) =
    let key, leftKey, checksumKey = "sama.metagradient", "sama.left", "sama.checksum"

    // every file may be missing: steps are taken again from what lies below
    let damaged (path: string) (why: string) (inner: exn) : exn =
        InvalidDataException($"{why}. Remove '{path}': what it held is found again, at the price of its steps", inner)

    let sound (path: string) (read: unit -> 'a) : 'a =
        try
            read ()
        with :? InvalidDataException as e ->
            raise (damaged path e.Message e)

    let at name =
        Path.Combine(folder, $"{name}.safetensors")

    let number (step: int) =
        step.ToString("D9", CultureInfo.InvariantCulture)

    let place step = at $"place-{number step}"

    let requireOwner (path: string) (notes: IReadOnlyDictionary<string, string>) =
        match notes.TryGetValue key with
        | true, own when own = identity -> ()
        | true, _ ->
            invalidOp
                $"'{folder}' holds the states of another training (other levels, options, start, seed or number of steps): give it a folder of its own, or empty this one"
        | _ -> raise (InvalidDataException $"'{path}' is no part of a metagradient's folder")

    let checksum (tensors: (string * Tensor) seq) (notes: (string * string) seq) : string =
        let tensors = Seq.sortBy fst tensors |> List.ofSeq

        let words =
            [ for name, value in Seq.sort notes do
                  $"{name}={value}"
              for name, tensor: Tensor in tensors do
                  let shape = String.Join("x", tensor.shape)
                  $"{name} {tensor.dtype} {shape}" ]

        let text = String.Join("|", words)
        Checksum.ofText $"{text}|{Checksum.ofTensors (List.map snd tensors)}"

    let write name (tensors: (string * Tensor) list) notes =
        let notes = (key, identity) :: notes

        Safetensors.Save(
            at name,
            [ for name, tensor in tensors -> struct (name, tensor) ],
            readOnlyDict ((checksumKey, checksum tensors notes) :: notes)
        )

    /// All tensors of a file and what it says beside them.
    let read name =
        let path = at name

        if File.Exists path then
            let tensors, notes =
                sound path (fun () ->
                    use file = SafetensorsFile.Open path
                    let tensors = [ for entry in file.Entries -> entry.Name, file.Read entry.Name ]

                    let notes =
                        [ if not (isNull file.Metadata) then
                              for note in file.Metadata -> note.Key, note.Value ]

                    let own, others = notes |> List.partition (fun (name, _) -> name = checksumKey)

                    if List.map snd own <> [ checksum tensors others ] then
                        raise (InvalidDataException $"'{path}' is damaged: its checksum is another")

                    readOnlyDict tensors, readOnlyDict notes)

            requireOwner path notes
            Some(tensors, notes)
        else
            None

    let steps () =
        [ for path in Directory.EnumerateFiles(folder, "place-*.safetensors") do
              let digits = Path.GetFileNameWithoutExtension(path).Substring "place-".Length

              match Int32.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture) with
              | true, step ->
                  requireOwner path (sound path (fun () -> Checkpoint.info path)).Notes
                  step
              | _ -> () ]

    /// A state before that step.
    member _.Keep(step: int, state: RunState, trace: TrainingTrace) : unit =
        // a place is of use only with the checksums of the steps before it
        use marks = torch.tensor (Array.ofSeq trace.Marks)
        write "trace" [ "marks", marks ] []
        Checkpoint.saveWith (readOnlyDict [ key, identity ]) (place step) state

    /// The state before that step.
    member _.Restore(problem: BilevelProblem, step: int) : RunState =
        sound (place step) (fun () -> Checkpoint.load problem (place step))

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
