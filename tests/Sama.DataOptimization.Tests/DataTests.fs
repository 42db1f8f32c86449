module Sama.DataOptimization.Tests.DataTests

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression
open System.Text
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private inFolder (test: string -> unit) =
    let folder = Directory.CreateTempSubdirectory("sama-data").FullName

    try
        test folder
    finally
        Directory.Delete(folder, recursive = true)

/// A file of that name with that text, for the length of a test.
let private withBytes name (bytes: byte[]) (test: string -> unit) =
    inFolder (fun folder ->
        let path = Path.Combine(folder, name)
        File.WriteAllBytes(path, bytes)
        test path)

let private withText name (text: string) =
    withBytes name (Encoding.UTF8.GetBytes text)

let private zip (bytes: byte[]) =
    use stream = new MemoryStream()

    do
        use zip = new GZipStream(stream, CompressionLevel.Fastest)
        zip.Write bytes

    stream.ToArray()

let private json (rows: string list) = String.Join("\n", rows)

let private good =
    [ """{"text":"a","label":"x"}"""; """{"text":"b","label":"y"}""" ]

let private badFiles =
    let fails name file (text: string) (line: int) (column: string) words options =
        testCase name
        <| fun _ ->
            withText file text (fun path ->
                Expect.throwsC (fun () -> DataReader.Read(path, options) |> ignore) (fun e ->
                    match e with
                    | :? DataException as e ->
                        Expect.equal e.File path "file"
                        Expect.stringContains e.Message path "file in the message"
                        Expect.equal e.Line (if line = 0 then Nullable() else Nullable line) $"line: {e.Message}"
                        Expect.equal e.Column column $"column: {e.Message}"

                        if line > 0 then
                            Expect.stringContains e.Message $"line {line}" "line in the message"

                        for word in words do
                            Expect.stringContains e.Message word "reason"
                    | other -> failtest $"{other.GetType().Name}: {other.Message}"))

    let plain: ReadOptions = null
    let classes = ReadOptions(Classes = [| "x"; "y" |])
    let votes = ReadOptions(VoteColumns = [| "r1"; "r2" |])
    let list = ReadOptions(VotesColumn = "votes")

    testList
        "bad files"
        [ fails "empty" "a.jsonl" "" 0 null [ "empty" ] plain
          fails "blank lines alone" "a.csv" "\n \n" 0 null [ "empty" ] plain
          fails "a header alone" "a.csv" "text,label\n" 0 null [ "no rows" ] plain
          fails "broken JSON" "a.jsonl" (json [ good[0]; "{\"text\":"; good[1] ]) 2 null [ "JSON" ] plain
          fails "no object" "a.jsonl" (json [ good[0]; "[1]" ]) 2 null [ "object" ] plain
          fails "missing field" "a.jsonl" (json [ good[0]; """{"text":"b"}""" ]) 2 "label" [ "missing" ] plain
          fails "missing text" "a.jsonl" (json [ """{"label":"x"}"""; good[1] ]) 1 "text" [ "missing" ] plain
          fails "missing column" "a.csv" "words,label\na,x\n" 1 "text" [ "missing"; "words, label" ] plain
          fails "missing vote column" "a.csv" "text,label,r1\na,x,\nb,y,x\n" 1 "r2" [ "missing" ] votes
          fails "column twice" "a.csv" "text,label,label\na,x,x\n" 1 "label" [ "twice" ] plain
          fails "unknown label" "a.csv" "text,label\na,x\n\"b\nb\",y\nc,z\n" 5 "label" [ "'z'"; "x, y" ] classes
          fails
              "unknown vote"
              "a.csv"
              "text,label,r1,r2\na,x,,y\nb,y,q,x\n"
              3
              "r1"
              [ "'q'" ]
              (ReadOptions(Classes = [| "x"; "y" |], VoteColumns = [| "r1"; "r2" |]))
          fails "no label" "a.csv" "text,label\na,x\nb,\nc,y\n" 3 "label" [ "no label" ] plain
          fails "one class" "a.csv" "text,label\na,x\nb,x\n" 0 "label" [ "one class" ] plain
          fails "no text" "a.csv" "text,label\na,x\n\"  \",y\n" 3 "text" [ "no text" ] plain
          fails
              "no text in JSON"
              "a.jsonl"
              (json [ good[0]; """{"text":null,"label":"y"}""" ])
              2
              "text"
              [ "no text" ]
              plain
          fails "ragged, short" "a.csv" "text,label\na,x\nb\nc,y\n" 3 null [ "1 fields"; "2" ] plain
          fails "ragged, long" "a.csv" "text,label\na,x\nb,y,z\n" 3 null [ "3 fields" ] plain
          fails "open quote" "a.csv" "text,label\na,x\n\"b,y\nc,x\n" 3 null [ "quote"; "not closed" ] plain
          fails "quote inside" "a.csv" "text,label\na,x\nb\"b,y\n" 3 null [ "quote" ] plain
          fails
              "label of a wrong kind"
              "a.jsonl"
              (json [ good[0]; """{"text":"b","label":{"name":"x"}}""" ])
              2
              "label"
              [ "a string or a number"; "Object" ]
              plain
          fails
              "label that is a list"
              "a.jsonl"
              (json [ good[0]; """{"text":"b","label":["y"]}""" ])
              2
              "label"
              [ "Array" ]
              plain
          fails
              "votes of another number"
              "a.jsonl"
              (json
                  [ """{"text":"a","label":"x","votes":["x"]}"""
                    """{"text":"b","label":"y","votes":[]}""" ])
              2
              "votes"
              [ "0 votes" ]
              list
          fails "votes that are no list" "a.csv" "text,label,votes\na,x,[-1]\nb,y,1\n" 3 "votes" [ "list" ] list
          fails "another ending" "a.txt" "text" 0 null [ ".txt" ] plain

          testCase "bytes that are not UTF-8 name their line"
          <| fun _ ->
              let bytes =
                  Array.append (Encoding.UTF8.GetBytes "text,label\nä,x\n") [| 0xE4uy; 44uy; 120uy; 10uy |]

              for name, content in [ "a.csv", bytes; "a.csv.gz", zip bytes ] do
                  withBytes name content (fun path ->
                      refused<DataException> [ path; "line 3"; "UTF-8" ] (fun () -> DataReader.Read path |> ignore))

          testCase "texts alone: lines of a file, or of the .txt files of a folder; the .gz of a file that is not there"
          <| fun _ ->
              inFolder (fun folder ->
                  let at name = Path.Combine(folder, name)
                  File.WriteAllText(at "b.txt", "three\r\n\n  four  \n")
                  File.WriteAllBytes(at "a.x.txt.gz", zip "one\ntwo"B)
                  File.WriteAllText(at "c.json", "none")
                  Expect.equal (DataReader.ReadTexts(at "b.txt")) [| "three"; "four" |] "a file"
                  Expect.equal (DataReader.ReadTexts(at "a.x.txt")) [| "one"; "two" |] "its .gz"
                  Expect.equal (DataReader.ReadTexts folder) [| "one"; "two"; "three"; "four" |] "a folder"
                  File.Delete(at "b.txt")
                  File.Delete(at "a.x.txt.gz")
                  Expect.throwsT<FileNotFoundException> (fun () -> DataReader.ReadTexts folder |> ignore) "no text")

          testCase "a gzip that is cut short anywhere is no gzip; one of several members is"
          <| fun _ ->
              let rows =
                  [ for i in 0..199 -> $$"""{"text":"row {{i * 7919 % 1009}}","label":{{i % 2}}}""" ]

              let packed (rows: string list) =
                  zip (Encoding.UTF8.GetBytes(json rows + "\n"))

              let whole = packed rows

              for length in 0 .. max 1 (whole.Length / 150) .. whole.Length - 1 do
                  withBytes "a.jsonl.gz" whole[.. length - 1] (fun path ->
                      refused<DataException> [ path ] (fun () -> DataReader.Read path |> ignore))

              withBytes "a.jsonl.gz" (Array.append whole [| 0uy |]) (fun path ->
                  refused<DataException> [ path; "followed by" ] (fun () -> DataReader.ReadBytes path |> ignore))

              let several =
                  Array.concat [| packed rows[..99]; packed rows[100..120]; packed rows[121..] |]

              withBytes "a.jsonl.gz" several (fun path -> Expect.hasLength (DataReader.Read path).Rows 200 "rows")

              withBytes "a.jsonl.gz" several[.. several.Length - 30] (fun path ->
                  refused<DataException> [ path; "gzip" ] (fun () -> DataReader.Read path |> ignore))

          testCase "no gzip, no file"
          <| fun _ ->
              withText "a.jsonl.gz" "no gzip" (fun path ->
                  refused<DataException> [ path; "gzip" ] (fun () -> DataReader.Read path |> ignore))

              refused<FileNotFoundException> [ "nowhere.csv" ] (fun () -> DataReader.Read "nowhere.csv" |> ignore) ]

let private reading =
    testList
        "reading"
        [ testCase "CSV: quotes, line breaks, blank lines, a byte order mark, CRLF"
          <| fun _ ->
              withText "a.csv" "\uFEFFid,text,label\r\n7,\"a, \"\"b\"\"\r\nc\",x\r\n\r\n8,d,y\r\n" (fun path ->
                  let data = DataReader.Read(path, ReadOptions(IdColumn = "id"))
                  Expect.equal data.Texts [| "a, \"b\"\r\nc"; "d" |] "texts"
                  Expect.equal (data.Rows |> Array.map _.Line) [| 2; 5 |] "lines"
                  Expect.equal (data.Rows |> Array.map _.Id) [| "7"; "8" |] "ids"
                  Expect.equal data.Labels [| 0; 1 |] "labels")

          testCase "JSON lines: fields inside, numbers as labels in their order, votes that abstain"
          <| fun _ ->
              let text =
                  json
                      [ """{"data":{"text":"a"},"y":10,"t":2,"v":[2,-1,null]}"""
                        ""
                        """{"data":{"text":"b"},"y":2,"v":[-1,10,"10"]}""" ]

              withBytes "a.jsonl.gz" (zip (Encoding.UTF8.GetBytes text)) (fun path ->
                  let options =
                      ReadOptions(TextColumn = "data.text", LabelColumn = "y", TruthColumn = "t", VotesColumn = "v")

                  let data = DataReader.Read(path, options)
                  Expect.equal data.Classes [| "2"; "10" |] "by value"
                  Expect.equal data.Labels [| 1; 0 |] "labels"
                  Expect.equal data.Truths [| 0; -1 |] "truths"
                  Expect.equal data.Votes [| [| 0; -1; -1 |]; [| -1; 1; 1 |] |] "votes"
                  Expect.equal (data.Rows |> Array.map _.Line) [| 1; 3 |] "lines")

          testCase "unlabelled rows by option"
          <| fun _ ->
              withText "a.tsv" "text\tlabel\na\t\nb\tx\nc\ty\n" (fun path ->
                  Expect.equal
                      (DataReader.Read(path, ReadOptions(LabelRequired = false))).Labels
                      [| -1; 0; 1 |]
                      "empty")

              withText "a.csv" "text\na\nb\n" (fun path ->
                  let options = ReadOptions(LabelRequired = false, SeveralClasses = false)
                  Expect.equal (DataReader.Read(path, options)).Labels [| -1; -1 |] "no column")

          property "what is written is read back, JSON lines and CSV, zipped or not"
          <| fun seed ->
              let random = Random seed

              let pieces =
                  [| "a"; "\""; ","; "\n"; "\r\n"; "ü"; "\\"; "\t"; "😀"; " "; "<b>"; "-1" |]

              let text () =
                  "w" + String.Join("", Array.init 6 (fun _ -> pieces[random.Next pieces.Length]))

              let classes = [| "no"; "yes, \"sir\""; "3" |]

              let rows =
                  Array.init 9 (fun row ->
                      { Id = $"i{row}"
                        Text = text ()
                        Label = row % 3
                        Truth = random.Next(-1, 3)
                        Votes = Array.init 2 (fun _ -> random.Next(-1, 3))
                        Line = 0 })

              let data =
                  { Name = "x"
                    Classes = classes
                    Rules = [| "p"; "q" |]
                    Rows = rows }

              let options =
                  ReadOptions(IdColumn = "id", TruthColumn = "truth", VotesColumn = "votes", Classes = classes)

              let scores =
                  rows |> Array.map (fun _ -> box (random.NextDouble())) :> IReadOnlyList<obj>

              for name in [ "a.jsonl"; "a.csv"; "b.tsv"; "b.jsonl.gz"; "c.csv.gz" ] do
                  inFolder (fun folder ->
                      let path = Path.Combine(folder, "new", name)
                      DataWriter.WriteDataset(path, data, Dictionary(dict [ "score", scores ]))

                      let options =
                          if rows |> Array.exists (fun row -> row.Truth >= 0) then
                              options
                          else
                              ReadOptions(IdColumn = "id", VotesColumn = "votes", Classes = classes)

                      let back = DataReader.Read(path, options)
                      Expect.equal (back.Rows |> Array.map (fun row -> { row with Line = 0 })) rows name
                      Expect.equal (Directory.GetFiles(Path.GetDirectoryName path)).Length 1 "no other file")

          testCase "tables: kinds of values; what cannot be written is named and leaves no file"
          <| fun _ ->
              inFolder (fun folder ->
                  let path = Path.Combine(folder, "t.jsonl")

                  let row (values: obj list) =
                      Array.ofList values :> IReadOnlyList<obj>

                  DataWriter.WriteJsonLines(
                      path,
                      [| "a"; "b" |],
                      [ row [ 1; 0.1 ]; row [ infinity; null ]; row [ true; [| "x"; "y\"" |] ] ]
                  )

                  Expect.equal
                      (File.ReadAllText path)
                      "{\"a\":1,\"b\":0.1}\n{\"a\":\"Infinity\",\"b\":null}\n{\"a\":true,\"b\":[\"x\",\"y\\\"\"]}\n"
                      "json"

                  let csv = Path.Combine(folder, "t.csv")
                  DataWriter.WriteCsv(csv, [| "a"; "b" |], [ row [ 1; 0.1 ]; row [ "x,y"; [| 1; 2 |] ] ])
                  Expect.equal (File.ReadAllText csv) "a,b\n1,0.1\n\"x,y\",\"[1,2]\"\n" "csv"
                  let bad = Path.Combine(folder, "bad.csv")

                  refused<ArgumentException> [ "row 1"; "column b" ] (fun () ->
                      DataWriter.WriteCsv(bad, [| "a"; "b" |], [ row [ 1; 2 ]; row [ 1; obj () ] ]))

                  refused<ArgumentException> [ "row 0" ] (fun () ->
                      DataWriter.WriteCsv(bad, [| "a"; "b" |], [ row [ 1 ] ]))

                  Expect.equal (Directory.GetFiles folder).Length 2 "nothing else") ]

let private wrenchRow label (votes: string) text =
    $"{{\"label\":{label},\"weak_labels\":[{votes}],\"data\":{{\"text\":\"{text}\"}}}}"

let private wrenchFiles =
    [ "label", """{"0":"HAM","1":"SPAM"}"""
      "train", $"""{{"0":{wrenchRow 0 "0,-1" "u"},"1":{wrenchRow 1 "-1,1" "v"}}}"""
      "valid", $"""{{"0":{wrenchRow 0 "0,1" "w"}}}"""
      "test", $"""{{"5":{wrenchRow 1 "-1,-1" "z"}}}""" ]

let private withWrench changed (test: string -> unit) =
    inFolder (fun folder ->
        for name, text in wrenchFiles do
            let text =
                changed
                |> List.tryFind (fst >> (=) name)
                |> Option.map snd
                |> Option.defaultValue text

            if not (isNull text) then
                File.WriteAllBytes(Path.Combine(folder, name + ".json.gz"), zip (Encoding.UTF8.GetBytes text))

        test folder)

let private wrench =
    testList
        "WRENCH"
        [ testCase "a folder"
          <| fun _ ->
              withWrench [] (fun folder ->
                  let splits = DataReader.ReadWrench folder
                  Expect.isTrue (DataReader.IsWrench folder) "is one"
                  Expect.equal splits.Train.Classes [| "HAM"; "SPAM" |] "classes"
                  Expect.equal splits.Train.Votes [| [| 0; -1 |]; [| -1; 1 |] |] "votes"
                  Expect.equal splits.Train.Labels [| 0; 1 |] "labels"
                  Expect.equal (splits.Test.Rows[0].Id, splits.Valid.Texts) ("5", [| "w" |]) "others"
                  Expect.equal (DataReader.ReadTexts folder) splits.Train.Texts "texts alone")

          for name, file, text, words in
              [ "a missing split", "valid", null, [ "valid.json" ]
                "broken JSON", "test", "{\"0\":", [ "test.json"; "JSON" ]
                "an empty split", "train", "{}", [ "train.json"; "no rows" ]
                "a label out of range",
                "train",
                "{\"7\":" + wrenchRow 2 "0,0" "x" + "}",
                [ "train.json"; "row 7"; "label"; "'2'" ]
                "a vote out of range",
                "train",
                "{\"7\":" + wrenchRow 0 "0,9" "x" + "}",
                [ "train.json"; "row 7"; "weak_labels[1]"; "'9'" ]
                "no text",
                "valid",
                "{\"5\":{\"label\":0,\"weak_labels\":[0,0]}}",
                [ "valid.json"; "row 5"; "data.text"; "missing" ]
                "another number of votes",
                "test",
                "{\"5\":" + wrenchRow 0 "0" "x" + "}",
                [ "test.json"; "weak_labels"; "1 votes" ]
                "one class", "label", """{"0":"HAM"}""", [ "label.json"; "two" ]
                "a gap in the classes", "label", """{"0":"HAM","2":"SPAM"}""", [ "label.json"; "gap" ] ] do
              testCase $"{name}: file and place are named"
              <| fun _ ->
                  withWrench [ file, text ] (fun folder ->
                      refused<exn> words (fun () -> DataReader.ReadWrench folder |> ignore))

          let folder = Environment.GetEnvironmentVariable "SAMA_WRENCH_TREC"

          (if String.IsNullOrEmpty folder then ptestCase else testCase) "TREC, the folder named by SAMA_WRENCH_TREC"
          <| fun _ ->
              let splits = DataReader.ReadWrench folder
              let train = splits.Train
              Expect.equal (train.Rows.Length, train.Classes.Length, train.Rules.Length) (4965, 6, 68) "sizes"

              let covered =
                  train.Rows
                  |> Array.filter (fun row -> row.Votes |> Array.exists (fun v -> v >= 0))

              let majority = MajorityVote.Labels(covered |> Array.map _.Votes, 6)
              let share = Accuracy.Share(majority, covered |> Array.map _.Label)
              Expect.isLessThan (abs (share - 0.537)) 0.01 $"majority vote {share}" ]

let tests = testList "data" [ badFiles; reading; wrench ]
