module Sama.DataOptimization.Tests.JudgementTests

open System
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

/// Every pair of a positive and a negative row, ties half.
let private pairwise (scores: float[]) (positive: bool[]) =
    let pairs =
        [ for i in 0 .. scores.Length - 1 do
              for j in 0 .. scores.Length - 1 do
                  if positive[i] && not positive[j] then
                      if scores[i] > scores[j] then 1.0
                      elif scores[i] = scores[j] then 0.5
                      else 0.0 ]

    List.average pairs

/// Precision at the threshold of each positive row, averaged over the positive rows.
let private precisionAtPositives (scores: float[]) (positive: bool[]) =
    [ for i in 0 .. scores.Length - 1 do
          if positive[i] then
              let above =
                  [ for j in 0 .. scores.Length - 1 do
                        if scores[j] >= scores[i] then
                            positive[j] ]

              float (above |> List.filter id |> List.length) / float above.Length ]
    |> List.average

let private ranked seed =
    let random = Random seed
    let rows = random.Next(2, 30)
    // few values: many ties
    let scores = Array.init rows (fun _ -> float (random.Next 6))
    let positive = Array.init rows (fun row -> row = 0 || row > 1 && random.Next 2 = 0)
    scores, positive

let private ranking =
    testList
        "ranking"
        [ property "AUROC is the share of pairs won, ties half"
          <| fun seed ->
              let scores, positive = ranked seed
              close (Ranking.Auroc(scores, positive)).Value (pairwise scores positive) "auroc"

          property "AUROC of opposite scores is 1 − AUROC, and infinite scores are ordinary"
          <| fun seed ->
              let scores, positive = ranked seed
              scores[0] <- infinity
              let negated = Array.map (~-) scores

              close (Ranking.Auroc(negated, positive)).Value (1.0 - (Ranking.Auroc(scores, positive)).Value) "negated"

          property "average precision is the mean precision at the positive rows"
          <| fun seed ->
              let scores, positive = ranked seed
              close (Ranking.AveragePrecision(scores, positive)).Value (precisionAtPositives scores positive) "ap"

          testCase "one kind of row has no AUROC; without a positive row there is no average precision"
          <| fun _ ->
              Expect.isFalse (Ranking.Auroc([| 1.0; 2.0 |], [| true; true |])).HasValue "auroc"
              Expect.isFalse (Ranking.AveragePrecision([| 1.0 |], [| false |])).HasValue "ap"

              refused<ArgumentException> [ "row 1" ] (fun () ->
                  Ranking.Auroc([| 1.0; nan |], [| true; false |]) |> ignore) ]

let private accuracy =
    testList
        "accuracy and calibration"
        [ testCase "share, macro-F1 and confusion by hand"
          <| fun _ ->
              let labels = [| 0; 0; 0; 1; 1; 2 |]
              let predicted = [| 0; 0; 1; 1; 2; 0 |]
              close (Accuracy.Share(predicted, labels)) 0.5 "share"
              // class 0: tp 2, fp 1, fn 1; class 1: tp 1, fp 1, fn 1; class 2: tp 0
              close (Accuracy.MacroF1(predicted, labels)) ((4.0 / 6.0 + 2.0 / 4.0 + 0.0) / 3.0) "f1"

              Expect.equal
                  (Accuracy.Confusion(predicted, labels, 3))
                  (array2D [ [ 2; 1; 0 ]; [ 0; 1; 1 ]; [ 1; 0; 0 ] ])
                  "counts"

          property "the calibration bins hold every row, in the bin of its confidence"
          <| fun seed ->
              let random = Random seed
              let p = probabilities random 40 3 2.0
              let y = labels random 40 3
              let bins = Calibration.Bins(p, y, 7)
              Expect.equal (bins |> Array.sumBy _.Count) 40 "rows"

              for bin in bins do
                  if bin.Count > 0 then
                      Expect.isTrue (bin.Confidence > bin.Low && bin.Confidence <= bin.High) "mean inside"

              let expected =
                  bins
                  |> Array.sumBy (fun bin -> float bin.Count / 40.0 * abs (bin.Accuracy - bin.Confidence))

              close (Calibration.ExpectedError(p, y, 7)) expected "ece"

          testCase "a probability at the end of a bin is in that bin, of every number of bins"
          <| fun _ ->
              for count in 1..60 do
                  for at in (count + 1) / 2 .. count do
                      let edge = float at / float count
                      let bins = Calibration.Bins([| [| edge; 1.0 - edge |] |], [| 0 |], count)
                      Expect.equal (Array.findIndex (fun bin -> bin.Count = 1) bins) (at - 1) $"{at} of {count}"

          testCase "ECE, Brier and log-loss by hand"
          <| fun _ ->
              let p = [| [| 0.9; 0.1 |]; [| 0.9; 0.1 |]; [| 0.3; 0.7 |]; [| 0.0; 1.0 |] |]
              let y = [| 0; 1; 1; 0 |]
              // bins of .9 (one of two right), .7 (right), 1 (wrong)
              close (Calibration.ExpectedError(p, y, 10)) (0.5 * 0.4 + 0.25 * 0.3 + 0.25 * 1.0) "ece"
              close (Calibration.Brier(p, y)) ((0.02 + 1.62 + 0.18 + 2.0) / 4.0) "brier"
              closeAll (Calibration.LogLosses(p, y, 1e-3)) [| -log 0.9; -log 0.1; -log 0.7; -log 1e-3 |] "log-loss"

          property "calibrated losses: each row's at the temperature of the likeliest for the others"
          <| fun seed ->
              let random = Random seed
              let p = probabilities random 12 3 2.0
              let y = labels random 12 3

              let loss temperature row =
                  let powers = p[row] |> Array.map (fun p -> p ** (1.0 / temperature))
                  -log(powers[y[row]] / Array.sum powers)

              let best rows =
                  [ for step in -150 .. 150 -> exp (0.02 * float step) ]
                  |> List.minBy (fun t -> Seq.sumBy (loss t) rows + pown (log t / 0.7) 2 / 2.0)

              let others row = Seq.filter ((<>) row) (seq { 0..11 })

              closeAll
                  (Calibration.CalibratedLosses(p, y))
                  (Array.init 12 (fun row -> min (-log 1e-4) (loss (best (others row)) row)))
                  "losses"

              close (Calibration.Temperature(p, y)) (best (seq { 0..11 })) "temperature"

          property "how sure a model is does not change its calibrated loss"
          <| fun seed ->
              let random = Random seed
              let p = probabilities random 150 3 2.0
              let y = p |> Array.map (category random)

              let losses power =
                  Calibration.CalibratedLosses(
                      p
                      |> Array.map (fun row ->
                          let powers = row |> Array.map (fun p -> p ** power)
                          let sum = Array.sum powers
                          powers |> Array.map (fun p -> p / sum)),
                      y
                  )
                  |> Array.average

              for power in [ 0.5; 2.0 ] do
                  Expect.isLessThan (abs (losses power - losses 1.0)) 0.01 $"power {power}"

          testCase "rows that are no probabilities are named"
          <| fun _ ->
              refused<ArgumentException> [ "row 1"; "sum" ] (fun () ->
                  Calibration.Brier([| [| 0.5; 0.5 |]; [| 0.5; 0.6 |] |], [| 0; 1 |]) |> ignore)

              refused<ArgumentException> [ "row 0"; "label 2" ] (fun () ->
                  Calibration.Brier([| [| 0.5; 0.5 |] |], [| 2 |]) |> ignore) ]

let private uncertainty =
    testList
        "uncertainty"
        [ property "effective sample size: equal weights count each, the scale does not matter, one weight counts one"
          <| fun seed ->
              let random = Random seed
              let w = Array.init (random.Next(1, 20)) (fun _ -> random.NextDouble() + 1e-3)
              let size = Uncertainty.EffectiveSampleSize w
              close size (pown (Array.sum w) 2 / Array.sumBy (fun w -> w * w) w) "formula"
              close (Uncertainty.EffectiveSampleSize(Array.map ((*) 1e-200) w)) size "scale"
              close (Uncertainty.EffectiveSampleSize(Array.create 7 0.3)) 7.0 "equal"
              close (Uncertainty.EffectiveSampleSize [| 0.0; 2.0; 0.0 |]) 1.0 "one"
              close (Uncertainty.EffectiveSampleSize [| 0.0 |]) 0.0 "none"

          testCase "the paired bootstrap interval has the length of the normal one, and the same seed gives the same"
          <| fun _ ->
              let random = Random 3
              let first = Array.init 400 (fun _ -> normal random)
              let second = first |> Array.map (fun x -> x - 0.1 + 0.5 * normal random)
              let interval = Uncertainty.PairedBootstrap(first, second, seed = 5)
              let d = Array.map2 (-) first second
              let mean = Array.average d
              let error = sqrt (Array.averageBy (fun x -> pown (x - mean) 2) d / 400.0)
              close interval.Mean mean "mean"

              Expect.floatClose
                  { absolute = 0.0; relative = 0.1 }
                  (interval.High - interval.Low)
                  (2.0 * 1.96 * error)
                  "length"

              Expect.equal (Uncertainty.PairedBootstrap(first, second, seed = 5)) interval "again"

          testCase "the t-interval over three seeds"
          <| fun _ ->
              let summary = Uncertainty.OverSeeds [| 1.0; 2.0; 3.0 |]
              close summary.StandardDeviation 1.0 "deviation"
              // t of 2 degrees of freedom at 97.5 % is 4.302653
              Expect.floatClose
                  { absolute = 1e-7; relative = 1e-7 }
                  (summary.High - 2.0)
                  (4.30265273 / sqrt 3.0)
                  "reach"

              Expect.isTrue (Double.IsNaN (Uncertainty.OverSeeds [| 1.0 |]).Low) "one seed" ]

let private crossFit =
    testList
        "cross-fit"
        [ property "folds are stratified: sizes, and sizes within each class, differ by at most one"
          <| fun seed ->
              let random = Random seed
              let folds = random.Next(2, 6)
              let y = labels random (random.Next(folds, 60)) 3
              let fold = CrossFit.Folds(y, folds, seed)

              for part in
                  fold
                  :: [ for c in 0..2 ->
                           fold
                           |> Array.indexed
                           |> Array.filter (fun (row, _) -> y[row] = c)
                           |> Array.map snd ] do
                  let sizes = Array.init folds (fun f -> part |> Array.filter ((=) f) |> Array.length)
                  Expect.isTrue (Array.max sizes - Array.min sizes <= 1) $"{sizes}"

              Expect.equal (CrossFit.Folds(y, folds, seed)) fold "again"

          property "every row is predicted by a model that has not seen it"
          <| fun seed ->
              let random = Random seed
              let y = labels random 23 2

              let p =
                  CrossFit.OutOfFold(
                      y,
                      4,
                      (fun train predict ->
                          Expect.isEmpty (Set.intersect (Set.ofArray train) (Set.ofArray predict)) "apart"
                          Expect.equal (train.Length + predict.Length) 23 "all"
                          // a row's number as its prediction
                          predict
                          |> Array.map (fun row -> [| float row / 100.0; 1.0 - float row / 100.0 |])),
                      seed
                  )

              closeAll (p |> Array.map (fun p -> p[0])) [| for row in 0..22 -> float row / 100.0 |] "order"

          testCase "a delegate that gives the wrong rows is named"
          <| fun _ ->
              refused<InvalidOperationException> [ "trainPredict"; "fold 0" ] (fun () ->
                  CrossFit.OutOfFold([| 0; 1; 0; 1 |], 2, (fun _ _ -> [| [| 1.0; 0.0 |] |]))
                  |> ignore)

              refused<ArgumentException> [ "3 rows for 4 folds" ] (fun () -> CrossFit.Folds([| 0; 1; 1 |], 4) |> ignore) ]

let tests = testList "judgement" [ ranking; accuracy; uncertainty; crossFit ]
