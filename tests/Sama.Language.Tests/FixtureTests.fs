/// Recorded outputs of transformers, tokenizers and safetensors, of the folder that SAMA_LANGUAGE_FIXTURES names.
module Sama.Language.Tests.FixtureTests

open System
open System.IO
open System.Text.Json
open Expecto
open Sama.Fixtures

let private folder = Environment.GetEnvironmentVariable "SAMA_LANGUAGE_FIXTURES"

let private files =
    [ "logits.json"; "tokenization.json"; "safetensors-bad/expected.json" ]

let private rows (file: string) =
    let path = Path.Combine(folder, file)
    use json = JsonDocument.Parse(File.ReadAllText path)

    let reads (reader: Bench.Reader) =
        reader.Reads (Path.GetFileName path) json.RootElement

    (Language.Files.readers |> List.find reads).Rows (Path.GetDirectoryName path) json.RootElement

let tests =
    testList
        "recorded"
        [ for file in files do
              if String.IsNullOrEmpty folder then
                  ptestCase $"{file}: SAMA_LANGUAGE_FIXTURES names no folder" ignore
              else
                  testCase file
                  <| fun _ ->
                      let all = rows file
                      Expect.isGreaterThan all.Length 40 "rows"

                      let failed =
                          [ for row in all do
                                if Row.failed row then
                                    $"{row.Family} / {row.Case} / {row.Quantity}: {row.Error} > {row.Tolerance} {row.Reason}" ]

                      let shown = String.Join("\n", failed)
                      Expect.isEmpty failed $"rows that miss their tolerance:\n{shown}" ]
