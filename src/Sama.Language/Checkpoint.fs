namespace Sama.Language

open System
open System.Collections.Generic
open System.IO
open TorchSharp
open Sama
open Sama.Functional

/// What became of the tensors of a folder.
[<NoComparison; NoEquality>]
type LoadReport =
    {
        /// parameters that were read
        Loaded: IReadOnlyList<string>
        /// parameters that the folder has not, or that were asked to be drawn anew
        NewlyInitialised: IReadOnlyList<string>
        /// tensors of the folder that the model has no use for, by the names that they have there
        Unused: IReadOnlyList<string>
    }

/// model.safetensors of folders: names as they are stored, widened to the vector's type.
module internal Checkpoint =

    /// The name without the encoder's prefix and with the norms' modern names.
    let private canonical (config: EncoderConfig) (name: string) : string =
        let prefix = Parameters.prefixOf config.Family

        let bare =
            if name.StartsWith prefix then
                name.Substring prefix.Length
            else
                name

        bare.Replace("LayerNorm.gamma", "LayerNorm.weight").Replace("LayerNorm.beta", "LayerNorm.bias")

    /// Tables that are stored twice in older files, by the names of what they copy.
    let private tied (name: string) : string =
        match name with
        | "cls.predictions.decoder.weight"
        | "lm_head.decoder.weight" -> "embeddings.word_embeddings.weight"
        | "cls.predictions.decoder.bias" -> "cls.predictions.bias"
        | "lm_head.decoder.bias" -> "lm_head.bias"
        | _ -> null

    let private isBuffer (name: string) = name.EndsWith "embeddings.position_ids"

    /// Stored names by canonical ones, without buffers.
    let private stored (config: EncoderConfig) (file: SafetensorsFolder) : Dictionary<string, string> =
        let found = Dictionary<string, string>()

        for entry in file.Entries do
            let name = canonical config entry.Name

            if not (isBuffer name) && not (found.TryAdd(name, entry.Name)) then
                raise (
                    InvalidDataException
                        $"'{(file.File entry.Name).Path}': tensors '{found[name]}' and '{entry.Name}' are one parameter"
                )

        found

    /// Older files hold the output table too: it must be the word table.
    let private checkTied (file: SafetensorsFolder) (found: Dictionary<string, string>) : unit =
        for pair in Array.ofSeq found do
            match tied pair.Key with
            | null -> ()
            | copied ->
                match found.TryGetValue copied with
                | true, original ->
                    Scope.run (fun _ ->
                        if not ((file.Read pair.Value).Equals(file.Read original)) then
                            raise (
                                InvalidDataException
                                    $"'{(file.File pair.Value).Path}', tensor '{pair.Value}': it differs from '{original}', which it is tied to"
                            ))

                    found.Remove pair.Key |> ignore
                | _ -> ()

    let private isHead (name: string) =
        name.StartsWith "classifier."
        || name.StartsWith "cls."
        || name.StartsWith "lm_head."

    /// An encoder in part is no encoder: a head, and BERT's pooler, alone may be missing.
    let private isBody (name: string) =
        name.StartsWith "embeddings." || name.StartsWith "encoder."

    /// InvalidDataException for a tensor of a file that holds no floating-point numbers.
    let requireFloats (owner: SafetensorsFile) (entry: SafetensorsEntry) : unit =
        if not (List.contains entry.Dtype [ "F64"; "F32"; "F16"; "BF16" ]) then
            raise (
                InvalidDataException
                    $"'{owner.Path}', tensor '{entry.Name}': its dtype is {entry.Dtype}; weights are floats of 16 bits or more"
            )

    let private read (file: SafetensorsFolder) (name: string) (view: Tensor) : unit =
        let owner = file.File name
        let entry = owner.Entry name
        requireFloats owner entry

        if entry.Shape <> view.shape then
            let shown (shape: int64[]) = String.Join("x", shape)

            raise (
                InvalidDataException
                    $"'{owner.Path}', tensor '{name}' is [{shown entry.Shape}], config.json and the labels ask for [{shown view.shape}]; a head of another size is drawn anew with resetHead"
            )

        owner.ReadInto(name, view)

    /// The flat vector of a layout from a folder, in `dtype` on the CPU, and what became of the tensors. What is missing
    /// of the head or the pooler is drawn by `seed`; with `resetHead` the head is. FileNotFoundException, or InvalidDataException naming file and tensor.
    let load
        (folder: string)
        (config: EncoderConfig)
        (layout: Layout)
        (seed: int64)
        (resetHead: bool)
        (dtype: torch.ScalarType)
        : Tensor * LoadReport =
        use file = SafetensorsFolder.Open(folder, "model")
        let found = stored config file
        checkTied file found
        use generator = new torch.Generator(uint64 seed)
        let loaded, drawn = List(), List()

        let vector =
            Scope.run (fun keep ->
                let vector = torch.empty ([| layout.Length |], dtype = dtype)

                for slice in layout.Slices do
                    let name = canonical config slice.Name

                    match found.TryGetValue name with
                    | true, original when not (resetHead && isHead name) ->
                        found.Remove name |> ignore
                        read file original (Parameters.view vector slice)
                        loaded.Add slice.Name
                    | _ ->
                        Parameters.initialise config generator slice.Name (Parameters.view vector slice)
                        drawn.Add slice.Name

                keep vector)

        if loaded.Count = 0 then
            vector.Dispose()
            raise (InvalidDataException $"'{folder}': no tensor of its model.safetensors has the name of a parameter")

        match drawn |> Seq.tryFind (canonical config >> isBody) with
        | Some missing ->
            vector.Dispose()

            raise (
                InvalidDataException
                    $"'{folder}': config.json asks for '{missing}', which model.safetensors has not: the encoder is not whole"
            )
        | None -> ()

        vector,
        { Loaded = loaded
          NewlyInitialised = drawn
          Unused = Array.ofSeq found.Values }

    let private metadata =
        dict [ "format", "pt" ] |> Dictionary<string, string> :> IReadOnlyDictionary<string, string>

    /// Writes model.safetensors: the vector's type, transformers' names, sorted as safetensors sorts them.
    let save (folder: string) (layout: Layout) (vector: Tensor) (shardBytes: int64) : unit =
        Scope.run (fun _ ->
            let tensors =
                [| for slice in layout.Slices -> struct (slice.Name, Parameters.view vector slice) |]

            Array.sortInPlaceWith (fun (struct (a, _)) (struct (b, _)) -> String.CompareOrdinal(a, b)) tensors
            SafetensorsFolder.Save(folder, "model", tensors, metadata, shardBytes))

    /// Writes named tensors as one file in `folder`.
    let saveNamed (folder: string) (stem: string) (tensors: struct (string * Tensor) seq) : unit =
        let tensors = Array.ofSeq tensors
        Array.sortInPlaceWith (fun (struct (a, _)) (struct (b, _)) -> String.CompareOrdinal(a, b)) tensors
        Safetensors.Save(Path.Combine(folder, stem + ".safetensors"), tensors, metadata)

    let private tokenizerFiles =
        [ "tokenizer.json"
          "tokenizer_config.json"
          "special_tokens_map.json"
          "added_tokens.json"
          "vocab.txt"
          "vocab.json"
          "merges.txt" ]

    /// FileNotFoundException for a folder without a tokenizer.
    let requireTokenizer (source: string) : unit =
        if
            not (
                tokenizerFiles
                |> List.exists (fun name -> File.Exists(Path.Combine(source, name)))
            )
        then
            raise (FileNotFoundException $"'{source}' holds no tokenizer's file to copy")

    /// Copies what a tokenizer is read from; nothing into its own folder.
    let copyTokenizer (source: string) (folder: string) : unit =
        if Path.GetFullPath source <> Path.GetFullPath folder then
            for name in tokenizerFiles do
                let from = Path.Combine(source, name)

                if File.Exists from then
                    AtomicFile.write (Path.Combine(folder, name)) (File.ReadAllBytes from)
