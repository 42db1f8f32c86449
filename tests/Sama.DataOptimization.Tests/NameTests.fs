/// Names of classes as files write them: one class has one name.
module Sama.DataOptimization.Tests.NameTests

open System
open System.IO
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private withFile (name: string) (lines: string list) (test: string -> unit) =
    let folder = Directory.CreateTempSubdirectory("sama-names").FullName

    try
        let path = Path.Combine(folder, name)
        File.WriteAllLines(path, lines)
        test path
    finally
        Directory.Delete(folder, recursive = true)

let private quoted (name: string) = "\"" + name + "\""

/// Spellings that a reader takes for one.
let private alike =
    [ "sport", "sport "
      "sport", " sport"
      "sport", "Sport"
      "SPORT", "sport"
      "спорт", "Спорт"
      "caf\u00e9", "cafe\u0301"
      "\u1ec7", "e\u0302\u0323"
      "\u1ec7", "\u1eb9\u0302"
      "\u00c5", "\u212b"
      "\ud55c\uae00", "\u1112\u1161\u11ab\u1100\u1173\u11af"
      "\u00c9", "e\u0301" ]

let private columns =
    ReadOptions(TruthColumn = "truth", VoteColumns = [| "vote" |], SeveralClasses = false)

let tests =
    testList
        "names"
        [ for name, other in alike do
              for place in [ "label"; "truth"; "vote" ] do
                  testCase
                      $"'{name}' and '{other}', the second a {place}: refused, both named; given by option, two classes"
                  <| fun _ ->
                      let value column =
                          quoted (if column = place then other else name)

                      withFile
                          "a.csv"
                          [ "text,label,truth,vote"
                            $"a,{quoted name},{quoted name},{quoted name}"
                            $"""b,{value "label"},{value "truth"},{value "vote"}""" ]
                          (fun path ->
                              refused<DataException> [ "a.csv"; $"'{name}'"; $"'{other}'" ] (fun () ->
                                  DataReader.Read(path, columns) |> ignore)

                              columns.Classes <- [| name; other |]

                              try
                                  let read = DataReader.Read(path, columns)
                                  Expect.equal read.Classes [| name; other |] "as given"
                              finally
                                  columns.Classes <- null)

          testCase "whole numbers are numbers however they are written: 1.0 is 1, in labels and votes, -1.0 abstains"
          <| fun _ ->
              let read name lines =
                  let mutable found = Unchecked.defaultof<Dataset>
                  withFile name lines (fun path -> found <- DataReader.Read(path, columns))
                  found

              let rows =
                  [ "2.0", "0", "-1.0"; "0", "0.0", "2.0"; "10.0", "10", ""; "-3", "-3.00", "10" ]

              let csv =
                  read
                      "a.csv"
                      ("text,label,truth,vote"
                       :: [ for label, truth, vote in rows -> $"a,{label},{truth},{vote}" ])

              let json =
                  read
                      "a.jsonl"
                      [ for label, truth, vote in rows do
                            let vote = if vote = "" then "null" else vote
                            $"""{{"text":"a","label":{label},"truth":{truth},"vote":{vote}}}""" ]

              for data in [ csv; json ] do
                  Expect.equal data.Classes [| "-3"; "0"; "2"; "10" |] "by value"
                  Expect.equal data.Labels [| 2; 1; 3; 0 |] "labels"
                  Expect.equal data.Truths [| 1; 1; 3; 0 |] "truths"
                  Expect.equal (data.Votes |> Array.map Array.head) [| -1; 2; -1; 3 |] "votes"

          testCase "a vote of -1 is an abstention where -1 is no class; where it is one, it is neither"
          <| fun _ ->
              let options = ReadOptions(VoteColumns = [| "vote" |])

              for vote in [ "-1"; "-1.0" ] do
                  withFile "a.csv" [ "text,label,vote"; "a,-1,"; $"b,1,{vote}" ] (fun path ->
                      refused<DataException> [ "line 3"; "vote"; "-1 is a class as well" ] (fun () ->
                          DataReader.Read(path, options) |> ignore))

              withFile "a.csv" [ "text,label,vote"; "a,-1,1"; "b,1," ] (fun path ->
                  let data = DataReader.Read(path, options)
                  Expect.equal (data.Classes, data.Votes) ([| "-1"; "1" |], [| [| 1 |]; [| -1 |] |]) "nothing abstains")

          testCase "a field given twice is no field"
          <| fun _ ->
              withFile
                  "a.jsonl"
                  [ """{"text":"a","label":"x"}"""; """{"text":"b","label":"x","label":"y"}""" ]
                  (fun path -> refused<DataException> [ "line 2"; "label" ] (fun () -> DataReader.Read path |> ignore))

          testCase "names of letters that are alike but for a mark, or for its letter, are two"
          <| fun _ ->
              for name, other in
                  [ "caf\u00e9", "cafe"
                    "\u00e9", "\u00e8"
                    "a\u0301b", "ab\u0301"
                    "\uac00", "\uac01" ] do
                  withFile "a.csv" [ "text,label"; $"a,{name}"; $"b,{other}" ] (fun path ->
                      Expect.hasLength (DataReader.Read path).Classes 2 $"{name} {other}")

          testCase "a name that is almost one of the classes given says which"
          <| fun _ ->
              for name, given, words in
                  [ "Cat", "cat", [ "'cat' is written almost alike" ]
                    "cafe\u0301", "caf\u00e9", [ "'caf\u00e9' is written almost alike"; "letters with marks" ] ] do
                  withFile "a.csv" [ "text,label"; $"a,{name}"; "b,dog" ] (fun path ->
                      refused<DataException> ("line 2" :: $"'{name}'" :: words) (fun () ->
                          DataReader.Read(path, ReadOptions(Classes = [| given; "dog" |])) |> ignore))

          testCase "numbers are names alike in CSV and in JSON lines; a text and an id are as they are written"
          <| fun _ ->
              for labels in
                  [ [ "1.5"; "1"; "1.0"; "-2.50" ]
                    [ "1.0"; "2"; "2.00"; "-0.0" ]
                    [ "12345678901234567890"; "0.1"; "3.0" ]
                    [ "1.0"; "0"; "1" ] ] do
                  let mutable found = []

                  for file, lines in
                      [ "a.csv", "text,label" :: [ for label in labels -> $"a,{label}" ]
                        "a.jsonl", [ for label in labels -> $$"""{"text":"a","label":{{label}}}""" ] ] do
                      withFile file lines (fun path ->
                          let data = DataReader.Read path
                          found <- (data.Classes, data.Labels) :: found)

                  Expect.equal found[0] found[1] (String.Join(" ", labels))

              withFile
                  "a.jsonl"
                  [ """{"text":1.50,"id":7.0,"label":1e3}"""
                    """{"text":"b","id":-0,"label":"1000"}"""
                    """{"text":"c","id":"x","label":2E-1}""" ]
                  (fun path ->
                      let data = DataReader.Read(path, ReadOptions(IdColumn = "id"))

                      Expect.equal
                          (data.Rows[0].Text, data.Rows[0].Id, data.Rows[1].Id)
                          ("1.50", "7.0", "0")
                          "as written"

                      Expect.equal data.Classes [| "0.2"; "1000" |] "without exponents"
                      Expect.equal data.Labels [| 1; 1; 0 |] "one name")

          testCase "decimal fractions among names are names; a file is read by the classes of another"
          <| fun _ ->
              let one = ReadOptions()

              withFile "a.csv" [ "text,label"; "a,1.0"; "b,1.5" ] (fun path ->
                  let read = DataReader.Read(path, one)
                  Expect.equal read.Classes [| "1.0"; "1.5" |] "as written")

              one.Classes <- [| "0.0"; "1.0" |]

              withFile "a.csv" [ "text,label"; "a,1"; "b,0.0" ] (fun path ->
                  Expect.equal (DataReader.Read(path, one)).Labels [| 1; 0 |] "by number")

          for separator, name in [ ";", ";"; "\t", "tab"; "\t", "\t"; "|", "|"; "::", "::" ] do
              testCase $"separated by '{separator}', named {quoted name}; without it the error says so"
              <| fun _ ->
                  withFile
                      "a.csv"
                      [ $"text{separator}label"; $"\"a{separator}a\"{separator}x"; $"b{separator}y" ]
                      (fun path ->
                          let data = DataReader.Read(path, ReadOptions(Separator = name))
                          Expect.equal data.Texts [| $"a{separator}a"; "b" |] "texts"

                          if separator.Length = 1 then
                              refused<DataException> [ "a.csv"; "separator" ] (fun () ->
                                  DataReader.Read path |> ignore))

          for name, separator in [ "nothing", ""; "a quote", "\""; "a line break", "\n" ] do
              testCase $"{name} cannot separate columns"
              <| fun _ ->
                  withFile "a.csv" [ "text,label"; "a,x" ] (fun path ->
                      refused<ArgumentException> [ "options.Separator" ] (fun () ->
                          DataReader.Read(path, ReadOptions(Separator = separator)) |> ignore))

          for what, line, words in
              [ "half of a character in the text", """{"text":"a \ud800","label":"x"}""", [ "line 2"; "no text" ]
                "half of a character in the label", """{"text":"a","label":"\udc00"}""", [ "line 2"; "no text" ]
                "a list", """[{"text":"a","label":"x"}]""", [ "line 2"; "JSON list"; "one object a line" ] ] do
              testCase $"JSON lines: {what}, the place is named"
              <| fun _ ->
                  withFile "a.jsonl" [ """{"text":"a","label":"x"}"""; line ] (fun path ->
                      refused<DataException> ("a.jsonl" :: words) (fun () -> DataReader.Read path |> ignore))

          testCase "a folder, and a file without ending, are named as such"
          <| fun _ ->
              withFile "a" [ "text,label" ] (fun path ->
                  refused<DataException> [ path; "without an ending" ] (fun () -> DataReader.Read path |> ignore)
                  let folder = Path.GetDirectoryName path
                  refused<DataException> [ folder; "label.json" ] (fun () -> DataReader.Read folder |> ignore))

          testCase "a data set made by hand that does not fit together is not written"
          <| fun _ ->
              let row =
                  { Id = "0"
                    Text = "a"
                    Label = 0
                    Truth = -1
                    Votes = [||]
                    Line = 1 }

              let data =
                  { Name = "a"
                    Classes = [| "x"; "y" |]
                    Rules = [||]
                    Rows = [| row; row |] }

              let none = Unchecked.defaultof<Row>

              for broken, word in
                  [ { data with
                        Rows = [| row; { row with Label = 2 } |] },
                    "row 1"
                    { data with
                        Rows = [| { row with Truth = 7 } |] },
                    "row 0"
                    { data with
                        Rows = [| { row with Votes = [| 1; 2 |] } |] },
                    "row 0"
                    { data with
                        Rows = [| row; { row with Votes = null } |] },
                    "[1].Votes"
                    { data with Rows = [| row; none |] }, "Rows[1]"
                    { data with Rows = null }, "Rows"
                    { data with Classes = null }, "Classes" ] do
                  let path = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid()}.csv")
                  refused<ArgumentException> [ word ] (fun () -> DataWriter.WriteDataset(path, broken))
                  Expect.isFalse (File.Exists path) "nothing is written" ]
