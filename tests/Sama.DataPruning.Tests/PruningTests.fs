/// From folders and files to kept rows.
module Sama.DataPruning.Tests.PruningTests

open System
open System.Collections.Generic
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open SkiaSharp
open Sama.DataOptimization
open Sama.DataPruning
open Sama.DataPruning.Tests.Files
open Sama.Tests.Watching

let private optionsOf (folder: string) : DataPruningOptions =
    let data = Path.Combine(folder, "data")

    if not (Directory.Exists data) then
        mnist data "train" 1 120 |> ignore
        mnist data "t10k" 2 60 |> ignore

    DataPruningOptions(
        Data = data,
        Out = Path.Combine(folder, "out"),
        Keep = 0.5,
        Scores = "el2n-2",
        Curve = [| 0.8 |],
        Pruning = PruningOptions(Epochs = 8, Batch = 16, SearchShare = 0.3)
    )

let private lines (path: string) =
    [ for line in File.ReadLines path -> (JsonDocument.Parse line).RootElement ]

let private rowsOf (out: string) =
    File.ReadAllLines(Path.Combine(out, "kept.txt")) |> Array.map int

let private written =
    testList
        "written"
        [ for name in
              [ "sama"
                "sama-rows"
                "el2n-2"
                "grand-1"
                "forgetting"
                "aum"
                "margin"
                "random" ] do
              testCase $"{name}: kept rows are the best of their class, scores and report are written"
              <| fun _ ->
                  withFolder (fun folder ->
                      let options = optionsOf folder
                      options.Scores <- name
                      options.Curve <- [||]
                      let result = DataPruning.Run options
                      Expect.equal (rowsOf options.Out) result.Kept "kept.txt"
                      Expect.equal result.Kept.Length 60 "half"
                      let scores = lines (Path.Combine(options.Out, "scores.jsonl"))
                      Expect.equal scores.Length 120 "a line a row"

                      // forgetting counts may be infinite, which JSON has only as a text
                      let value (line: JsonElement) =
                          let score = line.GetProperty "score"

                          if score.ValueKind = JsonValueKind.String then
                              infinity
                          else
                              score.GetDouble()

                      for label in [ "0"; "1" ] do
                          let kept, pruned =
                              scores
                              |> List.filter (fun line -> line.GetProperty("label").GetString() = label)
                              |> List.partition (fun line -> line.GetProperty("kept").GetBoolean())

                          Expect.equal kept.Length 30 "each class keeps its share"

                          if result.Score.KeepsHighest then
                              Expect.isGreaterThanOrEqual
                                  (kept |> List.map value |> List.min)
                                  (pruned |> List.map value |> List.max)
                                  "best"
                          else
                              Expect.isLessThanOrEqual
                                  (kept |> List.map value |> List.max)
                                  (pruned |> List.map value |> List.min)
                                  "best"

                      let numbers = scores |> List.map (fun line -> line.GetProperty("row").GetInt32())
                      Expect.equal numbers [ 0..119 ] "in order"
                      let html = File.ReadAllText(Path.Combine(options.Out, "report.html"))
                      Expect.stringContains html "60 of 120 rows are kept" "summary"
                      // two sheets of pictures, which a decoder that is not this library's reads
                      let sheets = html.Split("data:image/png;base64,")[1..]
                      Expect.equal sheets.Length 2 "pictures"

                      for sheet in sheets do
                          use bitmap = SKBitmap.Decode(Convert.FromBase64String(sheet.Split('"').[0]))
                          // twelve a line, each five times as large as it was, and a white edge
                          Expect.equal (bitmap.Width, bitmap.Height) (12 * 64, 4 * 64) "sheet"
                          Expect.equal (bitmap.GetPixel(62, 62)) SKColors.White "edge"
                          Expect.equal (bitmap.GetPixel(0, 0)) (bitmap.GetPixel(4, 4)) "enlarged"

                      Expect.isFalse (Directory.Exists(Path.Combine(options.Out, "state"))) "no state left")

          testCase "the curve: all rows first, the asked shares and the kept one, judged by the test files"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  let result = DataPruning.Run options
                  Expect.equal (result.Curve |> Array.map _.Share) [| 1.0; 0.8; 0.5 |] "shares"
                  Expect.isGreaterThan result.Curve[0].Accuracy 0.8 "bars are told apart"
                  Expect.isGreaterThan result.FullSeconds 0.0 "unit"
                  let html = File.ReadAllText(Path.Combine(options.Out, "report.html"))
                  Expect.stringContains html "60 test rows judge" "judges"
                  Expect.stringContains html "Accuracy against the share kept" "curve")

          testCase "coverage-centric, over all classes, without test files"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  File.Delete(Path.Combine(options.Data, "t10k-images-idx3-ubyte.gz"))
                  options.Scores <- "ccs-el2n-2"
                  options.HardCutoff <- 0.1
                  let result = DataPruning.Run options
                  Expect.equal result.Kept.Length 60 "half"

                  let order =
                      Array.init 120 id
                      |> Array.sortByDescending (fun row -> result.Score.Scores[row])

                  Expect.isEmpty
                      (Set.intersect (Set.ofArray order[..11]) (Set.ofArray result.Kept))
                      "the hardest are cut off"

                  Expect.stringContains
                      (File.ReadAllText(Path.Combine(options.Out, "report.html")))
                      "A fifth of the rows"
                      "judges")

          testCase "judged: the report says by what, and the kept rows are of the kind that did best"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  options.Scores <- "judged-sama"
                  options.Curve <- [||]
                  let result = DataPruning.Run options
                  Expect.equal result.Kept.Length 60 "half"
                  Expect.equal result.Kept (result.Score.Keep(0.5, result.Labels, options.Pruning.Seed)) "this kind"
                  let html = File.ReadAllText(Path.Combine(options.Out, "report.html"))
                  Expect.stringContains html result.Score.KeptName "which"
                  Expect.stringContains html "24 rows" "a fifth judges"
                  Expect.stringContains html "rows of all strata" "table")

          testCase "test rows that are trained on do not judge, and are told"
          <| fun _ ->
              withFolder (fun folder ->
                  let csv (name: string) (texts: string seq) =
                      let path = Path.Combine(folder, name)

                      File.WriteAllLines(
                          path,
                          Seq.append [ "text,label" ] [ for text in texts -> $"{text},{text[0]}" ]
                      )

                      path

                  let texts which =
                      [ for i in 1..20 do
                            $"x {which} one {i}"
                            $"y {which} two {i}" ]

                  let options = optionsOf folder
                  options.Data <- csv "rows.csv" (texts "own")
                  options.Test <- csv "test.csv" (List.take 5 (texts "own") @ texts "other")
                  options.Scores <- "random"
                  let result = DataPruning.Run options
                  Expect.equal result.Judged 40 "the others"
                  Expect.stringStarts (Array.exactlyOne result.Notes) "5 of 45 test rows do not judge" "told"
                  let html = File.ReadAllText(Path.Combine(options.Out, "report.html"))
                  Expect.stringContains html result.Notes[0] "in the report"
                  options.Test <- csv "same.csv" (texts "own")
                  refused<DataException> [ "all 40 test rows" ] (fun () -> DataPruning.Run options |> ignore)
                  let images = optionsOf folder
                  images.Test <- images.Data
                  refused<DataException> [ "all 120 test rows" ] (fun () -> DataPruning.Run images |> ignore))

          testCase "clean rows apart: SAMA learns from them, and they are neither pruned nor judge the curve"
          <| fun _ ->
              withFolder (fun folder ->
                  let run scores clean =
                      let options = optionsOf folder
                      options.Scores <- scores
                      options.Clean <- clean
                      options.Curve <- [| 0.8 |]
                      DataPruning.Run options

                  let clean = Path.Combine(folder, "clean")
                  mnist clean "train" 3 40 |> ignore
                  let without, given = run "sama" null, run "sama" clean
                  Expect.equal given.Score.Scores.Length 120 "rows"
                  Expect.equal given.Judged 60 "the test files judge"
                  Expect.notEqual given.Score.Scores without.Score.Scores "they are learned from"
                  Expect.equal (run "judged-sama" clean).Score.Judgement.Rows 40 "they judge which rows are kept"

                  let other name write =
                      let path = Path.Combine(folder, name)
                      write path
                      path

                  let labelled name label =
                      other name (fun path ->
                          let _, images = bars 4 6
                          write (Path.Combine(path, "train-images-idx3-ubyte.gz")) (idxImages 12 12 images)

                          write
                              (Path.Combine(path, "train-labels-idx1-ubyte.gz"))
                              (idxLabels (Array.init 6 (fun i -> if i = 0 then label else i % 2))))

                  let large =
                      other "large" (fun path -> cifar (Path.Combine(path, "data.bin")) 1 [| 0; 1; 0 |] |> ignore)

                  refused<ArgumentException> [ large; "3 x 32 x 32"; "1 x 12 x 12" ] (fun () ->
                      run "sama" large |> ignore)

                  refused<DirectoryNotFoundException> [ "nowhere" ] (fun () ->
                      run "sama" (Path.Combine(folder, "nowhere")) |> ignore)

                  refused<ArgumentException> [ "--clean"; "el2n-2" ] (fun () -> run "el2n-2" clean |> ignore)
                  // a class that the rows do not have
                  let third = labelled "third" 2
                  refused<DataException> [ third; "class 2" ] (fun () -> run "sama" third |> ignore))

          testCase "clean pictures of some classes keep their names; clean texts of another class are named"
          <| fun _ ->
              withFolder (fun folder ->
                  let pictures (name: string) classes =
                      for label in classes do
                          for i in 0..4 do
                              picture (Path.Combine(folder, name, label, $"{i}.png")) 8 8 (fun y x ->
                                  let value = byte ((if label = "b" then y else x) * 20 + i)
                                  value, value, value)

                      Path.Combine(folder, name)

                  let options = optionsOf folder
                  options.Data <- pictures "all" [ "a"; "b"; "c" ]
                  options.Clean <- pictures "some" [ "b"; "c" ]
                  options.Scores <- "judged-sama"
                  options.Curve <- [||]
                  let result = DataPruning.Run options
                  Expect.equal result.Classes [| "a"; "b"; "c" |] "classes"
                  Expect.equal result.Labels.Length 15 "clean rows are none of them"
                  options.Clean <- pictures "another" [ "b"; "d" ]
                  refused<DataException> [ "another"; "class d" ] (fun () -> DataPruning.Run options |> ignore)

                  let csv (name: string) (labels: string list) =
                      let path = Path.Combine(folder, name)

                      File.WriteAllLines(
                          path,
                          "text,label"
                          :: [ for i in 0..39 -> $"word{i % 7} of {i},{labels[i % labels.Length]}" ]
                      )

                      path

                  options.Data <- csv "rows.csv" [ "x"; "y" ]
                  options.Clean <- csv "clean.csv" [ "y"; "x" ]
                  options.Tokens <- 8
                  Expect.equal (DataPruning.Run options).Kept.Length 20 "texts"
                  options.Clean <- csv "wrong.csv" [ "x"; "z" ]
                  refused<DataException> [ "wrong.csv"; "z" ] (fun () -> DataPruning.Run options |> ignore))

          testCase "duplicates and ties: the seed decides, the same seed the same way"
          <| fun _ ->
              withFolder (fun folder ->
                  let options = optionsOf folder
                  let labels, images = bars 1 2
                  // every image of a class is the same one
                  let copies = Array.init 80 (fun i -> images[i % 2])
                  write (Path.Combine(options.Data, "train-images-idx3-ubyte.gz")) (idxImages 12 12 copies)

                  write
                      (Path.Combine(options.Data, "train-labels-idx1-ubyte.gz"))
                      (idxLabels (Array.init 80 (fun i -> labels[i % 2])))

                  options.Curve <- [||]
                  options.Scores <- "el2n-1"

                  let kept seed =
                      options.Pruning.Seed <- seed
                      (DataPruning.Run options).Kept

                  Expect.equal (kept 1) (kept 1) "same"
                  Expect.notEqual (kept 1) (kept 2) "another")

          testCase "texts: a file, the small encoder"
          <| fun _ ->
              withFolder (fun folder ->
                  let path = Path.Combine(folder, "rows.csv")
                  let random = Random 1
                  let words = [| [| "ball"; "goal"; "team" |]; [| "bank"; "stock"; "price" |] |]

                  File.WriteAllLines(
                      path,
                      [| "id,text,label"
                         for i in 0..99 do
                             let own = words[i % 2]
                             $"r{i},the {own[random.Next 3]} of {own[random.Next 3]} {random.Next 50},{i % 2}" |]
                  )

                  for name in [ "sama"; "grand-1"; "margin" ] do
                      let options = optionsOf folder
                      options.Data <- path
                      options.Scores <- name
                      options.Columns <- ReadOptions(IdColumn = "id")
                      options.Tokens <- 8
                      options.Curve <- (if name = "sama" then [| 0.7 |] else [||])
                      let result = DataPruning.Run options
                      Expect.equal result.Kept.Length 50 name
                      let first = List.head (lines (Path.Combine(options.Out, "scores.jsonl")))
                      Expect.equal (first.GetProperty("id").GetString()) "r0" "ids"

                      Expect.stringContains
                          (File.ReadAllText(Path.Combine(options.Out, "report.html")))
                          "the ball"
                          "texts") ]

let private stopped =
    testList
        "state"
        [ testCase
              "stopped, then resumed: the rows of one run, nothing trained twice; other options begin anew or are refused"
          <| fun _ ->
              withFolder (fun folder ->
                  let straight = optionsOf folder
                  straight.Out <- Path.Combine(folder, "straight")
                  let expected = DataPruning.Run straight
                  let stopped = optionsOf folder
                  use source = new CancellationTokenSource()
                  stopped.Pruning.Cancellation <- source.Token

                  stopped.Pruning.Progress <-
                      watching (fun at ->
                          if at.Stage.StartsWith "all rows" then
                              source.Cancel())

                  Expect.throwsT<OperationCanceledException> (fun () -> DataPruning.Run stopped |> ignore) "stopped"
                  Expect.isFalse (File.Exists(Path.Combine(stopped.Out, "kept.txt"))) "nothing half-written"
                  let other = optionsOf folder
                  other.Resume <- true
                  other.Pruning.Seed <- 5
                  refused<InvalidOperationException> [ "other" ] (fun () -> DataPruning.Run other |> ignore)
                  let again = optionsOf folder
                  again.Resume <- true
                  let trained = HashSet()

                  again.Pruning.Progress <- watching (fun at -> trained.Add at.Stage |> ignore)

                  let result = DataPruning.Run again
                  Expect.equal result.Kept expected.Kept "kept"
                  Expect.equal (result.Curve |> Array.map _.Accuracy) (expected.Curve |> Array.map _.Accuracy) "curve"
                  Expect.isFalse (trained.Contains "early model 1") "not again"
                  Expect.isTrue (trained |> Seq.exists _.StartsWith("all rows")) "this one")

          testCase "misuse names option, file and class"
          <| fun _ ->
              withFolder (fun folder ->
                  let run (change: DataPruningOptions -> unit) =
                      let options = optionsOf folder
                      change options
                      DataPruning.Run options |> ignore

                  for keep in [ 0.0; -0.1; 1.5; nan ] do
                      refused<ArgumentException> [ "--keep" ] (fun () -> run (fun o -> o.Keep <- keep))

                  refused<ArgumentException> [ "--scores infobatch"; "sama" ] (fun () ->
                      run (fun o -> o.Scores <- "infobatch"))

                  refused<ArgumentException> [ "--out" ] (fun () -> run (fun o -> o.Out <- null))
                  refused<ArgumentException> [ "--data" ] (fun () -> run (fun o -> o.Data <- null))
                  refused<ArgumentException> [ "--curve 2" ] (fun () -> run (fun o -> o.Curve <- [| 2.0 |]))

                  refused<ArgumentException> [ "device gpu: "; "cuda:N" ] (fun () -> run (fun o -> o.Device <- "gpu"))

                  for written in [ "kept.txt"; "scores.jsonl"; "report.html"; "state/rows.csv" ] do
                      for option, set in
                          [ "--data", (fun (o: DataPruningOptions) -> o.set_Data)
                            "--test", _.set_Test
                            "--clean", _.set_Clean
                            "--model", _.set_Model ] do
                          refused<ArgumentException> [ option; written; "overwritten" ] (fun () ->
                              run (fun o ->
                                  o.Scores <- "sama"
                                  set o (Path.Combine(o.Out, written))))

                  refused<ArgumentException> [ "--cutoff" ] (fun () -> run (fun o -> o.HardCutoff <- 0.1))
                  refused<ArgumentException> [ "Rate" ] (fun () -> run _.Pruning.set_Rate(Nullable -1.0))
                  refused<ArgumentException> [ "Epochs" ] (fun () -> run _.Pruning.set_Epochs(0))
                  refused<ArgumentException> [ "'vgg'" ] (fun () -> run (fun o -> o.Model <- "vgg"))

                  refused<FileNotFoundException> [ "nowhere" ] (fun () ->
                      run (fun o -> o.Data <- Path.Combine(folder, "nowhere")))

                  Expect.isFalse (Directory.Exists(Path.Combine(folder, "out"))) "no folder for nothing"
                  let one = Path.Combine(folder, "one")
                  cifar (Path.Combine(one, "data.bin")) 1 [| 3; 3; 3 |] |> ignore
                  refused<DataException> [ one; "one class, 3" ] (fun () -> run (fun o -> o.Data <- one))

                  refused<InvalidOperationException> [ "diverges"; "a rate below 1E+30" ] (fun () ->
                      run _.Pruning.set_Rate(Nullable 1e30))) ]

let tests = testList "pruning" [ written; stopped ]
