/// Recorded hypergradients, computed twice by others, through the library's own methods.
module Sama.Tests.FixtureTests

open System.IO
open System.Text.Json
open Expecto
open Sama.Fixtures
open Sama.Fixtures.Hypergradients

let private folder =
    Path.Combine(__SOURCE_DIRECTORY__, "../fixtures/hypergradients")

let private rowsOf (text: string) =
    use file = JsonDocument.Parse text
    Files.reader.Rows "" file.RootElement

let tests =
    testList
        "recorded hypergradients"
        [ for path in Directory.EnumerateFiles(folder, "*.json") |> Seq.sort do
              testCase (Path.GetFileNameWithoutExtension path)
              <| fun _ ->
                  let rows = rowsOf (File.ReadAllText path)
                  Expect.isGreaterThan rows.Length 40 "rows"

                  for row in rows do
                      Expect.isTrue row.Passed $"{row.Case} {row.Quantity} {row.T}: {row.Error} > {row.Tolerance}"

          testCase "a number that is wrong fails its row and no other"
          <| fun _ ->
              let text = File.ReadAllText(Path.Combine(folder, "trilevel.json"))
              let right = "\"dTheta2dTheta3\": 0.5,"
              Expect.stringContains text right "the file has it"

              let failed =
                  rowsOf (text.Replace(right, "\"dTheta2dTheta3\": 1.0,"))
                  |> List.filter Row.failed

              Expect.all failed (fun row -> row.Quantity = "dTheta2dTheta3") "which"
              Expect.isNonEmpty failed "it fails"

          testCase "a file of no known family is refused by name"
          <| fun _ ->
              Expect.throwsC
                  (fun () ->
                      rowsOf """{ "file": "p9-unknown", "readme": "README-hypergradients.md" }"""
                      |> ignore)
                  (fun e -> Expect.stringContains e.Message "p9-unknown" "") ]
