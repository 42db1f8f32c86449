/// Rows of a measurement, as json.
module Sama.Benchmarks.Rows

open System.IO
open System.Text.Encodings.Web
open System.Text.Json

let private options =
    JsonSerializerOptions(WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

options.PropertyNamingPolicy <- JsonNamingPolicy.CamelCase
options.NumberHandling <- Serialization.JsonNumberHandling.AllowNamedFloatingPointLiterals

/// Writes an array of records or anonymous records beside its place and moves it there: nothing is half-written.
let write (path: string) (rows: 'row seq) : unit =
    let temporary = path + ".part"
    File.WriteAllText(temporary, JsonSerializer.Serialize(Array.ofSeq rows, options))
    File.Move(temporary, path, true)

/// The rows of a file that `write` wrote. InvalidDataException names a file that holds something else.
let read<'row> (path: string) : 'row list =
    try
        JsonSerializer.Deserialize<'row[]>(File.ReadAllText path, options)
        |> List.ofArray
    with :? JsonException as e ->
        raise (InvalidDataException $"{path}: {e.Message}")
