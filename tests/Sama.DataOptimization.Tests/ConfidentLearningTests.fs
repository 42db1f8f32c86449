module Sama.DataOptimization.Tests.ConfidentLearningTests

open System
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

/// Noisy labels by a known matrix p(given | true), and probabilities p(true | x) of a model that is nearly sure of the
/// true class, so that the method's own conditions hold.
let private noisy seed rows (noise: float[][]) =
    let random = Random seed
    let classes = noise.Length
    let truth = labels random rows classes
    let given = truth |> Array.map (fun t -> category random noise[t])

    let p =
        truth
        |> Array.map (fun t ->
            let w =
                Array.init classes (fun c -> (if c = t then 8.0 else 0.5) + random.NextDouble())

            let sum = Array.sum w
            w |> Array.map (fun w -> w / sum))

    truth, given, p

let private noise =
    [| [| 0.8; 0.15; 0.05 |]; [| 0.1; 0.7; 0.2 |]; [| 0.0; 0.25; 0.75 |] |]

let tests =
    testList
        "confident learning"
        [ testCase "thresholds and the confident joint by hand"
          <| fun _ ->
              let p =
                  [| [| 0.9; 0.1 |]
                     [| 0.7; 0.3 |]
                     [| 0.2; 0.8 |]
                     [| 0.3; 0.7 |]
                     [| 0.85; 0.15 |]
                     [| 0.55; 0.45 |] |]

              let y = [| 0; 0; 0; 1; 1; 1 |]
              let found = ConfidentLearning.Estimate(p, y)
              closeAll found.Thresholds [| 0.6; 1.3 / 3.0 |] "means of own labels"
              // the last row is above the second threshold alone
              Expect.equal found.ConfidentJoint (array2D [ [ 2; 1 ]; [ 1; 2 ] ]) "joint"
              Expect.equal (found.Wrong(WrongRows.ConfidentJoint)) [| 4; 2 |] "wrong, the likeliest first"
              close (found.Quality()[4]) (0.15 - 0.85) "margin"
              close (found.Quality(LabelQuality.SelfConfidence)[4]) 0.15 "self-confidence"
              close found.NoiseRate (1.0 / 3.0) "noise"
              Expect.equal (found.Suggested[2], found.Suggested[4]) (1, 0) "suggested"

          property
              "the confident joint by plain loops; a row above several thresholds counts for its most probable class"
          <| fun seed ->
              let random = Random seed
              let p = probabilities random 40 4 0.5
              let y = labels random 40 4
              let found = ConfidentLearning.Estimate(p, y)
              let expected = Array2D.zeroCreate 4 4
              let mutable several = 0

              for row in 0..39 do
                  let above =
                      [ for j in 0..3 do
                            if p[row][j] >= found.Thresholds[j] then
                                j ]

                  if above.Length > 1 then
                      several <- several + 1

                  if not above.IsEmpty then
                      let j = List.maxBy (fun j -> p[row][j]) above
                      expected[y[row], j] <- expected[y[row], j] + 1

              Expect.equal found.ConfidentJoint expected "counts"
              Expect.isGreaterThan several 0 "collisions occur"

          property "the joint has the labels' shares, the noise matrix sums to 1 by true class"
          <| fun seed ->
              let random = Random seed
              let p = probabilities random 30 3 1.0
              let y = labels random 30 3
              let found = ConfidentLearning.Estimate(p, y)

              for i in 0..2 do
                  close (Array.sum found.Joint[i, *]) (float (y |> Array.filter ((=) i) |> Array.length) / 30.0) "row"
                  close (Array.sum found.NoiseMatrix[*, i]) 1.0 "column"

          testCase "a known noise matrix and every wrong label are found"
          <| fun _ ->
              let truth, given, p = noisy 4 6000 noise
              let found = ConfidentLearning.Estimate(p, given)

              for i in 0..2 do
                  for j in 0..2 do
                      Expect.isLessThan (abs (found.NoiseMatrix[i, j] - noise[j][i])) 0.03 $"given {i}, true {j}"

              let wrong =
                  [| for row in 0 .. truth.Length - 1 do
                         if truth[row] <> given[row] then
                             row |]

              Expect.equal (Array.sort (found.Wrong WrongRows.ConfidentJoint)) wrong "exact"

              let auroc =
                  Ranking.Auroc(found.Quality() |> Array.map (~-), Array.map2 (<>) truth given)

              Expect.isGreaterThan auroc.Value 0.999 "ranking"

          property "by class, by noise rate and their intersection have the sizes the joint asks for"
          <| fun seed ->
              let _, given, p = noisy seed 200 noise
              let found = ConfidentLearning.Estimate(p, given)
              let count x = int (round (200.0 * x))
              let joint = found.Joint
              let byClass = found.Wrong WrongRows.ByClass
              let byRate = found.Wrong WrongRows.ByNoiseRate

              let expected =
                  seq {
                      for i in 0..2 do
                          min
                              (count (
                                  Seq.sum (
                                      seq {
                                          for j in 0..2 do
                                              if j <> i then
                                                  joint[i, j]
                                      }
                                  )
                              ))
                              (given |> Array.filter ((=) i) |> Array.length)
                  }

              Expect.equal byClass.Length (Seq.sum expected) "by class"
              let both = found.Wrong()
              Expect.equal (Set.ofArray both) (Set.intersect (Set.ofArray byClass) (Set.ofArray byRate)) "both"
              let quality = found.Quality()
              Expect.equal (both |> Array.sortBy (fun row -> quality[row], row)) both "order"

          testCase "a class without rows, and constant probabilities, give no wrong rows and no exception"
          <| fun _ ->
              let found =
                  ConfidentLearning.Estimate(Array.create 5 [| 0.5; 0.3; 0.2 |], [| 0; 0; 0; 0; 1 |])

              Expect.isTrue (Double.IsPositiveInfinity found.Thresholds[2]) "threshold"
              closeAll found.NoiseMatrix[*, 2] [| 0.0; 0.0; 1.0 |] "identity"

          testCase "cross-fitted with a nearest-mean classifier it finds flipped labels of two clouds"
          <| fun _ ->
              let random = Random 8
              let truth = labels random 300 2
              let x = truth |> Array.map (fun t -> float t * 4.0 + normal random)

              let given =
                  truth |> Array.map (fun t -> if random.NextDouble() < 0.2 then 1 - t else t)

              let trainPredict (train: int[]) (predict: int[]) =
                  let mean c =
                      train
                      |> Array.filter (fun row -> given[row] = c)
                      |> Array.averageBy (fun row -> x[row])

                  let a, b = mean 0, mean 1

                  predict
                  |> Array.map (fun row ->
                      let odds = exp ((b - a) * (x[row] - (a + b) / 2.0))
                      [| 1.0 / (1.0 + odds); odds / (1.0 + odds) |])

              let found =
                  ConfidentLearning.Estimate(CrossFit.OutOfFold(given, 5, trainPredict), given)

              let wrong = Array.map2 (<>) truth given
              let flagged = found.Wrong()
              let right = flagged |> Array.filter (fun row -> wrong[row]) |> Array.length
              Expect.isGreaterThan (float right / float flagged.Length) 0.9 "precision"
              Expect.isGreaterThan (float right / float (wrong |> Array.filter id |> Array.length)) 0.85 "recall" ]
