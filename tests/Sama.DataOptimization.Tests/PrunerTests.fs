/// Trainings, by what the classifier was shown; SAMA's searches; resume.
module Sama.DataOptimization.Tests.PrunerTests

open System
open System.Collections.Generic
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws
open Sama.DataOptimization.Tests.PrunedNet
open Sama.Tests.Watching

let private trainings =
    testList
        "trainings"
        [ testCase "on kept rows: as many epochs as a full one, of these rows alone, each equally often"
          <| fun _ ->
              let labels, points = drawn 1 20
              use net = new Net(points, 1)

              use pruner =
                  new Pruner(net, labels, options = PruningOptions(Epochs = 4, Batch = 4))

              let kept = [| 1; 2; 3; 5; 8; 13; 14; 19 |]
              pruner.Train("kept", kept) |> ignore
              Expect.equal net.Trained.Count (pruner.StepsOf 8) "steps"

              let times =
                  net.Trained |> Seq.collect fst |> Seq.countBy id |> Array.ofSeq |> Array.sort

              Expect.equal times (kept |> Array.map (fun row -> row, 4)) "rows"
              net.Trained.Clear()
              pruner.Train("kept", kept) |> ignore
              Expect.equal net.Trained.Count 0 "once"
              pruner.Train("kept", kept[1..]) |> ignore
              Expect.isGreaterThan net.Trained.Count 0 "other rows of the same name are another training"

          testCase
              "DynaMS: after a tenth of the steps the rows nearest to the boundary alone; as many steps as the share gives"
          <| fun _ ->
              let labels, points = drawn 2 40
              use net = new Headed(points, 2)
              let options = still ()
              options.Epochs <- 10
              use pruner = new Pruner(net, labels, options = options)
              let near = Keep.ByScore((pruner.Score "margin").Scores, 0.5, false) |> Set.ofArray
              net.Trained.Clear()

              let struct (_, all, search) =
                  pruner.TrainDynamic("dynamic", DynamicPruning.DynaMs, 0.5)

              Expect.equal net.Trained.Count (pruner.StepsOf 20) "steps"
              Expect.isTrue (search >= 0.0 && search <= all) "seconds"
              // the first epoch is of all 40 rows in batches of 8
              Expect.equal
                  (net.Trained |> Seq.take 5 |> Seq.collect fst |> Seq.distinct |> Seq.length)
                  40
                  "all at first"

              for rows, _ in Seq.skip 5 net.Trained do
                  Expect.isTrue (rows |> Array.forall near.Contains) "near ones"

          testCase "InfoBatch: every row in the first epoch and the last eighth, the hard half always"
          <| fun _ ->
              let labels, points = drawn 3 40
              use net = new Net(points, 3)
              let options = still ()
              options.Epochs <- 40
              use pruner = new Pruner(net, labels, options = options)
              pruner.TrainDynamic("dynamic", DynamicPruning.InfoBatch, 1.0) |> ignore
              Expect.equal net.Trained.Count 200 "steps"
              let times = Array.zeroCreate<int> 40

              for rows, _ in Seq.take 175 net.Trained do
                  for row in rows do
                      times[row] <- times[row] + 1

              let _, _, p = forward net points
              let losses = Array.map2 (fun (p: float[]) y -> -log p[y]) p labels
              let mean = Array.average losses

              let hard, easy =
                  Array.indexed losses |> Array.partition (fun (_, loss) -> loss >= mean)

              let average rows =
                  rows |> Array.averageBy (fun (row, _) -> float times[row])

              Expect.isTrue
                  (hard |> Array.forall (fun (row, _) -> times[row] >= times[fst hard[0]] - 1))
                  "hard ones alike"

              let ratio = average easy / average hard
              Expect.isTrue (ratio > 0.4 && ratio < 0.62) $"easy ones half as often: {ratio}"

          testCase "InfoBatch by scores: rows of low scores half as often, whatever their losses"
          <| fun _ ->
              let labels, points = drawn 3 40
              use net = new Net(points, 3)
              let options = still ()
              options.Epochs <- 40
              use pruner = new Pruner(net, labels, options = options)
              let scores = Array.init 40 (fun row -> if row < 20 then 0.0 else 1.0)

              pruner.TrainDynamic("dynamic", DynamicPruning.InfoBatch, 1.0, scores = scores)
              |> ignore

              let times = net.Trained |> Seq.take 175 |> Seq.collect fst |> Seq.countBy id |> dict

              let average rows =
                  rows |> List.averageBy (fun row -> float times[row])

              let ratio = average [ 0..19 ] / average [ 20..39 ]
              Expect.isTrue (ratio > 0.4 && ratio < 0.6) $"{ratio}"

              refused<ArgumentException> [ "scores"; "3 entries" ] (fun () ->
                  pruner.TrainDynamic("d", DynamicPruning.InfoBatch, 1.0, scores = [| 1.0; 2.0; 3.0 |])
                  |> ignore)

          testCase "SAMA: wrong labels weigh less, with clean rows and one weight a row too; the net serves other data"
          <| fun _ ->
              let task seed =
                  let truths, points = drawn seed 330
                  let random = Random seed
                  let wrong = Array.init 330 (fun row -> row < 300 && random.NextDouble() < 0.2)
                  Array.map2 (fun truth wrong -> if wrong then (truth + 1) % 3 else truth) truths wrong, points, wrong

              let options () =
                  PruningOptions(Epochs = 40, Batch = 32, SearchShare = 0.5)

              let labels, points, wrong = task 4
              let rows = [| 0..299 |]
              use net = new Net(points, 4)

              let auroc (wrong: bool[]) (score: PruningScore) =
                  Ranking.Auroc(score.Scores, wrong[..299] |> Array.map not).Value

              use guided = new Pruner(net, labels, rows, [| 300..329 |], options ())
              let learned = guided.Score "sama"
              Expect.isGreaterThan (auroc wrong learned) 0.85 "net, clean rows"
              Expect.isTrue (learned.Scores |> Array.forall (fun w -> w > 0.0 && w < 1.0)) "weights"
              Expect.isGreaterThan (auroc wrong (guided.Score "sama-rows")) 0.75 "a weight a row, clean rows"
              // without clean rows the loss that is learned from is that of the wrong labels too
              use alone = new Pruner(net, labels, rows, options = options ())
              let own = alone.Score "sama"
              Expect.isTrue (own.Scores |> Array.forall (fun w -> w > 0.0 && w < 1.0)) "weights"
              Expect.isLessThan (auroc wrong own) (auroc wrong learned) "clean rows help"
              let others, places, flipped = task 5
              use other = new Net(places, 6)
              use elsewhere = new Pruner(other, others, rows, options = options ())
              Expect.isGreaterThan (auroc flipped (elsewhere.ScoreBy learned.Lambda)) 0.85 "on other data"
              refused<ArgumentException> [ "3 numbers" ] (fun () -> elsewhere.ScoreBy [| 1f; 2f; 3f |] |> ignore) ]

let private state =
    testList
        "state"
        [ testCase "stopped, then resumed: nothing is trained twice, the scores are those of one run"
          <| fun _ ->
              withFolder (fun folder ->
                  let labels, points = drawn 7 40

                  let options () =
                      PruningOptions(Epochs = 5, Batch = 8, SearchShare = 0.4)

                  let kept () =
                      let options = options ()
                      options.StateFolder <- folder
                      options

                  use whole = new Net(points, 7)
                  use straight = new Pruner(whole, labels, options = options ())

                  let expected =
                      [ for name in [ "el2n-3"; "sama"; "aum" ] -> (straight.Score name).Scores ]

                  use net = new Net(points, 7)
                  let stopped = kept ()
                  use source = new CancellationTokenSource()
                  stopped.Cancellation <- source.Token

                  stopped.Progress <-
                      watching (fun at ->
                          if at.Done >= 2 then
                              source.Cancel())

                  use first = new Pruner(net, labels, options = stopped)
                  Expect.throwsT<OperationCanceledException> (fun () -> first.Score "el2n-3" |> ignore) "stopped"
                  use again = new Pruner(net, labels, options = kept ())
                  let found = [ for name in [ "el2n-3"; "sama"; "aum" ] -> (again.Score name).Scores ]
                  Expect.equal found expected "scores"
                  let steps = net.Trained.Count
                  use third = new Pruner(net, labels, options = kept ())
                  Expect.equal (third.Score "sama").Scores expected[1] "kept"
                  Expect.equal net.Trained.Count steps "no training"
                  let other = kept ()
                  other.Seed <- 1

                  refused<InvalidOperationException> [ folder; "other" ] (fun () ->
                      new Pruner(net, labels, options = other) |> ignore))

          testCase "misuse is named"
          <| fun _ ->
              let labels, points = drawn 8 12
              use net = new Net(points, 8)
              let make rows = new Pruner(net, labels, rows) |> ignore
              refused<ArgumentException> [ "one class"; "0" ] (fun () -> new Pruner(net, Array.create 12 0) |> ignore)
              refused<ArgumentException> [ "row 12" ] (fun () -> make [| 0; 1; 12 |])
              refused<ArgumentException> [ "twice" ] (fun () -> make [| 0; 1; 1 |])
              refused<ArgumentException> [ "labels" ] (fun () -> new Pruner(net, labels[..3]) |> ignore)

              refused<ArgumentException> [ "SearchShare" ] (fun () ->
                  new Pruner(net, labels, options = PruningOptions(SearchShare = 0.0)) |> ignore)

              use pruner = new Pruner(net, labels)

              for name in [ "el2n"; "el2n-0"; "nothing"; "grand-x"; "" ] do
                  Expect.isFalse (PruningMethod.IsKnown name) name
                  refused<ArgumentException> [ $"'{name}'"; "sama" ] (fun () -> pruner.Score name |> ignore)

              refused<InvalidOperationException> [ "ILinearHead" ] (fun () -> pruner.Score "margin" |> ignore)

              refused<ArgumentException> [ "share" ] (fun () ->
                  pruner.TrainDynamic("d", DynamicPruning.InfoBatch, 1.5) |> ignore) ]

let tests = testList "pruner" [ trainings; state ]
