/// Every method under every rule in every way of giving them: right, or refused when the problem is composed.
module Sama.Tests.MatrixTests

open System
open System.IO
open Expecto
open Sama.Benchmarks.Matrix

/// Each row is computed once, by whichever test asks first.
let private rows =
    [ for rule in Rules.all do
          for way in Subject.ways do
              rule, way, lazy (Table.row rule way) ]

/// The file of the table, above the folder that the tests run in.
let private documented () : string option =
    let rec above (folder: DirectoryInfo) =
        if isNull folder then
            None
        else
            let path = Path.Combine(folder.FullName, "docs", "exactness.md")
            if File.Exists path then Some path else above folder.Parent

    above (DirectoryInfo AppContext.BaseDirectory)

let tests =
    testList
        "matrix"
        [ for rule, way, row in rows do
              testCase $"{rule.Name}, {way.Name}: every method is right or refused"
              <| fun _ ->
                  let wrong = Table.wrong row.Value
                  let list = String.concat "\n" wrong
                  Expect.isEmpty wrong list
                  Expect.isGreaterThan row.Value.Length 2 "methods were tried"

          testCase "the table in docs/exactness.md is the generated one"
          <| fun _ ->
              match documented () with
              | None -> skiptest "the tests run outside the repository: there is no docs/exactness.md above them"
              | Some path ->
                  let cells = rows |> List.collect (fun (_, _, row) -> row.Value)
                  let _, written, _ = Table.parts path

                  Expect.sequenceEqual
                      (List.ofArray written)
                      (Table.markdown cells)
                      "write it anew by ./build.sh bench matrix --data docs/exactness.md" ]
