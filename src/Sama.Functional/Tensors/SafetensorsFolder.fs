namespace Sama

open System
open System.Collections.Generic
open System.IO
open System.Text.Json
open TorchSharp
open Sama.Functional

/// The tensors of a folder: one file `{stem}.safetensors`, or shards that `{stem}.safetensors.index.json` lists.
[<Sealed>]
type SafetensorsFolder private (files: SafetensorsFile[], owners: Dictionary<string, SafetensorsFile>) =

    static let weightMap (index: string) : (string * string) list =
        let fail why : exn =
            InvalidDataException $"'{index}' is no index of shards: {why}"

        try
            use json = JsonDocument.Parse(File.ReadAllBytes index)

            match json.RootElement.ValueKind, json.RootElement.TryGetProperty "weight_map" with
            | JsonValueKind.Object, (true, map) when map.ValueKind = JsonValueKind.Object ->
                [ for item in map.EnumerateObject() do
                      match item.Value.ValueKind with
                      | JsonValueKind.String ->
                          let shard = item.Value.GetString()

                          // a shard is a neighbour of its index: no way into other folders
                          if shard <> Path.GetFileName shard || shard = ".." || shard = "" then
                              raise (fail $"tensor '{item.Name}': '{shard}' is no file name")

                          item.Name, shard
                      | _ -> raise (fail $"tensor '{item.Name}' has no file name") ]
            | _ -> raise (fail "there is no object 'weight_map'")
        with
        | :? JsonException as e -> raise (fail e.Message)
        | :? InvalidOperationException as e -> raise (fail e.Message)

    static let openShards (folder: string) (index: string) : SafetensorsFolder =
        let map = weightMap index

        if List.isEmpty map then
            raise (InvalidDataException $"'{index}' is no index of shards: it lists no tensor")

        let opened = Dictionary<string, SafetensorsFile>()
        let owners = Dictionary<string, SafetensorsFile>()

        try
            for name, shard in map do
                if not (opened.ContainsKey shard) then
                    opened[shard] <- SafetensorsFile.Open(Path.Combine(folder, shard))

                if not (opened[shard].Contains name) then
                    raise (InvalidDataException $"'{index}' places tensor '{name}' in '{shard}', which has none")

                if not (owners.TryAdd(name, opened[shard])) then
                    raise (InvalidDataException $"'{index}' lists tensor '{name}' twice")

            new SafetensorsFolder(Array.ofSeq opened.Values, owners)
        with _ ->
            for file in opened.Values do
                (file :> IDisposable).Dispose()

            reraise ()

    /// Opens the one file if it is there, else the shards. FileNotFoundException if there is neither, or a shard is
    /// missing; InvalidDataException for a damaged file or index. The caller disposes it.
    static member Open(folder: string, stem: string) : SafetensorsFolder =
        let single = Path.Combine(folder, stem + ".safetensors")
        let index = single + ".index.json"

        if File.Exists single then
            let file = SafetensorsFile.Open single
            new SafetensorsFolder([| file |], Dictionary(file.Entries |> Seq.map (fun e -> KeyValuePair(e.Name, file))))
        elif File.Exists index then
            openShards folder index
        else
            raise (FileNotFoundException($"there is neither '{single}' nor '{index}'", single))

    /// The tensors of all files.
    member _.Entries: IReadOnlyList<SafetensorsEntry> =
        [| for owner in owners -> owner.Value.Entry owner.Key |]

    /// True if there is a tensor of that name.
    member _.Contains(name: string) : bool = owners.ContainsKey name

    /// The file that holds a tensor. InvalidDataException if there is none of that name.
    member _.File(name: string) : SafetensorsFile =
        match owners.TryGetValue name with
        | true, file -> file
        | _ -> raise (InvalidDataException $"'{files[0].Path}' and its shards hold no tensor '{name}'")

    /// As SafetensorsFile.Read.
    member folder.Read(name: string) : Tensor = (folder.File name).Read name

    /// As SafetensorsFile.ReadInto.
    member folder.ReadInto(name: string, destination: Tensor) : unit =
        (folder.File name).ReadInto(name, destination)

    /// Writes named tensors as one file, or as shards of at most `shardBytes` (a larger tensor has one of its own) and
    /// their index. Each file is whole or not there, and the index comes last.
    static member Save
        (
            folder: string,
            stem: string,
            tensors: IReadOnlyList<struct (string * Tensor)>,
            metadata: IReadOnlyDictionary<string, string>,
            shardBytes: int64
        ) : unit =
        let single = Path.Combine(folder, stem + ".safetensors")

        let bytes (struct (_, tensor: Tensor)) = tensor.numel () * tensor.ElementSize

        let shards =
            (([], []), tensors)
            ||> Seq.fold (fun (full, current) tensor ->
                if
                    not (List.isEmpty current)
                    && List.sumBy bytes current + bytes tensor > shardBytes
                then
                    List.rev current :: full, [ tensor ]
                else
                    full, tensor :: current)
            |> fun (full, current) -> List.rev (List.rev current :: full)

        match shards with
        | [ all ] -> Safetensors.Save(single, all, metadata)
        | _ ->
            let map = Dictionary<string, string>()

            for number, shard in List.indexed shards do
                let name = $"{stem}-{number + 1:D5}-of-{shards.Length:D5}.safetensors"
                Safetensors.Save(Path.Combine(folder, name), shard, metadata)

                for struct (tensor, _) in shard do
                    map[tensor] <- name

            let index =
                {| metadata = {| total_size = Seq.sumBy bytes tensors |}
                   weight_map = map |}

            AtomicFile.write (single + ".index.json") (JsonSerializer.SerializeToUtf8Bytes index)
            // readers take the one file where it is there
            File.Delete single

    interface IDisposable with
        /// Closes the files.
        member _.Dispose() =
            for file in files do
                (file :> IDisposable).Dispose()
