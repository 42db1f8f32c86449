/// Valid, damaged and hostile safetensors files.
module Sama.Fixtures.Language.SafetensorsFiles

open System
open System.IO
open System.Text.Json
open Sama
open Sama.Fixtures.Hypergradients.Json
open Sama.Fixtures.Language.Values
open Sama.Fixtures.Row

let private family = "language/safetensors"

let private shapeOf (json: JsonElement) =
    json |> item "shape" |> whole |> Array.ofSeq

/// Bit for bit: NaN like NaN, and −0 unlike 0.
let private equalValues (file: SafetensorsFile) (name: string) (values: JsonElement) : bool =
    use tensor = file.Read name

    if tensor.is_floating_point () then
        let same (a: float) (b: float) =
            Double.IsNaN a && Double.IsNaN b
            || BitConverter.DoubleToInt64Bits a = BitConverter.DoubleToInt64Bits b

        let found, expected = numbersOf tensor, Array.ofSeq (flat values)
        found.Length = expected.Length && Array.forall2 same found expected
    else
        let expected =
            [| for value in values.EnumerateArray() ->
                   match value.ValueKind with
                   | JsonValueKind.True -> 1L
                   | JsonValueKind.False -> 0L
                   | _ -> value.GetInt64() |]

        wholeOf tensor = expected

let private hasContents (file: SafetensorsFile) (contents: JsonElement) : bool =
    let metadata =
        match (item "metadata" contents).ValueKind, file.Metadata with
        | JsonValueKind.Null, found -> isNull found
        | _, null -> false
        | _, found ->
            let expected =
                [ for m in (item "metadata" contents).EnumerateObject() -> m.Name, m.Value.GetString() ]

            List.sort expected = List.sort [ for m in found -> m.Key, m.Value ]

    let tensors =
        [ for t in (item "tensors" contents).EnumerateObject() -> t.Name, t.Value ]

    metadata
    && tensors.Length = file.Entries.Count
    && tensors
       |> List.forall (fun (name, expected) ->
           let entry = file.Entry name

           entry.Dtype = text "dtype" expected
           && entry.Shape = shapeOf expected
           && equalValues file name (item "values" expected))

let private fileRow (folder: string) (record: JsonElement) : Row =
    let name = text "file" record
    let path = Path.Combine(folder, name)
    let expected = text "expected" record

    // refused: by an error of its own kind that names the file
    let refused, equal =
        try
            use file = SafetensorsFile.Open path
            false, tryGet "contents" record |> Option.exists (hasContents file)
        with :? InvalidDataException as e ->
            e.Message.Contains path, false

    match expected with
    | "valid" -> sameRow family name "contents" equal
    | "error" -> sameRow family name "refused" refused
    | _ -> sameRow family name "refused or contents" (refused || equal)

let rows (folder: string) (json: JsonElement) : Row list =
    [ for record in items "files" json do
          yield! guarded family (text "file" record) (fun () -> [ fileRow folder record ]) ]
