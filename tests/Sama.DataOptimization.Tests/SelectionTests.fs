module Sama.DataOptimization.Tests.SelectionTests

open System
open Expecto
open MathNet.Numerics.Distributions
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private from name (right: string) =
    Candidate.FromCorrect(name, [| for c in right -> c = '1' |])

let private plain =
    SelectionOptions(ExpectedGain = Nullable 0.0, GainSpread = Nullable infinity)

/// Candidates whose true accuracies are drawn around the control's, on rows of shared difficulty (their latent scores
/// correlate by .7): mean true gain of a rule over always taking the control, in points, and its standard error.
let private simulate rows others mean spread (rule: Candidate[] -> int) =
    let random = Random 11
    let trials = 3000

    let gains =
        Array.init trials (fun _ ->
            let truth =
                Array.init (others + 1) (fun k ->
                    if k = 0 then
                        0.8
                    else
                        Math.Clamp(0.8 + mean + spread * normal random, 0.01, 0.99))

            let thresholds = truth |> Array.map (fun a -> Normal.InvCDF(0.0, 1.0, a))

            let right =
                Array.init rows (fun _ ->
                    let shared = sqrt 0.7 * normal random
                    thresholds |> Array.map (fun t -> shared + sqrt 0.3 * normal random < t))

            let candidates =
                Array.init (others + 1) (fun k ->
                    Candidate.FromCorrect($"{k}", right |> Array.map (fun row -> row[k])))

            100.0 * (truth[rule candidates] - truth[0]))

    let average = Array.average gains
    average, sqrt (Array.averageBy (fun g -> pown (g - average) 2) gains / float trials)

let private chosen (options: SelectionOptions) candidates =
    Selection.Choose(candidates, options).Index

let private highest (candidates: Candidate[]) =
    candidates
    |> Array.indexed
    |> Array.maxBy (fun (k, candidate) -> Seq.average candidate.Correct, -k)
    |> fst

let tests =
    testList
        "selection"
        [ testCase "the simpler one is taken while the best is within one standard error, by hand"
          <| fun _ ->
              // the best is right on one row more: difference 1/21, variance (1 + 1 − 1/21)/21/21
              let one =
                  [| from "simple" "11110000001111000000"; from "best" "11111000001111000000" |]

              let choice = Selection.Choose(one, plain)
              Expect.equal choice.Name "simple" "one row more"
              close choice.Table[0].Behind (1.0 / 21.0) "difference"
              close choice.Table[0].BehindError (sqrt ((2.0 - 1.0 / 21.0) / 21.0 / 21.0)) "error"

              let many =
                  [| from "simple" "11110000001111000000"; from "best" "11111111111111000000" |]

              Expect.equal (Selection.Choose(many, plain)).Name "best" "six rows more"
              // as many rows more in the sum, but six won and five lost
              let mixed =
                  [| from "simple" "11111111111000000000"; from "best" "11111100000111111000" |]

              Expect.equal (Selection.Choose(mixed, plain)).Name "simple" "mixed"

          testCase "of the trusted the best is taken; the others have to be ahead of it"
          <| fun _ ->
              let right n = String('1', n) + String('0', 60 - n)

              let options trusted =
                  SelectionOptions(Trusted = trusted, StandardErrors = 2.0, ExpectedGain = Nullable 0.0)

              let choose trusted rights =
                  let candidates = rights |> List.mapi (fun i n -> from $"{i}" (right n))
                  (Selection.Choose(candidates, options trusted)).Name

              Expect.equal (choose 1 [ 30; 32; 31 ]) "0" "not ahead"
              Expect.equal (choose 2 [ 30; 32; 31 ]) "1" "trusted"
              Expect.equal (choose 2 [ 32; 30; 31 ]) "0" "the first of them"
              Expect.equal (choose 2 [ 30; 32; 33 ]) "1" "not ahead of the best of them"
              Expect.equal (choose 2 [ 30; 32; 45 ]) "2" "ahead"
              Expect.equal (choose 9 [ 30; 32; 33 ]) "2" "all"

              refused<ArgumentException> [ "Trusted"; "0 candidates" ] (fun () -> choose 0 [ 30; 32 ] |> ignore)

          testCase "what is expected of the trusted before decides between equals, and gives way to rows"
          <| fun _ ->
              let right n = String('1', n) + String('0', 60 - n)

              let choose gain rights =
                  let candidates = rights |> List.mapi (fun i n -> from $"{i}" (right n))

                  let options =
                      SelectionOptions(Trusted = 2, StandardErrors = 2.0, TrustedGain = Nullable gain)

                  (Selection.Choose(candidates, options)).Name

              Expect.equal (choose 0.02 [ 30; 30; 30 ]) "1" "equal"
              Expect.equal (choose 0.06 [ 30; 29; 31 ]) "1" "a row less"
              Expect.equal (choose 0.02 [ 30; 20; 30 ]) "0" "ten rows less"
              Expect.equal (choose -0.06 [ 30; 31; 30 ]) "0" "a loss is expected"
              Expect.equal (choose 0.02 [ 30; 30; 50 ]) "2" "ahead"
              refused<ArgumentException> [ "TrustedGain" ] (fun () -> choose nan [ 30; 30 ] |> ignore)

          testCase "of those ahead of the control the best is taken, whatever its place"
          <| fun _ ->
              let right n = String('1', n) + String('0', 60 - n)

              let three =
                  [| from "control" (right 20); from "good" (right 50); from "best" (right 55) |]

              Expect.equal (Selection.Choose three).Name "best" "last"
              Expect.equal (Selection.Choose [| three[0]; three[2]; three[1] |]).Name "best" "middle"

          testCase "equal candidates: the first; the control of equal rows is never left for nothing"
          <| fun _ ->
              let same = [| from "a" "1100"; from "b" "1100"; from "c" "0011" |]
              Expect.equal (Selection.Choose same).Name "a" "default"
              Expect.equal (Selection.Choose(same, SelectionOptions(StandardErrors = 0.0))).Name "a" "no error"

          testCase "every line of the table says why, one is chosen"
          <| fun _ ->
              let choice =
                  Selection.Choose(
                      [| from "control" (String('1', 30) + String('0', 30))
                         from "worse" (String('1', 20) + String('0', 40))
                         from "better" (String('1', 58) + "00") |]
                  )

              Expect.equal choice.Name "better" "name"
              Expect.equal (choice.Table |> Array.filter _.Chosen |> Array.map _.Name) [| "better" |] "one"
              Expect.isTrue (choice.Table |> Array.forall (fun line -> line.Reason.Length > 10)) "reasons"
              Expect.isTrue (choice.Table[1].ExpectedGain < 0.0) "worse"
              Expect.equal (choice.Table[0].GainError, choice.Table[2].BehindError) (0.0, 0.0) "of itself"
              Expect.isTrue (choice.Table[2].ExpectedGain < choice.Table[2].Gain) "drawn towards the expectation"

          testCase "log-loss tells candidates of equal accuracy apart"
          <| fun _ ->
              let y = Array.init 40 (fun row -> row % 2)

              let sure certainty row =
                  if y[row] = 0 then
                      [| certainty; 1.0 - certainty |]
                  else
                      [| 1.0 - certainty; certainty |]

              let candidate name (certainty: int -> float) =
                  Candidate.FromProbabilities(name, Array.init 40 (fun row -> sure (certainty row) row), y)

              let two =
                  [| candidate "dull" (fun row -> 0.55 + 0.001 * float (row % 3))
                     candidate "sharp" (fun row -> 0.9 + 0.001 * float (row % 5)) |]

              Expect.equal (Selection.Choose two).Name "dull" "accuracy"

              Expect.equal
                  (Selection.Choose(two, SelectionOptions(Criterion = Criterion.LogLoss))).Name
                  "sharp"
                  "log-loss"

              let choice = Selection.Choose(two, SelectionOptions(Criterion = Criterion.LogLoss))
              close choice.Table[1].LogLoss.Value (Seq.average two[1].LogLoss) "log-loss"

          testCase "with both criteria a simpler candidate of much worse log-loss is left"
          <| fun _ ->
              let y = Array.create 40 0

              let rows (p: int -> float) =
                  Array.init 40 (fun row -> [| p row; 1.0 - p row |])
              // the second is right on two rows more, and far surer of the rest
              let dull =
                  Candidate.FromProbabilities("dull", rows (fun row -> if row < 10 then 0.4 else 0.51), y)

              let sharp =
                  Candidate.FromProbabilities("sharp", rows (fun row -> if row < 9 then 0.45 else 0.95), y)

              let options criterion =
                  SelectionOptions(Criterion = criterion, ExpectedGain = Nullable 0.0, GainSpread = Nullable 0.1)

              Expect.equal (Selection.Choose([| dull; sharp |], options Criterion.Accuracy)).Name "dull" "accuracy"
              Expect.equal (Selection.Choose([| dull; sharp |], options Criterion.Both)).Name "sharp" "both"

          testCase "folds are pooled, repeats averaged, a missing row named"
          <| fun _ ->
              let y = [| 0; 1; 0; 1 |]

              let part rows (p: float list) =
                  { Rows = rows
                    Probabilities = [| for p in p -> [| p; 1.0 - p |] |] }

              let pooled =
                  Candidate.Pooled(
                      "x",
                      [| part [| 2; 0 |] [ 0.9; 0.2 ]
                         part [| 1; 3 |] [ 0.1; 0.8 ]
                         part [| 0; 1; 2; 3 |] [ 0.9; 0.2; 0.8; 0.7 ] |],
                      y
                  )

              closeAll (Array.ofSeq pooled.Correct) [| 0.5; 1.0; 1.0; 0.0 |] "right"
              close pooled.LogLoss[0] (-(log 0.2 + log 0.9) / 2.0) "log-loss"

              closeAll pooled.Probabilities[0] [| 0.55; 0.45 |] "probabilities"

              closeAll
                  (Array.ofSeq (pooled.Calibrated y).LogLoss)
                  (Calibration.CalibratedLosses(Array.ofSeq pooled.Probabilities, y))
                  "calibrated"

              refused<InvalidOperationException> [ "x has no probabilities" ] (fun () ->
                  (from "x" "1010").Calibrated y |> ignore)

              refused<ArgumentException> [ "row 3"; "0 times" ] (fun () ->
                  Candidate.Pooled("x", [| part [| 0; 1; 2 |] [ 0.9; 0.2; 0.3 ] |], y) |> ignore)

          testCase "misuse is named"
          <| fun _ ->
              refused<ArgumentException> [ "b has 3"; "a has 4" ] (fun () ->
                  Selection.Choose [| from "a" "1100"; from "b" "110" |] |> ignore)

              refused<ArgumentException> [ "two candidates are called a" ] (fun () ->
                  Selection.Choose [| from "a" "1100"; from "a" "1101" |] |> ignore)

              refused<ArgumentException> [ "no log-loss" ] (fun () ->
                  Selection.Choose([| from "a" "1100" |], SelectionOptions(Criterion = Criterion.LogLoss))
                  |> ignore)

          for rows in [ 15; 20; 30; 60 ] do
              testCase $"where methods harm, {rows} rows: no worse than always the control; the highest score is"
              <| fun _ ->
                  for others in [ 2; 5; 8 ] do
                      for mean, spread in [ -0.05, 0.05; -0.03, 0.03; -0.03, 0.04; -0.02, 0.03 ] do
                          let gain, error = simulate rows others mean spread (chosen (SelectionOptions()))

                          Expect.isGreaterThan
                              gain
                              (-0.1 - 2.0 * error)
                              $"{others} others, gains of {mean} ± {spread}: {gain} ± {error} points"

                  let gain, error = simulate rows 2 -0.03 0.03 highest
                  Expect.isLessThan gain (-2.0 * error) $"the highest score: {gain} ± {error}"

          testCase "where gains are as expected before, the rule does not lose and more rows gain more"
          <| fun _ ->
              let gain rows =
                  simulate rows 5 -0.02 0.03 (chosen (SelectionOptions()))

              let few, fewError = gain 20
              let many, manyError = gain 120
              Expect.isGreaterThan few (-2.0 * fewError) $"20 rows: {few} ± {fewError}"
              Expect.isGreaterThan many (3.0 * manyError) $"120 rows: {many} ± {manyError}"

          testCase "who expects more of methods gains more where they are better"
          <| fun _ ->
              let hopeful =
                  SelectionOptions(StandardErrors = 0.0, ExpectedGain = Nullable 0.02, GainSpread = Nullable 0.05)

              let careful, error = simulate 30 5 0.02 0.05 (chosen (SelectionOptions()))
              let more, moreError = simulate 30 5 0.02 0.05 (chosen hopeful)
              Expect.isGreaterThan careful (3.0 * error) $"careful: {careful} ± {error}"
              Expect.isGreaterThan more (careful + 3.0 * moreError) $"hopeful: {more} ± {moreError}" ]
