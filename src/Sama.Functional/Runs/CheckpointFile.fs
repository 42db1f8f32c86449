namespace Sama.Functional

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open System.Runtime.Intrinsics.X86
open System.Text.Json.Nodes
open TorchSharp
open Sama

/// The file of a checkpoint: safetensors, whose `__metadata__` holds the format's version, the fields, and their checksum.
module internal CheckpointFile =

    /// The version that this library writes, and the last one that it reads.
    let format = 1

    let private formatKey, fieldsKey, checksumKey =
        "sama.format", "sama.state", "sama.checksum"

    let private cpu () =
        let width =
            if Avx512F.IsSupported then "AVX-512"
            elif Avx2.IsSupported then "AVX2"
            else "no AVX2"

        $"{RuntimeInformation.ProcessArchitecture}, {width}"

    let private origin (state: RunState) =
        [ "library", string (typeof<RunState>.Assembly.GetName().Version)
          "libtorch", NativeSearch.built
          "torchsharp", NativeSearch.binding
          "cpu", cpu ()
          "threads", string (torch.get_num_threads ())
          "ranks", string (Ranks.size ())
          "device", string state.Theta.device ]

    let rec private treeOf (state: RuleState) : RuleTree =
        { Count = state.Count
          Names = List.sort (List.ofSeq state.Tensors.Keys)
          Parameters = List.ofSeq state.Parameters
          Parts = state.Parts |> Seq.map treeOf |> List.ofSeq }

    /// Names of a rule's tensors under a prefix, parts by their number.
    let rec namesOf (prefix: string) (tree: RuleTree) : string list =
        [ for name in tree.Names -> $"{prefix}{name}"
          for i, part in List.indexed tree.Parts do
              yield! namesOf $"{prefix}{i}/" part ]

    let rec private ruleTensors (state: RuleState) : Tensor list =
        [ for name in Seq.sort state.Tensors.Keys -> state.Tensors[name]
          for part in state.Parts do
              yield! ruleTensors part ]

    /// A rule's state of its tree, tensors by their names.
    let rec ruleOf (read: string -> Tensor) (prefix: string) (tree: RuleTree) : RuleState =
        let state =
            RuleState.create
                tree.Count
                [ for name in tree.Names -> name, read $"{prefix}{name}" ]
                [ for i, part in List.indexed tree.Parts -> ruleOf read $"{prefix}{i}/" part ]

        { state with
            Parameters = Array.ofList tree.Parameters }

    let parametersAt (level: string) = $"{level}/parameters/"
    let ruleAt (level: string) = $"{level}/rule/"
    let windowAt (level: string) = $"{level}/window/"
    let windowRuleAt (level: string) = $"{level}/window-rule/"
    let keptAt (level: string) = $"{level}/kept/"
    let bufferAt (name: string) = $"buffers/{name}"

    let private vectorTensors (prefix: string) (layout: Layout) (vector: Tensor) =
        [ for slice, view in Seq.zip layout.Slices (Layout.views layout (vector.detach ())) -> prefix + slice.Name, view ]

    let private tensors (state: RunState) : (string * Tensor) list =
        [ for level in state.Levels do
              yield! vectorTensors (parametersAt level.Name) level.Layout level.Vector
              yield! List.zip (namesOf (ruleAt level.Name) (treeOf level.Rule)) (ruleTensors level.Rule)

              if not (isNull level.Kept) then
                  yield! vectorTensors (keptAt level.Name) level.Layout level.Kept

              if not (isNull level.Window) then
                  let w = level.Window
                  yield! vectorTensors (windowAt level.Name) level.Layout w.Theta
                  yield! List.zip (namesOf (windowRuleAt level.Name) (treeOf w.Rule)) (ruleTensors w.Rule)
          for buffer in state.Buffers do
              bufferAt buffer.Key, buffer.Value ]

    /// What a batch was: of its tensors.
    let batches (micros: Micro list) : string =
        Checksum.ofTensors (micros |> List.collect _.Tensors)

    let private levelOf (level: LevelState) : LevelFields =
        { Name = level.Name
          Update = level.Update
          Parameters = [ for slice in level.Layout.Slices -> slice.Name, List.ofArray slice.Shape ]
          Rule = treeOf level.Rule
          Window =
            match level.Window with
            | null -> None
            | w ->
                Some
                    { Began = w.Began
                      Taken =
                        [ for struct (step, micros) in w.Taken ->
                              { Number = step
                                Seed = micros.Head.Draw.Seed
                                Batches = batches micros } ]
                      Rule = treeOf w.Rule } }

    /// Writes a state; whole, or not at all.
    let write (path: string) (notes: (string * string) list) (state: RunState) : unit =
        Scope.run (fun _ ->
            let all = tensors state

            let fields =
                { Step = state.Step
                  Seed = state.Seed
                  Levels = state.Levels |> Seq.map levelOf |> List.ofSeq
                  Buffers = List.ofSeq state.Buffers.Keys
                  Checksums = [ for name, tensor in all -> name, Checksum.ofTensors [ tensor ] ]
                  Origin = origin state
                  Notes = notes }

            let json = CheckpointFields.toJson fields

            let metadata =
                readOnlyDict [ formatKey, string format; fieldsKey, json; checksumKey, Checksum.ofText json ]

            use writer =
                SafetensorsWriter.Create(
                    path,
                    [ for name, tensor in all -> struct (name, tensor.dtype, tensor.shape) ],
                    metadata
                )

            for name, tensor in all do
                writer.Write(name, tensor)

            writer.Complete())

    let damaged (path: string) (why: string) : exn =
        InvalidDataException $"'{path}' is not a sound checkpoint: {why}"

    /// The fields, checked against their checksum and against the tensors that the file holds. InvalidDataException naming
    /// the file for one that is none, is damaged, or of a newer format.
    let fields (file: SafetensorsFile) : CheckpointFields =
        let path = file.Path

        let value (key: string) =
            match file.Metadata with
            | null -> raise (damaged path "it is a safetensors file without a run's state")
            | metadata ->
                match metadata.TryGetValue key with
                | true, value -> value
                | _ -> raise (damaged path $"its metadata has no '{key}'")

        match Int32.TryParse(value formatKey) with
        | true, own when own = format -> ()
        | true, own when own > format ->
            raise (damaged path $"it is of format {own}, this library reads {format}: take a newer one")
        | _ -> raise (damaged path $"its format is '{value formatKey}', this library reads {format}")

        let json = value fieldsKey

        if Checksum.ofText json <> value checksumKey then
            raise (damaged path "the checksum of its metadata is another")

        let fields =
            try
                CheckpointFields.ofJson json
            with e ->
                raise (
                    InvalidDataException(
                        $"'{path}' is not a sound checkpoint: its metadata are not read: {e.Message}",
                        e
                    )
                )

        let expected, found =
            fields.Checksums |> List.map fst |> set, file.Entries |> Seq.map _.Name |> set

        if expected <> found then
            let missing, other = Set.difference expected found, Set.difference found expected
            let shown names = String.Join(", ", Seq.truncate 3 names)
            raise (damaged path $"tensors [{shown missing}] are missing and [{shown other}] are unknown")

        fields

    /// Reads tensors and checks their checksums. What is read is owned until it is handed over, and freed otherwise.
    [<Sealed>]
    type Reader(file: SafetensorsFile, fields: CheckpointFields) =
        let checksums = dict fields.Checksums
        let owned = List<IDisposable>()

        let own (tensor: Tensor) =
            owned.Add tensor
            tensor

        let check (name: string) (tensor: Tensor) =
            if not (checksums.ContainsKey name) then
                raise (damaged file.Path $"tensor '{name}' has no checksum")

            if Checksum.ofTensors [ tensor ] <> checksums[name] then
                raise (
                    InvalidDataException $"'{file.Path}', tensor '{name}': its bytes are not those that were written"
                )

        let entry (name: string) =
            let entry = file.Entry name

            match SafetensorsTypes.scalarType entry.Dtype with
            | Some kind -> entry, kind
            | None -> raise (InvalidDataException $"'{file.Path}', tensor '{name}': libtorch has no {entry.Dtype}")

        /// A tensor, on that device.
        member _.Tensor (device: torch.Device) (name: string) : Tensor =
            let stored, kind = entry name

            let tensor =
                own (Scope.detach (torch.empty (stored.Shape, dtype = kind, device = device)))

            file.ReadInto(name, tensor)
            check name tensor
            tensor

        /// Whether there are parameters of a layout.
        member _.Holds(prefix: string, layout: Layout) : bool =
            file.Contains(prefix + layout.Slices[0].Name)

        /// Parameters of a layout, read into one flat vector on that device.
        member _.Vector (device: torch.Device) (prefix: string) (layout: Layout) : Tensor =
            let kind = snd (entry (prefix + layout.Slices[0].Name))

            let vector =
                own (Scope.detach (torch.empty ([| layout.Length |], dtype = kind, device = device)))

            Scope.run (fun _ ->
                for slice, view in Seq.zip layout.Slices (Layout.views layout vector) do
                    let name = prefix + slice.Name
                    let stored, other = entry name

                    if stored.Shape <> slice.Shape || other <> kind then
                        raise (InvalidDataException $"'{file.Path}', tensor '{name}': it is not what the metadata say")

                    file.ReadInto(name, view)
                    check name view)

            vector

        /// Freed with what was read.
        member _.Own(made: IDisposable) : unit = owned.Add made

        /// The caller owns all from now on.
        member _.HandOver() : unit = owned.Clear()

        interface IDisposable with
            member _.Dispose() =
                for made in owned do
                    made.Dispose()
