/// The pipeline on a small problem: what it finds, what it keeps, what it refuses.
module Sama.DataOptimization.Tests.CleaningTests

open System
open System.Collections.Generic
open System.IO
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws
open Sama.Tests.Watching

/// A linear classifier of points.
type private Linear(points: float32[][], classes: int) =
    interface IRowClassifier with
        member _.Classes = classes
        member _.Rows = points.Length
        member _.Rate = 2e-2

        member _.Start(_) : IReadOnlyList<struct (string * Tensor)> =
            [| struct ("w", torch.zeros (int64 classes, int64 points[0].Length))
               struct ("b", torch.zeros (int64 classes)) |]

        member _.Read(rows: int[]) : Tensor[] =
            [| torch.tensor(rows |> Array.collect (fun row -> points[row])).view (int64 rows.Length, -1L) |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], _) : Tensor =
            torch.nn.functional.log_softmax (torch.nn.functional.linear (inputs[0], theta["w"], theta["b"]), 1L)

        member _.Dispose() = ()

/// 200 rows of three classes, 30 % flipped, 18 clean ones, 50 to predict; votes are of three rules.
type private Problem(seed: int) =
    let random = Random seed
    let truths = Array.init 268 (fun row -> row % 3)

    let points =
        truths
        |> Array.map (fun truth -> Array.init 4 (fun d -> float32 ((if d = truth then 3.0 else 0.0) + normal random)))

    let flipped = Array.init 200 (fun _ -> random.NextDouble() < 0.3)

    let labels =
        Array.map2 (fun truth flipped -> if flipped then (truth + 1) % 3 else truth) truths[..199] flipped

    let votes =
        truths
        |> Array.map (fun truth -> Array.init 3 (fun _ -> if random.NextDouble() < 0.7 then truth else random.Next 3))

    member _.Flipped = flipped
    member _.Truths = truths
    member _.Model() = new Linear(points, 3) :> IRowClassifier
    member _.Data = CleaningData(3, labels, truths[200..217], others = 50)

    member _.Voted =
        CleaningData(3, Array.create 200 -1, truths[200..217], votes[..199], votes[200..217], 50)

/// Rows of three classes whose labels are right, all alike, at random or of votes; few clean rows, of one class a single one.
let private drawnKinds seed : (string * (float32[][] * CleaningData)) list =
    let random = Random seed

    let kind name clean (label: int -> int) (vote: (int -> int) option) =
        let truths =
            Array.concat
                [ Array.init 150 (fun row -> row % 3)
                  clean
                  Array.init 100 (fun row -> row % 3) ]

        let points =
            truths
            |> Array.map (fun truth ->
                Array.init 5 (fun d -> float32 ((if d = truth then 2.0 else 0.0) + normal random)))

        let rows = 150 + clean.Length

        let data =
            match vote with
            | None -> CleaningData(3, Array.map label truths[..149], clean, others = 100, seed = seed)
            | Some vote ->
                let votes = Array.init rows (fun row -> Array.init 4 (fun _ -> vote truths[row]))
                CleaningData(3, Array.create 150 -1, clean, votes[..149], votes[150..], 100, seed = seed)

        name, (points, data)

    let few = [| 0; 0; 1; 1; 2 |]

    [ kind "right labels" few id None
      kind "labels at random" few (fun _ -> random.Next 3) None
      kind "one label alone" few (fun _ -> 1) None
      kind "perfect votes" few id (Some id)
      kind "votes at random" few id (Some(fun _ -> random.Next 3))
      kind "four clean rows of two classes" [| 0; 0; 1; 1 |] (fun truth -> if random.Next 3 = 0 then 2 else truth) None ]

let private options () =
    CleaningOptions(Steps = 120, TuningSteps = 30, Batch = 32)

let private withFolder (action: string -> unit) =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        action folder
    finally
        Directory.Delete(folder, true)

let tests =
    testList
        "cleaning"
        [ testCase "flipped labels are found and corrected; every way is judged on rows it has not seen"
          <| fun _ ->
              let problem = Problem 1
              let chosen = options ()
              chosen.TrainAll <- true
              use model = problem.Model()
              let result = DataCleaning.Run(model, problem.Data, chosen)
              let right = problem.Flipped |> Array.map not
              Expect.isGreaterThan (Ranking.Auroc(result.Rows |> Array.map _.Quality, right).Value) 0.9 "quality"
              Expect.isGreaterThan (Ranking.Auroc(result.Rows |> Array.map _.Weight, right).Value) 0.8 "weights"

              Expect.isGreaterThan
                  (Accuracy.Share(result.Rows |> Array.map _.Corrected, problem.Truths[..199]))
                  0.85
                  "corrected"

              Expect.equal (result.Candidates |> Array.map _.Name) (DataCleaning.Candidates false) "names"
              Expect.equal (result.Candidates |> Array.map _.HeldOut.Correct.Count |> Array.distinct) [| 18 |] "rows"
              Expect.equal (Array.length result.Predictions) 50 "predictions"
              Expect.isTrue (result.Candidates |> Array.forall (fun way -> way.Predictions.Length = 50)) "all"
              Expect.isTrue (result.Wrong |> Array.forall (fun row -> row.Corrected <> row.Label)) "wrong"

              Expect.sequenceEqual
                  (result.Wrong |> Array.map _.Quality)
                  (result.Wrong |> Array.map _.Quality |> Array.sort)
                  "sorted"

              Expect.stringContains result.Wrong[0].Why "instead of" "reason"

          testCase "votes stand for labels, and bring label models"
          <| fun _ ->
              let problem = Problem 2
              use model = problem.Model()
              let result = DataCleaning.Run(model, problem.Voted, options (), [| "a"; "b"; "c" |])
              Expect.equal (result.Candidates |> Array.map _.Name) (DataCleaning.Candidates true) "names"
              let before = Accuracy.Share(problem.Voted.Labels, problem.Truths[..199])

              let after =
                  Accuracy.Share(result.Rows |> Array.map _.Corrected, problem.Truths[..199])

              Expect.isGreaterThan after before "corrected"
              Expect.stringContains result.Rows[0].Why "votes" "reason"

          testCase "whatever is wrong with the labels, the choice is not far below the control"
          <| fun _ ->
              let gains =
                  [ for name, data in drawnKinds 1 do
                        use model: IRowClassifier = new Linear(fst data, 3)
                        let options = CleaningOptions(Steps = 60, TuningSteps = 30, TrainAll = true)
                        let result = DataCleaning.Run(model, snd data, options)
                        let truths = Array.init 100 (fun row -> row % 3)

                        let accuracy (predicted: float[][]) =
                            Accuracy.Share(Rows.Argmax predicted, truths)

                        let gain = accuracy result.Predictions - accuracy result.Candidates[0].Predictions
                        Expect.isGreaterThan gain -0.15 $"{name}: {gain}"
                        gain ]

              Expect.isGreaterThan (List.average gains) -0.02 $"mean of {gains}"

          testCase "fine-tuning is as long as the held-out rows say"
          <| fun _ ->
              let problem = Problem 5
              use model = problem.Model()

              let steps rate =
                  let only = options ()
                  only.Ways <- [| "noisy, then clean" |]
                  only.TuningRate <- Nullable rate
                  let mutable taken = 0

                  only.Progress <-
                      watching (fun at ->
                          if at.Stage = "noisy, then clean, all" then
                              taken <- at.Steps)

                  let result = DataCleaning.Run(model, problem.Data, only)
                  Expect.equal result.Candidates.Length 1 "the control alone"
                  taken

              Expect.contains [ 3; 10; 30 ] (steps 3.0) "a tenth, a third or all"
              Expect.equal (steps 1e-4) 30 "a rate that hardly moves it"

          testCase "the same seed gives the same; a cancelled run goes on to it, bit for bit"
          <| fun _ ->
              withFolder (fun folder ->
                  let problem = Problem 3
                  use model = problem.Model()
                  let whole = DataCleaning.Run(model, problem.Data, options ())
                  let stopped = options ()
                  use source = new CancellationTokenSource()
                  stopped.StateFolder <- folder
                  stopped.Cancellation <- source.Token

                  stopped.Progress <-
                      watching (fun at ->
                          if at.Done = 5 && at.Step = 60 then
                              source.Cancel())

                  Expect.throwsC (fun () -> DataCleaning.Run(model, problem.Data, stopped) |> ignore) (fun e ->
                      Expect.isTrue (e :? OperationCanceledException) $"{e}")

                  let again = options ()
                  again.StateFolder <- folder
                  let trained = HashSet()

                  again.Progress <- watching (fun at -> trained.Add at.Stage |> ignore)

                  let resumed = DataCleaning.Run(model, problem.Data, again)
                  Expect.isFalse (trained.Contains "noisy") "what was ended is not done again"
                  Expect.equal resumed.Theta whole.Theta "θ"
                  Expect.equal resumed.Rows whole.Rows "rows"
                  let other = options ()
                  other.StateFolder <- folder
                  other.Seed <- 7

                  refused<InvalidOperationException> [ folder; "other options" ] (fun () ->
                      DataCleaning.Run(model, problem.Data, other) |> ignore))

          testCase "the average is that of four trainings' parameters"
          <| fun _ ->
              withFolder (fun folder ->
                  use _ = torch.NewDisposeScope()
                  let problem = Problem 6
                  let chosen = options ()
                  chosen.StateFolder <- folder
                  chosen.TrainAll <- true
                  chosen.Ways <- [| "average" |]
                  use model = problem.Model()
                  let result = DataCleaning.Run(model, problem.Data, chosen)

                  Expect.equal
                      (result.Candidates |> Array.map _.Name)
                      [| "noisy, then clean"; "average" |]
                      "considered"

                  // θ, and behind it λ where there is one
                  let stored (name: string) =
                      let bytes = File.ReadAllBytes(Path.Combine(folder, name + ".f32"))
                      Array.init (int result.Layout.Length) (fun i -> float (BitConverter.ToSingle(bytes, 4 * i)))

                  let mean =
                      [ "noisy"; "confident-learning"; "SAMA-weights--all"; "SAMA-correction--all" ]
                      |> List.map stored
                      |> List.reduce (Array.map2 (+))
                      |> Array.map (fun sum -> float32 (sum / 4.0))

                  let theta = Sama.Functional.Params.frozen result.Layout (torch.tensor mean)

                  let expected =
                      Rows.FromTensor((model.LogProbabilities(theta, model.Read [| 218..267 |], false)).exp ())

                  Array.iter2
                      (Array.iter2 (fun found expected -> Expect.isLessThan (abs (found - expected)) 1e-5 "mean"))
                      result.Candidates[1].Predictions
                      expected)

          testCase "misuse is named"
          <| fun _ ->
              let problem = Problem 4
              use model = problem.Model()

              refused<ArgumentException> [ "268"; "218" ] (fun () ->
                  DataCleaning.Run(model, CleaningData(3, problem.Data.Labels, problem.Data.CleanLabels))
                  |> ignore)

              refused<ArgumentException> [ "row 1"; "neither a label nor a vote" ] (fun () ->
                  CleaningData(2, [| 0; -1 |], [| 0; 1; 0; 1 |]) |> ignore)

              refused<ArgumentException> [ "one class" ] (fun () ->
                  CleaningData(2, [| 0; 1 |], [| 1; 1; 1; 1 |]) |> ignore)

              refused<ArgumentException> [ "Unroll" ] (fun () ->
                  DataCleaning.Run(model, problem.Data, CleaningOptions(Unroll = 0)) |> ignore) ]
