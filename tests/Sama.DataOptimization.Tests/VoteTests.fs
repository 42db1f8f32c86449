module Sama.DataOptimization.Tests.VoteTests

open System
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

/// Votes drawn from a Dawid–Skene model: truth and votes, each rule abstaining at a rate of its own.
let private draw seed rows (prior: float[]) (confusion: float[][][]) (abstain: float[]) =
    let random = Random seed
    let truth = Array.init rows (fun _ -> category random prior)

    let votes =
        truth
        |> Array.map (fun t ->
            Array.init confusion.Length (fun rule ->
                if random.NextDouble() < abstain[rule] then
                    -1
                else
                    category random (confusion[rule][t])))

    truth, votes

let private right share =
    [| [| share; 1.0 - share |]; [| 1.0 - share; share |] |]

let private mixed seed =
    let random = Random seed
    let votes = Array.init 20 (fun _ -> Array.init 4 (fun _ -> random.Next(-1, 3)))
    votes

/// log p(votes) of a model by summing over classes plainly.
let private logLikelihood (model: DawidSkeneModel) (votes: int[][]) =
    let prior, confusion = model.Prior, model.Confusion

    votes
    |> Array.sumBy (fun row ->
        seq {
            for c in 0 .. prior.Length - 1 do
                let mutable p = prior[c]

                for rule in 0 .. row.Length - 1 do
                    if row[rule] >= 0 then
                        let chances = confusion[rule][c]
                        p <- p * chances[row[rule]]

                p
        }
        |> Seq.sum
        |> log)

let private dawidSkene =
    testList
        "Dawid–Skene"
        [ property "the objective never falls, with known rows and modelled abstentions too"
          <| fun seed ->
              let votes = mixed seed
              let known = Array.init 20 (fun row -> if row % 5 = 0 then row % 3 else -1)

              for abstentions in [ false; true ] do
                  let model = DawidSkene.Fit(votes, 3, 0.5, abstentions, known, 200)

                  for before, after in Array.pairwise model.Objective do
                      Expect.isGreaterThan after (before - 1e-9) "monotone"

                  for row in 0..19 do
                      close (Array.sum model.Posterior[row]) 1.0 "posterior"

                      if known[row] >= 0 then
                          close (model.Posterior[row].[known[row]]) 1.0 "known"

          property "the objective is the log-likelihood with the logs of the smoothed parameters, by plain sums"
          <| fun seed ->
              let votes = mixed seed
              let model = DawidSkene.Fit(votes, 3, 0.5, false)

              let logs =
                  Array.sumBy log model.Prior
                  + (model.Confusion |> Array.sumBy (Array.sumBy (Array.sumBy log)))

              Expect.floatClose
                  { absolute = 1e-8; relative = 1e-8 }
                  (Array.last model.Objective)
                  (logLikelihood model votes + 0.5 * logs)
                  "value"

          property "at convergence it is a stationary point: an M-step by hand changes nothing"
          <| fun seed ->
              let votes = mixed seed

              let model =
                  DawidSkene.Fit(votes, 3, 0.5, false, iterations = 100000, tolerance = 1e-14)

              let posterior = model.Posterior
              let confusion = model.Confusion[1][2]

              let counts =
                  Array.init 3 (fun v ->
                      0.5
                      + Seq.sum (
                          seq {
                              for row in 0..19 do
                                  if votes[row][1] = v then
                                      posterior[row][2]
                          }
                      ))

              let sum = Array.sum counts

              for v in 0..2 do
                  Expect.isLessThan (abs (confusion[v] - counts[v] / sum)) 1e-4 $"vote {v}"

          testCase "known matrices and prior are recovered from votes alone, abstentions and all"
          <| fun _ ->
              let confusion =
                  [| right 0.9; right 0.8; right 0.7; [| [| 0.6; 0.4 |]; [| 0.05; 0.95 |] |] |]

              let truth, votes = draw 1 20000 [| 0.35; 0.65 |] confusion [| 0.0; 0.3; 0.1; 0.5 |]
              let model = DawidSkene.Fit(votes, 2, modelAbstentions = false)
              Expect.isTrue model.Converged "converged"
              Expect.isLessThan (abs (model.Prior[0] - 0.35)) 0.02 "prior"

              for rule in 0..3 do
                  for c in 0..1 do
                      Expect.isLessThan
                          (abs (model.Confusion[rule].[c].[0] - confusion[rule].[c].[0]))
                          0.03
                          $"rule {rule}, class {c}"

              let accuracy labels = Accuracy.Share(labels, truth)
              let posterior = accuracy (Rows.Argmax model.Posterior)

              Expect.isGreaterThan
                  posterior
                  (accuracy (MajorityVote.Labels(votes, 2)) + 0.01)
                  "better than the majority"

              closeAll (Array.concat (model.Predict votes)) (Array.concat model.Posterior) "predict"

          testCase "abstentions that tell the class are used when modelled, and only then"
          <| fun _ ->
              let random = Random 2
              let truth = labels random 2000 2
              // the second rule speaks of class 1 alone
              let votes =
                  truth
                  |> Array.map (fun t ->
                      [| (if random.NextDouble() < 0.7 then t else 1 - t)
                         (if random.NextDouble() < 0.7 then t else 1 - t)
                         (if t = 1 && random.NextDouble() < 0.9 then 1 else -1) |])

              let share modelled =
                  Accuracy.Share(Rows.Argmax(DawidSkene.Fit(votes, 2, 0.1, modelled).Posterior), truth)

              Expect.isGreaterThan (share true) 0.9 "modelled"
              Expect.isGreaterThan (share true) (share false + 0.05) "not modelled" ]

/// The log-linear objective by its definition.
let private negativeLog (model: LogLinearModel) votes labels =
    let p: float[][] = model.Predict votes
    let fit = Array.map2 (fun (p: float[]) y -> -log p[y]) p labels |> Array.sum

    let moved =
        Array.map2
            (fun a b -> pown (a - b) 2)
            (Array.concat (Array.concat model.Weights))
            (Array.concat (Array.concat model.Start))
        |> Array.sum

    fit, moved

let private logLinear =
    testList
        "log-linear"
        [ testCase "the start counts the other rules' votes, by hand"
          <| fun _ ->
              // rule 0 votes 0 twice: the other rules say 0 once and 1 once, then 0 once
              let votes = [| [| 0; 0; 1 |]; [| 0; 0; -1 |]; [| 1; -1; -1 |] |]
              let model = LogLinear.FromAgreement(votes, 2, 0.75, 4.0)
              let prior = Rows.Softmax [| model.Bias |]
              let p = Array.init 2 (fun c -> exp (model.Weights[0].[0].[c]) * prior[0].[c])
              closeAll p [| (3.0 + 0.5 + 1.0) / 6.0; (1.0 + 0.5) / 6.0 |] "with belief"
              // a vote never beside others stays at the belief
              let alone = Array.init 2 (fun c -> exp (model.Weights[0].[1].[c]) * prior[0].[c])
              closeAll alone [| 0.25; 0.75 |] "alone"

          property "one rule's vote is worth p(c | vote): Bayes' rule"
          <| fun seed ->
              let votes = mixed seed
              let model = LogLinear.FromAgreement(votes, 3)
              let single = model.Predict [| [| 1; -1; -1; -1 |] |]
              let prior = (Rows.Softmax [| model.Bias |])[0]
              let bayes = Array.init 3 (fun c -> exp (model.Weights[0].[1].[c]) * prior[c])
              closeAll single[0] (Array.map (fun b -> b / Array.sum bayes) bayes) "bayes"
              let silent = model.Predict [| [| -1; -1; -1; -1 |] |]
              closeAll silent[0] prior "no vote"

          property "the fit is the minimum: its gradient is 0 and no other point nearby is lower"
          <| fun seed ->
              let random = Random seed
              let votes = mixed seed
              let y = labels random 20 3
              let strength = 0.5
              let model = LogLinear.Fit(votes, 3, votes[..7], y[..7], strength)
              Expect.isTrue model.Converged $"gradient {model.GradientNorm}"
              // stationary in the weight of a vote: strength·(w − w0) = Σ (1[y = c] − p_c) over the clean rows with it
              let p = model.Predict votes[..7]

              for v in 0..2 do
                  for c in 0..2 do
                      let pull =
                          Seq.sum (
                              seq {
                                  for row in 0..7 do
                                      if votes[row][2] = v then
                                          (if y[row] = c then 1.0 else 0.0) - p[row][c]
                              }
                          )

                      let moved = strength * (model.Weights[2].[v].[c] - model.Start[2].[v].[c])
                      Expect.isLessThan (abs (moved - pull)) 1e-7 $"vote {v}, class {c}"

              Expect.equal model.Bias (LogLinear.FromAgreement(votes, 3)).Bias "bias held"
              let free = LogLinear.Fit(votes, 3, votes[..7], y[..7], strength, true)
              let q = free.Predict votes[..7]

              for c in 0..2 do
                  let pull =
                      Seq.sum (seq { for row in 0..7 -> (if y[row] = c then 1.0 else 0.0) - q[row][c] })

                  Expect.isLessThan (abs (strength * (free.Bias[c] - model.Bias[c]) - pull)) 1e-7 $"bias {c}"

              let start, _ = negativeLog (LogLinear.FromAgreement(votes, 3)) votes[..7] y[..7]
              let fit, moved = negativeLog model votes[..7] y[..7]
              Expect.isLessThan (fit + strength / 2.0 * moved) (start + 1e-9) "below the start"

          testCase "of thousands of classes the votes that occur alone take room"
          <| fun _ ->
              let classes, rules = 5000, 4
              let random = Random 3

              let votes =
                  Array.init 30 (fun _ -> Array.init rules (fun _ -> random.Next(-1, classes)))

              let before = GC.GetAllocatedBytesForCurrentThread()
              let model = LogLinear.Fit(votes, classes, votes[..1], [| 17; 4000 |])
              let p = model.Predict [| votes[0]; Array.create rules 4321; Array.create rules -1 |]
              // every vote's weights for all classes would be 800 MB
              Expect.isLessThan (GC.GetAllocatedBytesForCurrentThread() - before) 400_000_000L "bytes"
              let start = LogLinear.FromAgreement(votes, classes).Predict [| votes[0] |]
              Expect.isGreaterThan p[0].[17] (2.0 * start[0].[17]) "the clean row's label"
              Expect.equal ((Rows.Argmax p)[1]) 4321 "the belief in votes that did not occur"
              closeAll [| Array.sum p[1]; Array.sum p[2] |] [| 1.0; 1.0 |] "probabilities"

          testCase "a strong prior stays at the start, a weak one fits the clean rows"
          <| fun _ ->
              let random = Random 5
              let votes = Array.init 60 (fun _ -> Array.init 5 (fun _ -> random.Next(-1, 2)))
              let y = labels random 12 2
              let start = LogLinear.FromAgreement(votes, 2).Predict votes
              let strong = LogLinear.Fit(votes, 2, votes[..11], y, 1e8).Predict votes

              Expect.isLessThan
                  (Array.map2 (Array.map2 (fun a b -> abs (a - b))) start strong
                   |> Array.concat
                   |> Array.max)
                  1e-6
                  "strong"

              let loss strength =
                  Array.sum (
                      Calibration.LogLosses(LogLinear.Fit(votes, 2, votes[..11], y, strength).Predict votes[..11], y)
                  )

              Expect.isLessThan (loss 0.01) (0.5 * loss 1e8) "weak"

          testCase "ten clean rows a class correct a rule that is always wrong"
          <| fun _ ->
              let confusion = [| right 0.75; right 0.7; right 0.15; right 0.2 |]
              let truth, votes = draw 7 3000 [| 0.5; 0.5 |] confusion [| 0.2; 0.2; 0.2; 0.2 |]

              let share (p: float[][]) =
                  Accuracy.Share((Rows.Argmax p)[20..], truth[20..])

              let start = share (LogLinear.FromAgreement(votes, 2).Predict votes)

              let fit =
                  share (LogLinear.Fit(votes, 2, votes[..19], truth[..19], 1.0).Predict votes)

              Expect.isGreaterThan fit 0.75 $"fitted, start {start}"
              Expect.isGreaterThan fit (start + 0.1) "start" ]

let private majority =
    testList
        "majority vote"
        [ testCase "shares, ties by seed, abstentions"
          <| fun _ ->
              let votes = [| [| 0; 0; 1 |]; [| -1; -1; -1 |]; [| 0; 1; -1 |] |]

              closeAll
                  (Array.concat (MajorityVote.Probabilities(votes, 2)))
                  [| 2.0 / 3.0; 1.0 / 3.0; 0.5; 0.5; 0.5; 0.5 |]
                  "shares"

              let labels = MajorityVote.Labels(votes, 2)
              Expect.equal labels[..1] [| 0; -1 |] "labels"

              let tied =
                  Set.ofSeq (seq { for seed in 0..30 -> (MajorityVote.Labels(votes, 2, seed))[2] })

              Expect.equal tied (set [ 0; 1 ]) "both occur"

              refused<ArgumentException> [ "row 1, rule 0"; "vote 2" ] (fun () ->
                  MajorityVote.Labels([| [| 0 |]; [| 2 |] |], 2) |> ignore)

              refused<ArgumentException> [ "row 1 has 2 votes" ] (fun () ->
                  DawidSkene.Fit([| [| 0 |]; [| 1; 1 |] |], 2) |> ignore) ]

let tests = testList "votes" [ majority; dawidSkene; logLinear ]
