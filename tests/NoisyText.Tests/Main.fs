module NoisyText.Tests.Main

open System
open System.IO
open Expecto
open NoisyText
open NoisyText.Dataset
open NoisyText.Statistics
open TorchSharp
open Sama
open Sama.Functional

let private row label vote text =
    $"{{\"label\":{label},\"weak_labels\":[{vote},-1],\"data\":{{\"text\":\"{text}\"}}}}"

let private good =
    [ "label", "{\"0\":\"a\",\"1\":\"b\"}"
      "train",
      "{\"0\":"
      + row 0 1 "x"
      + ",\"1\":"
      + row 1 -1 "y"
      + ",\"2\":"
      + row 1 1 "t"
      + "}"
      "valid", "{\"0\":" + row 0 0 "v" + "}"
      "test", "{\"0\":" + row 0 0 "t" + "}" ]

/// A folder with these files instead of the good ones; a null leaves one out.
let private withFolder (changes: (string * string) list) action =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        for name, text in good do
            let text =
                changes
                |> List.tryFind (fst >> (=) name)
                |> Option.map snd
                |> Option.defaultValue text

            if not (isNull text) then
                File.WriteAllText(Path.Combine(folder, name + ".json"), text)

        action folder
    finally
        Directory.Delete(folder, true)

let private rows =
    [ { Text = "one two one"
        Label = 0
        Votes = [| 0; 1 |] }
      { Text = "two"
        Label = 1
        Votes = [| 0; -1 |] } ]

let private vocabulary = Text.vocabulary (rows |> Seq.map _.Text)

let private draw step =
    { Seed = 3L
      Step = step
      Stream = 0
      Rank = 0 }

let private withFile (text: string) action =
    let file = Path.GetTempFileName()

    try
        File.WriteAllText(file, text)
        action file
    finally
        File.Delete file

let private even = torch.tensor [| 0.5f; 0.5f |]

/// Weight logits and both losses of a meta learner at a fixed prediction.
let private judged (prior: Tensor) (change: string -> Tensor -> Tensor) correct =
    use generator = new torch.Generator 1UL

    let named =
        [ for name, value in Model.metaLearner generator correct 2 2 -> name, change name value ]

    let lambda = Params.frozen (Layout.ofNamed named) (Layout.ravel named)
    let rows = Text.examples vocabulary 2 [ for row in rows -> row, 0 ]
    let log = torch.tensor([| 0.9f; 0.1f; 0.2f; 0.8f |]).view(2L, 2L).log ()

    let loss =
        (if correct then
             Model.correctedLoss prior
         else
             Model.weighedLoss)
            lambda
            log
            log
            rows

    Model.weightLogit lambda log rows, loss.to_type(torch.float64).item<float> ()

let private laws =
    [ testCase "an epoch's batches are disjoint, the same for a draw, and no longer than their longest text"
      <| fun _ ->
          let all =
              Text.examples vocabulary 7 [ for label in 0..6 -> { rows[1] with Label = label }, label ]

          let labels step =
              (Text.batch 3 all (draw step)).Labels.data<int64>().ToArray()

          let epoch = Array.append (labels 0L) (labels 1L)
          Expect.equal (Array.distinct epoch).Length 6 "disjoint"
          Expect.equal (labels 1L) (labels 1L) "same draw"
          Expect.equal (Text.batch 9 all (draw 0L)).Count 9 "a small set is drawn with replacement"
          Expect.equal (Text.batch 3 all (draw 0L)).Ids.shape [| 3L; 1L |] "cut"

      testCase "votes are seen as for and against the label"
      <| fun _ ->
          let votes = (Text.examples vocabulary 2 [ for row in rows -> row, 1 ]).Votes
          Expect.equal (votes.data<float32>().ToArray()) [| -1f; 1f; -1f; 0f |] "votes"

      testCase "only relative weights change the loss of re-weighting"
      <| fun _ ->
          let shifted name (value: Tensor) =
              if name = "outputBias" then value + 3.0 else value

          let z, loss = judged even (fun _ value -> value) false
          let moved, same = judged even shifted false
          Expect.floatClose Accuracy.medium ((moved - z).mean().item<float32> () |> float) 3.0 "logits moved"
          Expect.floatClose Accuracy.medium same loss "same loss"

      testCase "at full weight of the weak labels the corrected loss is their cross entropy, moved to their frequencies"
      <| fun _ ->
          let full name (value: Tensor) =
              if name = "outputBias" then value + 60.0 else value

          // two labels 0, at probabilities .9 and .2, a tenth of the target spread evenly
          for prior in [ 0.5; 0.25 ] do
              let _, loss =
                  judged (torch.tensor [| float32 prior; float32 (1.0 - prior) |]) full true

              // eight imaginary rows stand beside the two
              let frequency = (2.0 + 8.0 * prior) / 10.0

              let expected =
                  [ 0.9; 0.2 ]
                  |> List.averageBy (fun p ->
                      let own = p * frequency / prior
                      let other = (1.0 - p) * (1.0 - frequency) / (1.0 - prior)
                      -0.95 * log (own / (own + other)) - 0.05 * log (other / (own + other)))

              Expect.floatClose Accuracy.medium loss expected $"prior {prior}"

      testCase "what the text says moves the correction alone, and only of texts that hold the term"
      <| fun _ ->
          // no weight for the weak labels, no share for the prediction: the target is softmax(label 0 + evidence)
          let target (evidence: float32[]) =
              let say name (value: Tensor) =
                  match name with
                  | "outputBias" -> value - 60.0
                  | "terms" ->
                      value.index_put_ (torch.tensor evidence, torch.tensor [| int64 vocabulary["one"] |])
                      |> ignore

                      value
                  | _ -> value

              judged even say true |> snd

          let expected (first: float) =
              // of "one two one" six terms, two of them "one"; "two" does not hold it
              let targets =
                  [ Math.Exp 1.0 / (Math.Exp 1.0 + Math.Exp first)
                    Math.Exp 1.0 / (Math.Exp 1.0 + 1.0) ]

              let mass = (List.sum targets + 4.0) / 10.0

              List.zip targets [ 0.9; 0.2 ]
              |> List.averageBy (fun (target, p) ->
                  let own, other = p * mass, (1.0 - p) * (1.0 - mass)
                  let target = 0.9 * target + 0.05

                  -target * log (own / (own + other))
                  - (1.0 - target) * log (other / (own + other)))

          Expect.floatClose Accuracy.medium (target [| 0f; 0f |]) (expected 0.0) "no evidence"

          Expect.floatClose
              Accuracy.medium
              (target [| 0f; 1f |])
              (expected (4.0 * 2.0 / sqrt 6.0))
              "evidence of class 1"

      testCase "class frequencies count each class once more"
      <| fun _ ->
          let three = Text.examples vocabulary 3 [ rows[0], 0; rows[1], 0; rows[1], 1 ]
          Expect.equal ((Text.prior three).data<float32>().ToArray()) [| 3f / 6f; 2f / 6f; 1f / 6f |] "frequencies"

      testCase "AUROC counts the pairs in order, ties half"
      <| fun _ ->
          Expect.floatClose
              Accuracy.high
              (auroc [| 1.0; 2.0; 2.0; 3.0 |] [| false; true; false; true |]).Value
              0.875
              "pairs"

          Expect.isNone (auroc [| 1.0 |] [| true |]) "nothing to separate"

      testCase "the gain's interval is around its mean, and a point where every pair differs alike"
      <| fun _ ->
          let mixed =
              pairedGain [ [| true; true; false; true |] ] [ [| false; true; true; false |] ]

          Expect.floatClose Accuracy.high mixed.Mean 0.25 "mean"
          Expect.isTrue (mixed.Low < 0.25 && mixed.High > 0.25) $"{mixed}"

          let all =
              pairedGain [ [| true; true |]; [| true; true |] ] [ [| false; false |]; [| false; false |] ]

          Expect.equal (all.Low, all.High) (1.0, 1.0) "no spread"

      testCase "word vectors are read by word; a bad line is named"
      <| fun _ ->
          withFile "one 1 2\nother 3 4\ntwo 5 6\n" (fun file ->
              let vectors = Text.readVectors file vocabulary
              Expect.equal vectors[vocabulary["two"]] [| 5f; 6f |] "two"
              Expect.equal vectors.Count 2 "only known words")

          for bad in [ "one 1 2\ntwo 3\n"; "one 1 2\ntwo 3 x\n" ] do
              withFile bad (fun file ->
                  Expect.throwsC (fun () -> Text.readVectors file vocabulary |> ignore) (fun e ->
                      Expect.stringContains e.Message $"{file}: line 2" "place"
                      Expect.isTrue (e :? InvalidDataException) "managed"))

      testCase "seeds are a list or a range"
      <| fun _ ->
          Expect.equal (Program.seedsOf "0,2") [ 0; 2 ] "list"
          Expect.equal (Program.seedsOf "1-3") [ 1; 2; 3 ] "range"

          for bad in [ "x"; "3-1"; "1,1"; "-1"; "" ] do
              Expect.throwsT<ArgumentException> (fun () -> Program.seedsOf bad |> ignore) bad ]

/// Runs the program on a small folder: exit code, what it said of errors, and the reports left.
let private program (arguments: string list) =
    let split (texts: (int * int * string) list) =
        let entries =
            texts
            |> List.mapi (fun i (label, vote, text) -> $"\"{i}\":" + row label vote text)

        "{" + String.Join(",", entries) + "}"

    let changes =
        [ "train", split [ 0, 0, "a b"; 1, 0, "c b"; 1, 1, "c d"; 0, 1, "a d" ]
          "valid", split [ 0, 0, "a"; 1, 1, "c" ] ]

    withFolder changes (fun folder ->
        let report = Path.Combine(folder, "report.json")
        let error = Console.Error
        use said = new StringWriter()
        Console.SetError said

        try
            let code =
                Program.main [| "--data"; folder; "--report"; report; "--seeds"; "0,1"; yield! arguments |]

            code, string said, [ for file in Directory.GetFiles(folder, "report*") -> File.ReadAllText file ]
        finally
            Console.SetError error)

let private runs =
    testSequenced
    <| testList
        "the program"
        [ testCase "the report has every method and seed"
          <| fun _ ->
              let code, said, reports = program [ "--epochs"; "1" ]
              Expect.equal code 0 said
              use report = System.Text.Json.JsonDocument.Parse(List.exactlyOne reports)
              let root = report.RootElement

              let methods =
                  [ for m in root.GetProperty("methods").EnumerateArray() ->
                        m.GetProperty("method").GetString(),
                        m.GetProperty("accuracy").GetArrayLength(),
                        m.GetProperty("auroc").GetArrayLength() ]

              Expect.equal
                  methods
                  [ "noisy", 2, 0
                    "metaOnly", 2, 0
                    "reweight", 2, 2
                    "correct", 2, 2
                    "thenMeta", 2, 0
                    "noisyThenMeta", 2, 0 ]
                  "methods"

              Expect.contains [ "reweight"; "correct" ] (root.GetProperty("chosen").GetString()) "chosen"
              Expect.equal (root.GetProperty("seeds").GetArrayLength()) 2 "seeds"

          testCase "a loss that is not finite ends it, and nothing is written"
          <| fun _ ->
              let code, said, reports = program [ "--rate"; "1e30" ]
              Expect.equal code 1 "exit code"
              Expect.stringContains said "is not finite" "reason"
              Expect.isEmpty reports "files" ]

let tests =
    testList
        "NoisyText"
        [ testCase "a good folder is read; unvoted rows and texts of other splits are dropped"
          <| fun _ ->
              withFolder [] (fun folder ->
                  let data = read folder
                  Expect.equal (data.Classes, data.Rules, data.Train.Length) (2, 2, 3) "sizes"
                  Expect.equal (weaklyLabelled 0 data |> Array.map _.Row.Text) [| "x" |] "rows used")

          for name, file, text, word in
              [ "a missing split", "valid", null, "valid.json"
                "wrong json", "test", "{\"0\":", "test.json"
                "an empty split", "train", "{}", "train.json"
                "a label out of range", "train", "{\"7\":" + row 2 0 "x" + "}", "row 7"
                "a vote out of range", "train", "{\"7\":" + row 0 9 "x" + "}", "row 7"
                "a row without text", "valid", "{\"5\":{\"label\":0,\"weak_labels\":[]}}", "row 5" ] do
              testCase $"{name}: file and row are named"
              <| fun _ ->
                  withFolder [ file, text ] (fun folder ->
                      Expect.throwsC (fun () -> read folder |> ignore) (fun e ->
                          Expect.stringContains e.Message file "file"
                          Expect.stringContains e.Message word "place"
                          Expect.isTrue (e :? IOException || e :? InvalidDataException) $"{e.GetType()}"))

          testCase "the generated set is the same for a seed, its rules right about half the time"
          <| fun _ ->
              let data = Generator.generate 3
              Expect.equal (Generator.generate 3) data "same"
              let rows = weaklyLabelled 0 data

              let right =
                  rows |> Array.filter (fun r -> r.WeakLabel = r.Row.Label) |> Array.length

              let share = float right / float rows.Length
              Expect.isTrue (share > 0.4 && share < 0.6) $"{share}"

          yield! laws
          runs ]

[<EntryPoint>]
let main args = runTestsWithCLIArgs [] args tests
