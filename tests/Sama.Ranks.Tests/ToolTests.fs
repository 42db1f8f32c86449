/// `sama` on ranks: they share the work, and one of them writes.
module Sama.Ranks.Tests.ToolTests

open System
open System.IO
open System.Text.Json
open Expecto
open Sama.DataOptimization
open Sama.Ranks.Tests.Launcher

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "tool-"

    try
        body folder.FullName
    finally
        folder.Delete true

let private words =
    [| "ball"
       "goal"
       "team"
       "bank"
       "stock"
       "price"
       "the"
       "of"
       "new"
       "last" |]

/// Six words, every other one of the row's subject.
let private text (random: Random) (truth: int) : string =
    String.Join(
        ' ',
        [| for i in 0..5 ->
               if i % 2 = 0 then
                   words[6 + random.Next 4]
               else
                   words[3 * truth + random.Next 3] |]
    )

let private name c = if c = 0 then "sport" else "business"

let private csv (path: string) (seed: int) (count: int) (noise: float) : unit =
    let random = Random seed

    File.WriteAllLines(
        path,
        [| "text,label,right"
           for i in 0 .. count - 1 do
               let truth = i % 2
               let label = if random.NextDouble() < noise then 1 - truth else truth
               $"{text random truth} {i},{name label},{name truth}" |]
    )

let private cleaned () =
    inFolder (fun folder ->
        let path (name: string) = Path.Combine(folder, name)
        csv (path "train.csv") 1 120 0.3
        csv (path "clean.csv") 2 16 0.0

        let clean out =
            tool
                OpenMpi
                2
                [ "clean"
                  "--train"
                  path "train.csv"
                  "--clean"
                  path "clean.csv"
                  "--truth"
                  "right"
                  "--steps"
                  "40"
                  "--tokens"
                  "16"
                  "--out"
                  path out ]
            |> succeeded

        let ended = clean "once"
        let chosen = ended.Lines |> List.filter _.StartsWith("chosen:")
        Expect.equal chosen.Length 1 "one rank prints"
        let rows = File.ReadAllLines(Path.Combine(path "once", "rows.jsonl"))
        Expect.equal rows.Length 120 "every row once"
        Expect.isFalse (Directory.Exists(Path.Combine(path "once", "state"))) "nothing is left"

        let auroc =
            ended.Lines
            |> List.find _.StartsWith("AUROC")
            |> fun line -> float (line.Substring(line.LastIndexOf ' '))

        Expect.isGreaterThan auroc 0.8 "wrong labels are found"
        clean "again" |> ignore
        Expect.equal (File.ReadAllLines(Path.Combine(path "again", "rows.jsonl"))) rows "the same bits again")

let private pruned () =
    inFolder (fun folder ->
        let path (name: string) = Path.Combine(folder, name)
        csv (path "train.csv") 1 120 0.2

        let prune scores out =
            tool
                OpenMpi
                2
                [ "prune"
                  "--data"
                  path "train.csv"
                  "--keep"
                  "0.5"
                  "--scores"
                  scores
                  "--epochs"
                  "6"
                  "--curve"
                  "none"
                  "--tokens"
                  "16"
                  "--out"
                  path out ]
            |> succeeded

        let file (out: string) (name: string) =
            File.ReadAllLines(Path.Combine(path out, name))

        for scores in [ "sama"; "aum"; "judged-sama" ] do
            let ended = prune scores scores

            Expect.equal (ended.Lines |> List.filter _.Contains("rows are kept")).Length 1 "one rank prints"

            Expect.equal (file scores "kept.txt").Length 60 "half of the rows"
            Expect.isFalse (Directory.Exists(Path.Combine(path scores, "state"))) "nothing is left"
            prune scores (scores + "Again") |> ignore
            Expect.equal (file (scores + "Again") "scores.jsonl") (file scores "scores.jsonl") "the same bits again"

        // rows of all ranks are looked at: those with wrong labels have low margins
        let score (line: string) =
            JsonDocument.Parse(line).RootElement.GetProperty("score").GetDouble()

        let isWrong (line: string) =
            match line.Split ',' with
            | [| _; label; right |] -> label <> right
            | _ -> failtest line

        let auroc =
            Ranking.Auroc(
                file "aum" "scores.jsonl" |> Array.map (score >> (~-)),
                (File.ReadAllLines(path "train.csv"))[1..] |> Array.map isWrong
            )

        Expect.isGreaterThan auroc.Value 0.7 "wrong labels have low margins")

let private noisyText () =
    inFolder (fun folder ->
        let random = Random 3

        let split name count =
            let rows =
                [ for i in 0 .. count - 1 do
                      let truth = i % 2
                      let vote = if random.NextDouble() < 0.2 then 1 - truth else truth
                      $"\"{i}\":{{\"label\":{truth},\"weak_labels\":[{vote},-1],\"data\":{{\"text\":\"{text random truth} {name} {i}\"}}}}" ]

            let rows = String.Join(",", rows)
            File.WriteAllText(Path.Combine(folder, name + ".json"), $"{{{rows}}}")

        File.WriteAllText(Path.Combine(folder, "label.json"), """{"0":"sport","1":"business"}""")
        split "train" 80
        split "valid" 20
        split "test" 30
        let report = Path.Combine(folder, "report.jsonl")

        let ended =
            tool
                OpenMpi
                2
                [ "noisytext"
                  "--data"
                  folder
                  "--clean"
                  "5"
                  "--steps"
                  "20"
                  "--tuning-steps"
                  "10"
                  "--ways"
                  "noisy;SAMA weights"
                  "--report"
                  report ]
            |> succeeded

        Expect.equal (File.ReadAllLines report).Length 1 "one run, written once"

        let header = ended.Lines |> List.filter _.StartsWith("labels right")
        Expect.equal header.Length 1 (string ended))

let tests =
    testList
        "tool"
        [ testCase "sama clean on two ranks: every row once, one rank writes and prints, the same bits again"
          <| fun _ -> cleaned ()

          testCase "sama prune on two ranks: every row once, one rank writes and prints, the same bits again"
          <| fun _ -> pruned ()

          testCase "NoisyText on two ranks: one report" <| fun _ -> noisyText ()

          testCase "commands that would do the work twice are refused"
          <| fun _ ->
              let ended = tool OpenMpi 2 [ "check" ]
              Expect.notEqual ended.Code 0 (string ended)
              Expect.stringContains (string ended) "without a launcher" (string ended) ]
