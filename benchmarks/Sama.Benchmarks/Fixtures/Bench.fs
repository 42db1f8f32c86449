/// `bench fixtures --data DIR --json FILE`: every file under DIR whose format is known.
module Sama.Fixtures.Bench

open System
open System.IO
open System.Text.Json
open Sama.Fixtures.Row

/// A family of formats: whether a file (its name, its json) belongs to it, and the rows that it gives, with the folder in
/// which it lies.
type Reader =
    { Reads: string -> JsonElement -> bool
      Rows: string -> JsonElement -> Row list }

/// Rows of every file under `folder` that one of the readers knows. ArgumentException if there is none.
let rows (readers: Reader list) (folder: string) : Row list =
    if not (Directory.Exists folder) then
        invalidArg (nameof folder) $"there is no folder '{folder}'"

    let all =
        [ for path in
              Directory.EnumerateFiles(folder, "*.json", SearchOption.AllDirectories)
              |> Seq.sort do
              use file = JsonDocument.Parse(File.ReadAllText path)
              let root = file.RootElement

              let reads reader =
                  reader.Reads (Path.GetFileName path) root

              match root.ValueKind, readers with
              | JsonValueKind.Object, known when List.exists reads known ->
                  yield! (List.find reads known).Rows (Path.GetDirectoryName path) root
              | _ -> () ]

    if all.IsEmpty then
        invalidArg (nameof folder) $"no file under '{folder}' has a known format"

    all

/// Writes the rows, prints failures and counts; 1 if a row failed.
let run (readers: Reader list) (folder: string) (write: Row list -> unit) : int =
    let all = rows readers folder
    write all
    let failures = List.filter failed all

    for row in failures do
        printfn $"FAILED {row.Family} / {row.Case} / {row.Quantity} t={row.T}: {row.Error} > {row.Tolerance}"

    for row in all do
        if row.Skipped then
            printfn $"skipped {row.Family} / {row.Case} / {row.Quantity}: {row.Reason}"

    let count predicate =
        all |> List.filter predicate |> List.length

    printfn $"{count _.Passed} passed, {failures.Length} failed, {count _.Skipped} skipped"
    if failures.IsEmpty then 0 else 1
