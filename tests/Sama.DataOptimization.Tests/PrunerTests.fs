/// Scores through a classifier, against plain references; trainings, by what the classifier was shown.
module Sama.DataOptimization.Tests.PrunerTests

open System
open System.Collections.Generic
open System.IO
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private classes, width, hidden = 3, 4, 5

/// A tanh net in float64 that starts at the same values always, and keeps what it was trained on: rows and
/// log-probabilities, step by step.
type private Net(points: float[][], seed: int) =
    let read = Queue<int[]>()

    let parameters =
        let random = Random seed

        let draw (shape: int64[]) =
            shape, Array.init (int (Array.fold (*) 1L shape)) (fun _ -> normal random)

        [ "w1", draw [| int64 hidden; int64 width |]
          "b1", draw [| int64 hidden |]
          "w2", draw [| int64 classes; int64 hidden |]
          "b2", draw [| int64 classes |] ]

    let features (theta: Params) (x: Tensor) =
        torch.tanh (torch.nn.functional.linear (x, theta["w1"], theta["b1"]))

    member val Trained = ResizeArray<int[] * float[][]>()

    /// A parameter's start, as rows.
    member _.Start(name: string) : float[][] =
        let shape, values = List.find (fst >> (=) name) parameters |> snd
        Array.chunkBySize (int (Array.last shape)) values

    interface IRowClassifier with
        member _.Classes = classes
        member _.Rows = points.Length
        member _.Rate = 2e-2

        member _.Start(_) : IReadOnlyList<struct (string * Tensor)> =
            [| for name, (shape, values) in parameters ->
                   struct (name, torch.tensor(values, dtype = torch.float64).reshape shape) |]

        member _.Read(rows: int[]) : Tensor[] =
            read.Clear()
            read.Enqueue rows

            [| torch
                   .tensor(rows |> Array.collect (fun row -> points[row]), dtype = torch.float64)
                   .view (int64 rows.Length, -1L) |]

        member net.LogProbabilities(theta: Params, inputs: Tensor[], training: bool) : Tensor =
            let log =
                torch.nn.functional.log_softmax (
                    torch.nn.functional.linear (features theta inputs[0], theta["w2"], theta["b2"]),
                    1L
                )

            if training then
                net.Trained.Add((Seq.head read, Rows.FromTensor log))

            log

        member _.Dispose() = ()

/// The same where its last layer is told.
type private Headed(points: float[][], seed: int) =
    inherit Net(points, seed)

    interface ILinearHead with
        member _.Features(theta: Params, inputs: Tensor[]) : Tensor =
            torch.tanh (torch.nn.functional.linear (inputs[0], theta["w1"], theta["b1"]))

        member _.HeadWeight = "w2"
        member _.HeadBias = true

/// Points of three classes around their own corners, and their labels.
let private drawn (seed: int) (count: int) =
    let random = Random seed
    let labels = Array.init count (fun row -> row % classes)

    labels,
    labels
    |> Array.map (fun label -> Array.init width (fun d -> (if d = label then 2.5 else 0.0) + normal random))

/// No step moves anything: θ is the start.
let private still () =
    PruningOptions(Rate = Nullable 1e-30, Epochs = 2, Batch = 8, SearchShare = 0.5)

let private norm (values: float[]) =
    sqrt (Array.sumBy (fun v -> v * v) values)

/// Features, probabilities and logits at the start, by loops.
let private forward (net: Net) (points: float[][]) =
    let dot (a: float[]) (b: float[]) =
        Array.fold2 (fun sum a b -> sum + a * b) 0.0 a b

    let b1, b2 = (net.Start "b1")[0], (net.Start "b2")[0]

    let h =
        points
        |> Array.map (fun x -> Array.map2 (fun w b -> tanh (dot w x + b)) (net.Start "w1") b1)

    let z =
        h
        |> Array.map (fun h -> Array.map2 (fun w b -> dot w h + b) (net.Start "w2") b2)

    h, z, Rows.Softmax z

let private near (actual: float[]) (expected: float[]) what =
    // what a stage gives is kept in float32
    Array.iteri2
        (fun i a e -> Expect.floatClose { absolute = 1e-6; relative = 1e-6 } a e $"{what} [{i}]")
        actual
        expected

let private withFolder (action: string -> unit) =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        action folder
    finally
        Directory.Delete(folder, true)

let private references =
    testList
        "references"
        [ property "EL2N, GraNd of the last layer and of all, and margins of a classifier are the plain formulas"
          <| fun seed ->
              let labels, points = drawn seed 20
              use net = new Headed(points, seed)
              use bare = new Net(points, seed)
              let h, z, p = forward net points

              let error =
                  Array.map2
                      (fun (p: float[]) y -> norm (Array.mapi (fun c p -> if c = y then p - 1.0 else p) p))
                      p
                      labels

              use pruner = new Pruner(net, labels, options = still ())
              near (pruner.Score "el2n-2").Scores error "el2n"
              let last = Array.map2 (fun e h -> e * sqrt (norm h ** 2.0 + 1.0)) error h
              near (pruner.Score "grand-1").Scores last "last layer"

              // the whole gradient by backpropagation by hand
              let w2 = net.Start "w2"

              let whole =
                  Array.init 20 (fun row ->
                      let d = p[row] |> Array.mapi (fun c p -> if c = labels[row] then p - 1.0 else p)

                      let back =
                          Array.init hidden (fun j ->
                              Array.sum (Array.mapi (fun c d -> d * w2[c][j]) d) * (1.0 - h[row][j] ** 2.0))

                      sqrt (last[row] ** 2.0 + norm back ** 2.0 * (norm points[row] ** 2.0 + 1.0)))

              use plain = new Pruner(bare, labels, options = still ())
              near (plain.Score "grand-1").Scores whole "whole"

              let margin =
                  Array.init 20 (fun row ->
                      let y = labels[row]

                      List.min
                          [ for c in 0 .. classes - 1 do
                                if c <> y then
                                    (z[row][y] - z[row][c]) / norm (Array.map2 (-) w2[y] w2[c]) ])

              near (pruner.Score "margin").Scores margin "margin"

          property "forgetting and the area under the margin are what was shown in training says"
          <| fun seed ->
              let labels, points = drawn seed 20
              use net = new Net(points, seed)

              use pruner =
                  new Pruner(net, labels, options = PruningOptions(Epochs = 6, Batch = 8, Seed = seed))

              let forgetting, under =
                  (pruner.Score "forgetting").Scores, (pruner.Score "aum").Scores
              // 6 epochs of 3 batches
              Expect.equal net.Trained.Count 18 "one training for both"

              for row in 0..19 do
                  let shown =
                      [ for rows, log in net.Trained do
                            for i in 0 .. rows.Length - 1 do
                                if rows[i] = row then
                                    log[i] ]

                  let y = labels[row]

                  let others (z: float[]) =
                      List.max
                          [ for c in 0..2 do
                                if c <> y then
                                    z[c] ]

                  let right = shown |> List.map (fun z -> z[y] > others z)

                  let times =
                      right |> List.pairwise |> List.filter (fun (a, b) -> a && not b) |> List.length

                  Expect.equal forgetting[row] (if List.contains true right then float times else infinity) "forgetting"
                  near [| under[row] |] [| shown |> List.averageBy (fun z -> z[y] - others z) |] "margin"

          property "norms of gradients by row are autograd's of each row's loss"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let random = Random seed

              let x =
                  torch.tensor(Array.init 12 (fun _ -> normal random), dtype = torch.float64).view (4L, 3L)

              let theta =
                  torch.tensor (Array.init 3 (fun _ -> normal random), dtype = torch.float64)

              let layout = Sama.Functional.Layout.create [ "w", [| 3L |] ]
              // ½ (x·w)²: the gradient is (x·w) x
              let norms =
                  GradientNorms.ByRow(layout, theta, 4, fun w row -> (x[int64 row].dot w["w"]).square () * 0.5)

              let rows, w = Rows.FromTensor x, Rows.Vector theta
              closeAll norms (rows |> Array.map (fun x -> abs (Array.sum (Array.map2 (*) x w)) * norm x)) "norm" ]

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
                      { new IProgress<StageProgress> with
                          member _.Report at =
                              if at.Done >= 2 then
                                  source.Cancel() }

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

let tests = testList "pruner" [ references; trainings; state ]
