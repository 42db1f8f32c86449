namespace Sama.Language

open System
open System.IO
open System.Text.Encodings.Web
open System.Text.Json
open System.Text.Json.Nodes

/// Objects of json files; what is wrong names the file and the key.
module internal Json =

    let fail (path: string) (why: string) : exn = InvalidDataException $"'{path}': {why}"

    let private named (path: string) (key: string) (node: JsonNode) (expected: string) : exn =
        fail path $"'{key}' is {node.ToJsonString()}, {expected} is expected"

    /// The object that a file holds. FileNotFoundException, or InvalidDataException if it holds none.
    let read (path: string) : JsonObject =
        if not (File.Exists path) then
            raise (FileNotFoundException($"there is no file '{path}'", path))

        let parsed =
            try
                JsonNode.Parse(File.ReadAllText path)
            with :? JsonException as e ->
                raise (fail path $"it is no JSON: {e.Message}")

        try
            match parsed with
            | :? JsonObject as found ->
                // a key given twice is found when the keys are first counted
                found.Count |> ignore
                found
            | _ -> raise (fail path "it holds no JSON object")
        with :? ArgumentException as e ->
            raise (fail path e.Message)

    /// The value of a key; null if it is absent or null.
    let tryGet (json: JsonObject) (key: string) : JsonNode = json[key]

    let private value<'T> (path: string) (expected: string) (key: string) (node: JsonNode) : 'T =
        match node with
        | :? JsonValue as found ->
            match found.TryGetValue<'T>() with
            | true, value -> value
            | _ -> raise (named path key node expected)
        | _ -> raise (named path key node expected)

    let private orDefault (json: JsonObject) (key: string) (missing: 'T) (read: JsonNode -> 'T) : 'T =
        match tryGet json key with
        | null -> missing
        | node -> read node

    /// A whole number of at least `least`.
    let count path (json: JsonObject) (least: int64) (key: string) (missing: int64) : int64 =
        orDefault json key missing (fun node ->
            let found: int64 = value path "a whole number" key node

            if found < least || found > int64 Int32.MaxValue then
                raise (named path key node $"a whole number from {least} to {Int32.MaxValue}")

            found)

    /// A finite number of at least 0.
    let number path (json: JsonObject) (key: string) (missing: float) : float =
        orDefault json key missing (fun node ->
            let found: float = value path "a number" key node

            if not (Double.IsFinite found) || found < 0.0 then
                raise (named path key node "a finite number of at least 0")

            found)

    /// A share, from 0 to below 1.
    let share path json key missing : float =
        let found = number path json key missing

        if found >= 1.0 then
            raise (named path key (tryGet json key) "a share from 0 to below 1")

        found

    let text path (json: JsonObject) (key: string) (missing: string) : string =
        orDefault json key missing (value path "a string" key)

    let flag path (json: JsonObject) (key: string) (missing: bool) : bool =
        orDefault json key missing (value path "true or false" key)

    /// Strings of a list; empty if it is absent.
    let texts path (json: JsonObject) (key: string) : string list =
        match tryGet json key with
        | null -> []
        | :? JsonArray as items -> [ for item in items -> value path "a list of strings" key item ]
        | node -> raise (named path key node "a list of strings")

    let private style =
        JsonSerializerOptions(WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

    /// Indented, as transformers writes it, with a line break at the end.
    let bytes (json: JsonObject) : byte[] =
        Text.Encoding.UTF8.GetBytes(json.ToJsonString style + "\n")
