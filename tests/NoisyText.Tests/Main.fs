module NoisyText.Tests.Main

open System
open System.IO
open Expecto
open Spectre.Console
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.TextCleaning
open NoisyText

let private withFolder action =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        action folder
    finally
        Directory.Delete(folder, true)

let private row label vote text =
    $"{{\"label\":{label},\"weak_labels\":[{vote},-1],\"data\":{{\"text\":\"{text}\"}}}}"

/// A small WRENCH folder.
let private wrench (folder: string) =
    let split (texts: (int * int * string) list) =
        let entries =
            texts
            |> List.mapi (fun i (label, vote, text) -> $"\"{i}\":" + row label vote text)

        "{" + String.Join(",", entries) + "}"

    for name, text in
        [ "label", "{\"0\":\"a\",\"1\":\"b\"}"
          "train",
          split
              [ for i in 0..7 do
                    0, 0, $"a b {i}"
                    1, (if i = 3 then 0 else 1), $"c d {i}" ]
          "valid",
          split
              [ for i in 0..4 do
                    0, 0, $"a v{i}"
                    1, 1, $"c v{i}" ]
          "test", split [ 0, 0, "a t"; 1, 1, "c t" ] ] do
        File.WriteAllText(Path.Combine(folder, name + ".json"), text)

/// Runs the program: exit code and what it said of errors.
let private program (arguments: string list) =
    let error = Console.Error
    use said = new StringWriter()
    Console.SetError said

    try
        Program.main (Array.ofList arguments), string said
    finally
        Console.SetError error

let private encoder =
    testList
        "the small encoder"
        [ testCase "words are known by number from two occurrences on; vectors are read by word, a bad line is named"
          <| fun _ ->
              let vocabulary = WordVocabulary.FromTexts [| "one two one"; "Two three" |]
              Expect.equal vocabulary.Size 4 "padding, unknown, one, two"
              let numbers = vocabulary.Numbers("three ONE two one", 3)
              Expect.equal numbers[0] 1 "unknown"
              Expect.equal numbers.Length 3 "cut"
              let file = Path.GetTempFileName()

              try
                  File.WriteAllText(file, "one 1 2\nother 3 4\ntwo 5 6\n")
                  let vectors = vocabulary.ReadVectors file
                  Expect.equal vectors[numbers[2]] [| 5f; 6f |] "two"
                  Expect.equal vectors.Count 2 "only known words"

                  for bad in [ "one 1 2\ntwo 3\n"; "one 1 2\ntwo 3 x\n" ] do
                      File.WriteAllText(file, bad)

                      Expect.throwsC (fun () -> vocabulary.ReadVectors file |> ignore) (fun e ->
                          Expect.stringContains e.Message $"{file}: line 2" "place"
                          Expect.isTrue (e :? InvalidDataException) "managed")
              finally
                  File.Delete file

          testCase "log-probabilities do not depend on the texts beside one, and padding says nothing"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let texts = [| "one two"; "one two three one two three one"; "three"; "" |]
              use model = new WordClassifier(texts, 3, 4) :> IRowClassifier
              let named = [ for struct (name, value) in model.Start 0L -> name, value ]
              let theta = Params.frozen (Layout.ofNamed named) (Layout.ravel named)

              let read (rows: int[]) =
                  model.LogProbabilities(theta, model.Read rows, false)

              let together = Rows.FromTensor(read [| 0; 1; 2; 3 |])

              for row in 0..3 do
                  let alone = Rows.FromTensor(read [| row |])

                  for c in 0..2 do
                      Expect.floatClose Accuracy.medium (alone[0].[c]) (together[row].[c]) $"row {row}"

                  Expect.floatClose Accuracy.medium (together[row] |> Array.sumBy exp) 1.0 "a distribution"

              Expect.throwsC (fun () -> new WordClassifier([| "x" |], 1, 1) |> ignore) (fun e ->
                  Expect.stringContains e.Message "classes" "named") ]

let private runs =
    testSequenced
    <| testList
        "the program"
        [ testCase "a report has every way and seed; what is in it is not run again"
          <| fun _ ->
              withFolder (fun folder ->
                  wrench folder
                  let report = Path.Combine(folder, "report.jsonl")

                  let run seeds =
                      program
                          [ "--data"
                            folder
                            "--clean"
                            "4"
                            "--seeds"
                            seeds
                            "--steps"
                            "4"
                            "--tuning-steps"
                            "4"
                            "--report"
                            report ]

                  let code, said = run "0"
                  Expect.equal code 0 said

                  let reported () =
                      Report.read<ResultEntry<Cell.CellResult>> report |> List.map _.Found

                  let before = reported ()
                  let code, said = run "0,1"
                  Expect.equal code 0 said
                  let cells = reported ()
                  Expect.equal (cells |> List.map _.Seed) [ 0; 1 ] "seeds"
                  Expect.equal cells[0].Seconds before[0].Seconds "not run again"

                  for cell in cells do
                      Expect.equal (cell.Ways |> Array.map _.Name) (DataCleaning.Candidates true) "every way"

                      Expect.equal cell.CleanRows 8 "clean rows"
                      Expect.isTrue (cell.Ways |> Array.forall (fun way -> way.Right.Length = 2)) "test rows"
                      Expect.contains (cell.Ways |> Array.map _.Name) cell.Chosen "chosen"

                  let code, said =
                      program [ "--data"; folder; "--clean"; "4"; "--steps"; "5"; "--report"; report ]

                  Expect.equal code 2 "a report of other options"
                  Expect.stringContains said "Steps 4" "which")

          testCase "a loss that is not finite ends it, and nothing is written"
          <| fun _ ->
              withFolder (fun folder ->
                  wrench folder
                  let report = Path.Combine(folder, "report.jsonl")

                  let code, said =
                      program [ "--data"; folder; "--clean"; "4"; "--rate"; "1e30"; "--report"; report ]

                  Expect.equal code 1 "exit code"
                  Expect.stringContains said "is not finite" "reason"
                  Expect.isFalse (File.Exists report) "report")

          testCase "bad options are named"
          <| fun _ ->
              for arguments, word in
                  [ [ "--quickstart"; "--seeds"; "3-1" ], "--seeds"
                    [ "--quickstart"; "--seeds"; "1,1" ], "--seeds"
                    [ "--quickstart"; "--clean"; "x" ], "--clean"
                    [ "--data"; "nowhere" ], "nowhere"
                    [ "--quickstart"; "--ways"; "magic" ], "magic"
                    [], "--data" ] do
                  let code, said = program arguments
                  Expect.equal code 2 "exit code"
                  Expect.stringContains said word "named" ]

let private endings =
    testSequenced
    <| testList
        "how programs end"
        [ testCase "0; 1 where work failed; 2 for what was asked; what is the program's own mistake is raised"
          <| fun _ ->
              let ended (raised: exn option) =
                  let error = Console.Error
                  use said = new StringWriter()
                  Console.SetError said

                  try
                      let code =
                          Ending.told "name" (fun () ->
                              raised |> Option.iter raise
                              0)

                      code, string said
                  finally
                      Console.SetError error

              Expect.equal (ended None) (0, "") "done"

              for code, raised in
                  [ 1, InvalidOperationException "why" :> exn
                    1, IOException "why"
                    1, UnauthorizedAccessException "why"
                    1, DllNotFoundException "why"
                    2, ArgumentException "why"
                    2, InvalidDataException "why"
                    2, FileNotFoundException "why"
                    2, DataException("file", Nullable(), null, "why", null) ] do
                  let found, said = ended (Some raised)
                  Expect.equal found code (raised.GetType().Name)
                  Expect.stringStarts said "name: " "whose"
                  Expect.stringContains said "why" "reason"

              Expect.throwsT<NullReferenceException>
                  (fun () -> ended (Some(NullReferenceException())) |> ignore)
                  "raised"

          testCase "130 where SIGTERM stops it, and what to do next is said"
          <| fun _ ->
              let error = Console.Error
              use said = new StringWriter()
              Console.SetError said

              try
                  let code =
                      Ending.run "name" "go on" (fun token ->
                          use kill =
                              Diagnostics.Process.Start("kill", [ "-TERM"; string Environment.ProcessId ])

                          token.WaitHandle.WaitOne(TimeSpan.FromMinutes 1.0) |> ignore
                          token.ThrowIfCancellationRequested()
                          0)

                  Expect.equal code 130 "code"
                  Expect.equal (string said) "name: stopped; go on\n" "said"
              finally
                  Console.SetError error

          testCase "a report is read again, a line that is no row is named, a folder that is not there too"
          <| fun _ ->
              withFolder (fun folder ->
                  let path = Path.Combine(folder, "r.jsonl")
                  Expect.isEmpty (Report.read<{| A: float |}> path) "no file"
                  Report.write path [ {| A = 1.5 |}; {| A = infinity |} ]
                  Expect.equal (Report.read<{| A: float |}> path) [ {| A = 1.5 |}; {| A = infinity |} ] "the same"
                  File.AppendAllText(path, "{")

                  Expect.throwsC (fun () -> Report.read<{| A: float |}> path |> ignore) (fun e ->
                      Expect.isTrue (e :? InvalidDataException) "managed"
                      Expect.stringContains e.Message $"{path}, line 3" "place")

                  Expect.throwsT<DirectoryNotFoundException>
                      (fun () -> Report.requireFolder (Path.Combine(folder, "no", "r.jsonl")))
                      "folder") ]

let tests =
    testList
        "NoisyText"
        [ testCase "the generated set is the same for a seed, its rules right about half the time"
          <| fun _ ->
              let data = Generator.generate 3
              Expect.equal (Generator.generate 3).Train.Rows data.Train.Rows "same"

              let voted =
                  data.Train.Rows
                  |> Array.filter (fun row -> row.Votes |> Array.exists (fun vote -> vote >= 0))

              let labels = MajorityVote.Labels(voted |> Array.map _.Votes, 4)
              let share = Accuracy.Share(labels, voted |> Array.map _.Label)
              Expect.isTrue (share > 0.4 && share < 0.6) $"{share}"

          testCase "a live line shows how far and how long, and nothing where nobody looks on"
          <| fun _ ->
              let shown interactive =
                  let output = new StringWriter()

                  let console =
                      AnsiConsole.Create(
                          AnsiConsoleSettings(
                              Ansi = AnsiSupport.Yes,
                              Interactive = interactive,
                              Out = AnsiConsoleOutput output
                          )
                      )

                  (use line = new LiveLine("reading", console)

                   for i in 1..3 do
                       line.At(float i / 10.0, $"step [{i}]")
                       Threading.Thread.Sleep 600

                   line.At(0.1, "the next"))

                  string output

              let text = shown InteractionSupport.Yes
              Expect.stringContains text "the next" "begun anew"
              Expect.stringContains text "step [" "brackets are text"
              Expect.stringContains text ":" "time left"
              Expect.equal (shown InteractionSupport.No) "" "quiet"

          encoder
          endings
          runs ]

[<EntryPoint>]
let main args = runTestsWithCLIArgs [] args tests
