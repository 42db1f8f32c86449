/// Which rows of an order are kept: by the method's name, or judged by short trainings.
module Sama.DataOptimization.Tests.JudgedTests

open System
open System.Threading
open Expecto
open Sama
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws
open Sama.DataOptimization.Tests.PrunedNet
open Sama.Tests.Watching

let private options () =
    PruningOptions(Epochs = 40, Batch = 16, SearchShare = 0.6, JudgeShare = 0.05)

/// Where labels are wrong at 30 % of the rows, and 60 clean ones tell, those of large errors are the wrong ones.
let private easyIsBetter (seed: int) =
    let truths, points = drawn seed 300
    let random = Random seed

    let labels =
        truths
        |> Array.mapi (fun row truth ->
            if row < 240 && random.NextDouble() < 0.3 then
                (truth + 1) % classes
            else
                truth)

    labels, points, [| 0..239 |], [| 240..299 |]

/// Most rows lie far out, where any model is right; the others, at the boundary, follow another rule that they alone teach.
let private hardIsBetter (seed: int) =
    let random = Random seed

    let rows =
        Array.init 300 (fun row ->
            let label = row % classes
            let near = row % 8 < 2

            label,
            Array.init width (fun d ->
                let from = if near then (label + 1) % classes else label
                let centre = if d = from then (if near then 1.5 else 4.0) else 0.0
                let mark = if near && d = width - 1 then 2.5 else 0.0
                centre + mark + 0.5 * normal random))

    Array.map fst rows, Array.map snd rows

let private judged =
    testList
        "judged"
        [ for seed in 1..3 do
              testCase $"the easy end where hard rows are wrong, seed {seed}"
              <| fun _ ->
                  let labels, points, rows, clean = easyIsBetter seed
                  use net = new Net(points, seed)
                  use pruner = new Pruner(net, labels, rows, clean, options ())
                  let score = pruner.Score "judged-el2n-1"
                  Expect.equal score.Kept KeptRows.OtherEnd "kept"
                  let losses = score.Judgement.Table |> Array.map _.LogLoss.Value
                  Expect.isLessThan losses[1] (losses[0] - 0.05) "and it is seen that it is worse"
                  Expect.equal score.Judgement.Rows 60 "clean rows judge"
                  Expect.equal score.Method "judged-el2n-1" "name"

              testCase $"not the easy end where easy rows teach nothing, seed {seed}"
              <| fun _ ->
                  let labels, points = hardIsBetter seed
                  use net = new Net(points, seed)
                  use pruner = new Pruner(net, labels, options = options ())
                  let score = pruner.Score "judged-el2n-1"
                  Expect.notEqual score.Kept KeptRows.OtherEnd "kept"
                  let losses = score.Judgement.Table |> Array.map _.LogLoss.Value
                  Expect.isLessThan losses[0] (losses[1] - 0.05) "and it is seen that the easy end is worse"

          testCase "rows that judge are in no set that is judged; half of the others is in each"
          <| fun _ ->
              let labels, points = drawn 4 100
              use net = new Net(points, 4)
              use pruner = new Pruner(net, labels, options = options ())
              let score = pruner.Score "judged-el2n-1"
              Expect.equal score.Judgement.Rows 20 "a fifth"
              // 7 batches of an epoch, 40 epochs: half of .6 of them search, .05 judge each kind
              let search, steps = 84, 14
              Expect.equal net.Trained.Count (search + 4 * steps) "steps"

              let sets =
                  net.Trained
                  |> Seq.skip search
                  |> Seq.map fst
                  |> Seq.chunkBySize steps
                  |> Seq.map (Seq.concat >> Set.ofSeq)
                  |> List.ofSeq

              for set in sets do
                  Expect.equal set.Count 40 "half of the others"

              Expect.isLessThanOrEqual (Set.unionMany sets).Count 80 "none of those that judge"
              // of a class of an odd number both ends may have the row in the middle
              Expect.isLessThanOrEqual (Set.intersect sets[0] sets[1]).Count classes "two ends"

          testCase "stopped while it judges, then resumed: as one run, nothing is trained twice"
          <| fun _ ->
              withFolder (fun folder ->
                  let labels, points = drawn 5 100

                  let found (options: PruningOptions) =
                      use net = new Net(points, 5)
                      use pruner = new Pruner(net, labels, options = options)
                      let score = pruner.Score "judged-sama"

                      // sums over vectors may differ by rounding
                      let rounded (values: float seq) =
                          [ for value in values -> round (1e4 * value) ]

                      let losses = score.Judgement.Table |> Seq.map _.LogLoss.Value
                      (score.Kept, rounded score.Scores, rounded losses), net.Trained.Count

                  let (straight, steps), (again, _) = found (options ()), found (options ())
                  Expect.equal again straight "the same seed, the same judgement"
                  let stopped = options ()
                  stopped.StateFolder <- folder
                  use source = new CancellationTokenSource()
                  stopped.Cancellation <- source.Token

                  stopped.Progress <-
                      watching (fun at ->
                          if at.Stage.StartsWith "judging" && at.Done >= 2 then
                              source.Cancel())

                  Expect.throwsT<OperationCanceledException> (fun () -> found stopped |> ignore) "stopped"

                  let resumed () =
                      let options = options ()
                      options.StateFolder <- folder
                      found options

                  let first, more = resumed ()
                  Expect.equal first straight "resumed"
                  Expect.isLessThan more steps "not all again"
                  Expect.equal (resumed ()) (straight, 0) "kept") ]

let private named =
    testList
        "by name"
        [ testCase "easy- is the other end, ccs- all strata, of the same scores"
          <| fun _ ->
              let labels, points = drawn 6 40
              use net = new Net(points, 6)
              use pruner = new Pruner(net, labels, options = options ())

              for name in [ "el2n-2"; "aum" ] do
                  let best, easy = pruner.Score name, pruner.Score("easy-" + name)
                  Expect.equal easy.Scores best.Scores "scores"
                  Expect.equal (best.Kept, easy.Kept) (KeptRows.Best, KeptRows.OtherEnd) "which"
                  let highest = best.KeepsHighest
                  Expect.equal (best.Keep(0.3, null, 0)) (Keep.ByScore(best.Scores, 0.3, highest)) "best"
                  Expect.equal (easy.Keep(0.3, null, 0)) (Keep.ByScore(best.Scores, 0.3, not highest)) "the other end"

              let strata = pruner.Score "ccs-aum"

              Expect.equal
                  (strata.Keep(0.3, labels, 2, 0.2))
                  (Keep.CoverageCentric(strata.Scores, 0.3, 0.2, highestIsHardest = false, seed = 2))
                  "all strata"

              Expect.stringContains strata.KeptName "strata" "in words"

          testCase "what cannot be judged is named"
          <| fun _ ->
              let labels, points = drawn 7 12
              use net = new Net(points, 7)
              use pruner = new Pruner(net, labels, options = options ())

              for name in
                  [ "judged-aum"
                    "judged-forgetting"
                    "judged-random"
                    "easy-random"
                    "judged-easy-sama"
                    "judged-"
                    "easy" ] do
                  refused<ArgumentException> [ $"'{name}'"; "judged-METHOD" ] (fun () -> pruner.Score name |> ignore)

              refused<ArgumentException> [ "JudgeShare" ] (fun () ->
                  new Pruner(net, labels, options = PruningOptions(JudgeShare = 0.0)) |> ignore)

              use few = new Pruner(net, labels, [| 0; 1; 2 |], options = options ())
              refused<ArgumentException> [ "rows to judge" ] (fun () -> few.Score "judged-el2n-1" |> ignore) ]

let tests = testList "judged rows" [ judged; named ]
