/// From files to files.
module Sama.TextCleaning.Tests.CleaningTests

open System
open System.Collections.Generic
open System.IO
open System.Threading
open Expecto
open Sama.DataOptimization
open Sama.Language
open Sama.TextCleaning
open Sama.TextCleaning.Tests.Files
open Sama.Tests.Watching

let private optionsOf (folder: string) : TextCleaningOptions =
    let path name = Path.Combine(folder, name)
    csv (path "train.csv") 1 160 0.3
    csv (path "clean.csv") 2 16 0.0
    csv (path "test.csv") 3 40 0.0

    TextCleaningOptions(
        Train = path "train.csv",
        Clean = path "clean.csv",
        Test = path "test.csv",
        Out = path "out",
        Tokens = 16,
        Columns = ReadOptions(IdColumn = "id", TruthColumn = "right"),
        Cleaning = CleaningOptions(Steps = 60, TuningSteps = 20, Batch = 32)
    )

let private lines (path: string) =
    [ for line in File.ReadLines path -> (Text.Json.JsonDocument.Parse line).RootElement ]

let tests =
    testList
        "cleaning"
        [ for encoder in [ false; true ] do
              let name =
                  if encoder then
                      "a Hugging Face folder"
                  else
                      "the small encoder"

              testCase $"{name}: flipped labels are found, everything is written"
              <| fun _ ->
                  withFolder (fun folder ->
                      let options = optionsOf folder

                      if encoder then
                          options.Model <- model folder
                          // new weights: the top layer has to learn
                          options.FrozenLayers <- Nullable 2
                          options.Cleaning.Rate <- Nullable 5e-3
                          options.Cleaning.Steps <- Nullable 100

                      let result = TextCleaning.Run options
                      Expect.isGreaterThan result.QualityAuroc.Value 0.85 "AUROC"
                      Expect.isGreaterThan result.TestAccuracy.Value (if encoder then 0.7 else 0.8) "test"
                      let rows = lines (Path.Combine(options.Out, "rows.jsonl"))
                      Expect.equal rows.Length 160 "rows"
                      Expect.equal (rows[7].GetProperty("id").GetString()) "r7" "in order"

                      for name in [ "text"; "label"; "corrected"; "weight"; "quality"; "confidence"; "why" ] do
                          Expect.isTrue (fst (rows[0].TryGetProperty name)) name

                      let quality =
                          lines (Path.Combine(options.Out, "wrong.jsonl"))
                          |> List.map _.GetProperty("quality").GetDouble()

                      Expect.equal quality (List.sort quality) "the likeliest wrong first"
                      Expect.equal (lines (Path.Combine(options.Out, "test.jsonl"))).Length 40 "predictions"
                      let html = File.ReadAllText(Path.Combine(options.Out, "report.html"))

                      for way in DataCleaning.Candidates false do
                          Expect.stringContains html way "every way"

                      Expect.isFalse (Directory.Exists(Path.Combine(options.Out, "state"))) "no state left"

                      if encoder then
                          use saved = Encoder.Load(Path.Combine(options.Out, "model"))
                          Expect.sequenceEqual saved.Config.Labels [ "business"; "sport" ] "labels")

          testCase "stopped, then resumed: what was trained is not trained again"
          <| fun _ ->
              withFolder (fun folder ->
                  let stopped = optionsOf folder
                  use source = new CancellationTokenSource()
                  stopped.Cleaning.Cancellation <- source.Token

                  stopped.Cleaning.Progress <-
                      watching (fun at ->
                          if at.Done = 3 then
                              source.Cancel())

                  Expect.throwsC (fun () -> TextCleaning.Run stopped |> ignore) (fun e ->
                      Expect.isTrue (e :? OperationCanceledException) $"{e}")

                  let again = optionsOf folder
                  again.Resume <- true
                  let trained = HashSet()

                  again.Cleaning.Progress <- watching (fun at -> trained.Add at.Stage |> ignore)

                  TextCleaning.Run again |> ignore
                  Expect.isFalse (trained.Contains "noisy") "the first"
                  Expect.isTrue (trained |> Seq.exists _.StartsWith("SAMA")) "those behind")

          testCase "a state is of a model's weights, not of its folder's name"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  options.Model <- model folder
                  use source = new CancellationTokenSource()
                  source.Cancel()
                  options.Cleaning.Cancellation <- source.Token

                  Expect.throwsC (fun () -> TextCleaning.Run options |> ignore) (fun e ->
                      Expect.isTrue (e :? OperationCanceledException) $"{e}")

                  let weights = Path.Combine(options.Model, "model.safetensors")
                  let bytes = File.ReadAllBytes weights
                  bytes[bytes.Length - 3] <- bytes[bytes.Length - 3] ^^^ 1uy
                  File.WriteAllBytes(weights, bytes)
                  options.Resume <- true

                  refused<InvalidOperationException> [ "another model" ] (fun () -> TextCleaning.Run options |> ignore))

          testCase "what an earlier run wrote and this one does not is told"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  options.Test <- null
                  options.Cleaning.Ways <- [||]
                  Directory.CreateDirectory options.Out |> ignore
                  let older = Path.Combine(options.Out, "test.jsonl")
                  File.WriteAllText(older, "{}")
                  let result = TextCleaning.Run options
                  Expect.exists result.Notes (fun note -> note.Contains older) "told"
                  Expect.equal (File.ReadAllText older) "{}" "kept")

          testCase "votes: rows without any are predicted, and said to be"
          <| fun _ ->
              withFolder (fun folder ->
                  let path name = Path.Combine(folder, name)
                  let random = Random 1

                  let write name count votes =
                      File.WriteAllLines(
                          path name,
                          [| for i in 0 .. count - 1 do
                                 let truth = i % 2

                                 let vote () =
                                     if random.Next 5 = 0 then 1 - truth else truth

                                 let votes =
                                     if i % 10 = 9 && votes then
                                         "[-1,-1,-1]"
                                     else
                                         $"[{vote ()},{vote ()},{vote ()}]"

                                 $"{{\"text\":\"{text random truth} {name} {i}\",\"label\":{truth},\"votes\":{votes}}}" |]
                      )

                  write "train.jsonl" 100 true
                  write "clean.jsonl" 12 false

                  let options =
                      TextCleaningOptions(
                          Train = path "train.jsonl",
                          Clean = path "clean.jsonl",
                          Out = path "out",
                          Tokens = 16,
                          Columns = ReadOptions(VotesColumn = "votes", LabelColumn = "label"),
                          Cleaning = CleaningOptions(Steps = 40, TuningSteps = 10, Batch = 32)
                      )

                  let result = TextCleaning.Run options

                  Expect.equal
                      (result.Cleaning.Candidates |> Array.map _.Name)
                      (DataCleaning.Candidates true)
                      "label models"

                  Expect.equal (lines (path "out/rows.jsonl")).Length 100 "all rows")

          testCase "what is read is never overwritten, whichever option names it"
          <| fun _ ->
              withFolder (fun folder ->
                  for written in [ "rows.jsonl"; "wrong.jsonl"; "test.jsonl"; "report.html"; "model/vocab.txt" ] do
                      for option, set in
                          [ "--train", (fun (o: TextCleaningOptions) -> o.set_Train)
                            "--clean", _.set_Clean
                            "--test", _.set_Test
                            "--model", _.set_Model ] do
                          let options = optionsOf folder
                          let path = Path.Combine(options.Out, written)
                          Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore
                          File.WriteAllText(path, "mine")
                          set options path
                          refused<ArgumentException> [ option; path ] (fun () -> TextCleaning.Run options |> ignore)
                          Expect.equal (File.ReadAllText path) "mine" "untouched")

          testCase
              "test rows that are clean rows too do not judge; rows left out and classes without clean rows are told"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  let path name = Path.Combine(folder, name)
                  let rowsOf name = (File.ReadAllLines(path name))[1..]
                  let header = "id,text,label,right"
                  let clean, test = rowsOf "clean.csv", rowsOf "test.csv"
                  let third = "z,neither of them here,weather,weather"

                  File.WriteAllLines(
                      path "train.csv",
                      Array.concat [ [| header |]; rowsOf "train.csv"; clean[..4]; [| third |] ]
                  )

                  File.WriteAllLines(path "mixed.csv", Array.concat [ [| header |]; test[..9]; clean ])
                  options.Test <- path "mixed.csv"
                  let result = TextCleaning.Run options

                  let right =
                      lines (path "out/test.jsonl")
                      |> List.take 10
                      |> List.filter (fun row ->
                          row.GetProperty("label").GetString() = row.GetProperty("predicted").GetString())

                  Expect.floatClose
                      Expecto.Accuracy.high
                      result.TestAccuracy.Value
                      (float right.Length / 10.0)
                      "ten judge"

                  let html = Net.WebUtility.HtmlDecode(File.ReadAllText(path "out/report.html"))

                  for words in
                      [ "5 of 166 rows of " + path "train.csv" + " are left out"
                        "16 of 26 test rows do not judge"
                        "1 of 3 classes (weather)" ] do
                      Expect.exists result.Notes _.Contains(words) $"{result.Notes}"
                      Expect.stringContains html words "report"

                  Expect.stringContains html "of 10 test rows right" "those that judge"
                  // the clean rows alone: nothing judges
                  options.Test <- path "clean.csv"
                  let again = TextCleaning.Run options
                  Expect.isFalse again.TestAccuracy.HasValue "no accuracy of rows trained on")

          testCase "a clean row given twice counts once; a text of two labels is told"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  let path name = Path.Combine(folder, name)
                  let once = TextCleaning.Run options
                  let clean = File.ReadAllLines(path "clean.csv")
                  File.WriteAllLines(path "clean.csv", Array.append clean clean[1..])
                  let twice = TextCleaning.Run options

                  Expect.equal
                      (twice.Cleaning.Candidates |> Array.map _.HeldOut.Correct.Count)
                      (once.Cleaning.Candidates |> Array.map _.HeldOut.Correct.Count)
                      "each judges once"

                  Expect.equal twice.Cleaning.Rows once.Cleaning.Rows "the same verdicts"
                  let parts = clean[1].Split ','
                  let other = if parts[2] = "sport" then "business" else "sport"
                  File.WriteAllLines(path "clean.csv", Array.append clean [| $"x,{parts[1]},{other},{other}" |])
                  let told = TextCleaning.Run options
                  Expect.exists told.Notes _.StartsWith("1 texts") $"{told.Notes}")

          testCase "rows to clean may be predicted: without labels these judge nothing and stay"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  let path name = Path.Combine(folder, name)

                  File.WriteAllLines(
                      path "bare.csv",
                      File.ReadAllLines(path "train.csv")
                      |> Array.map (fun line -> String.Join(',', line.Split(',')[..1]))
                  )

                  options.Test <- path "bare.csv"
                  let result = TextCleaning.Run options
                  Expect.equal result.Cleaning.Rows.Length 160 "all are cleaned"
                  Expect.isEmpty result.Notes "nothing to say"
                  Expect.equal (lines (path "out/test.jsonl")).Length 160 "and predicted")

          testCase "bad input names file, row and column"
          <| fun _ ->
              withFolder (fun folder ->
                  let run (change: TextCleaningOptions -> unit) =
                      let options = optionsOf folder
                      change options
                      TextCleaning.Run options |> ignore

                  let bad name (text: string) =
                      let path = Path.Combine(folder, name)
                      File.WriteAllText(path, text)
                      path

                  refused<DataException> [ "train.csv"; "column nope" ] (fun () ->
                      run _.Columns.set_TextColumn("nope"))

                  refused<DataException> [ "unknown.csv"; "line 4"; "column label"; "'art'" ] (fun () ->
                      run (fun o ->
                          o.Clean <- bad "unknown.csv" "id,text,label\n1,a,sport\n2,b,business\n3,c,art\n4,d,sport\n"))

                  refused<DataException> [ "few.csv"; "2 clean rows" ] (fun () ->
                      run (fun o -> o.Clean <- bad "few.csv" "id,text,label\n1,a,sport\n2,b,business\n"))

                  refused<DataException> [ "same.csv"; "2 clean rows of different texts" ] (fun () ->
                      run (fun o ->
                          o.Clean <- bad "same.csv" "id,text,label\n1,a,sport\n2,b,business\n3,a,sport\n4,a,sport\n"))

                  let voted name (votes: string list) =
                      bad
                          name
                          (String.Join(
                              "\n",
                              [ for i, votes in List.indexed votes ->
                                    let label = if i % 2 = 0 then "sport" else "business"
                                    $"""{{"id":{i},"text":"{name} {i}","label":"{label}","right":null,"votes":{votes}}}""" ]
                          ))

                  let votes (train: string list) (clean: string list) (words: string list) =
                      refused<DataException> words (fun () ->
                          run (fun o ->
                              o.Columns.VotesColumn <- "votes"
                              o.Train <- voted "votes.jsonl" train
                              o.Clean <- voted "cleanvotes.jsonl" clean))

                  let two = [ for _ in 1..8 -> "[\"sport\",\"business\"]" ]
                  votes two [ for _ in 1..8 -> "[\"sport\"]" ] [ "cleanvotes.jsonl"; "1 votes a row"; "has 2" ]

                  for name, change in
                      [ "options.Columns", (fun (o: TextCleaningOptions) -> o.Columns <- null)
                        "options.Cleaning", (fun o -> o.Cleaning <- null)
                        "options.TextColumn", (fun o -> o.Columns <- ReadOptions(TextColumn = null))
                        "options.Classes", (fun o -> o.Columns <- ReadOptions(Classes = [| "sport"; null |]))
                        "options.VoteColumns", (fun o -> o.Columns <- ReadOptions(VoteColumns = [| "label"; "" |]))
                        "--frozen", (fun o -> o.FrozenLayers <- Nullable 1) ] do
                      refused<ArgumentException> [ name ] (fun () -> run change)

                  // without labels there are the votes alone
                  for vote, word in [ "null", "no row has a label or a vote"; "\"sport\"", "one class, 'sport'" ] do
                      let path =
                          bad "bare.jsonl" (String.replicate 8 $"{{\"text\":\"a\",\"votes\":[{vote},null]}}\n")

                      refused<DataException> [ "bare.jsonl"; word ] (fun () ->
                          run (fun o ->
                              o.Columns <- ReadOptions(VotesColumn = "votes")
                              o.Train <- path))

                  refused<ArgumentException> [ "--clean" ] (fun () -> run (fun o -> o.Clean <- null))
                  refused<ArgumentException> [ "Steps" ] (fun () -> run _.Cleaning.set_Steps(Nullable 0))
                  Expect.isFalse (Directory.Exists(Path.Combine(folder, "out"))) "no folder for nothing"
                  refused<FileNotFoundException> [ "nowhere.csv" ] (fun () -> run (fun o -> o.Train <- "nowhere.csv"))) ]
