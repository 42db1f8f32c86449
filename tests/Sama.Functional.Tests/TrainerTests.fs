/// What a trainer does beside steps: one level alone, evaluations, the best state, failures, what it says of itself.
module Sama.Tests.TrainerTests

open System
open System.Collections.Generic
open System.IO
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "trainer-"

    try
        body (Path.Combine(folder.FullName, "run"))
    finally
        folder.Delete true

let private throws<'e when 'e :> exn> (words: string list) (action: unit -> unit) =
    Expect.throwsC action (function
        | :? 'e as e ->
            for word in words do
                Expect.stringContains e.Message word ""
        | e -> failtest $"{e}")

let private numbers (x: Tensor) : float[] = x.data<float>().ToArray()

let private x, private y = normal 21L [| 40L; 3L |], normal 22L [| 40L |]

let private regression rule =
    Level.create
        "regression"
        [ "w", torch.zeros (3L, dtype = f64) ]
        rule
        (Batches.shuffled (Rows.pair x y) 8)
        (fun _ theta _ (x, y) -> (x.mv theta["w"] - y).square().mean ())

/// The same, of any problem.
let private task =
    Level.general
        "task"
        [ "w", torch.zeros (3L, dtype = f64) ]
        (sgd 0.1)
        (Batches.shuffled (Rows.pair x y) 8)
        (fun _ levels (x, y) -> (x.mv levels["task"].["w"] - y).square().mean ())

let private alone level =
    Problem.create BilevelOptions.Default Hypergradient.sama [ level ]

/// θ of one number that counts its steps down from 0, λ that stays.
let private counting =
    Problem.create
        BilevelOptions.Default
        Hypergradient.samaNa
        [ Level.create "count" [ "n", torch.zeros (1L, dtype = f64) ] (sgd 1.0) ignore (fun _ theta lambda () ->
              theta["n"].sum () + (theta["n"] * lambda["x"]).sum () * scalar 0.0)
          Level.create "still" [ "x", torch.ones (1L, dtype = f64) ] (sgd 0.0) ignore (fun _ theta lambda () ->
              (theta["n"] * lambda["x"]).sum ()) ]

let private count (run: GuardedRun) = -(run.Run.Theta["n"].item<float> ())

/// A run whose score at step t is `scores[t - 1]`, then the last one.
let private scored (scores: float list) (options: GuardOptions) (change: EvaluationOptions -> unit) =
    let score (theta: Params) =
        let t = int -(theta["n"].item<float> ())
        scores[min (t - 1) (scores.Length - 1)]

    let evaluation = EvaluationOptions(Score = (fun theta _ -> score theta), Every = 1L)
    change evaluation
    GuardedRun.FromSeed(counting, 1L, { options with Evaluation = evaluation })

let private oneLevel =
    testList
        "one level"
        [ testCase "its run is plain training"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use run = new BilevelRun(alone (regression (sgd 0.1)), 5L)
              let data = Batches.shuffled (Rows.pair x y) 8
              let w = torch.zeros (3L, dtype = f64)

              for t in 0L .. 11L do
                  let x, y = data { Seed = 5L; Step = t; Stream = 0; Rank = 0 }
                  let r = x.mv w - y
                  let report = run.Step()
                  Expect.floatClose Accuracy.high report.BaseLoss (r.square().mean().item<float> ()) "loss"
                  Expect.isNull report.Meta "no meta step"
                  w.sub_ (x.t().mv r * scalar (0.2 / 8.0)) |> ignore

              Expect.isLessThan (distance run.Theta["w"] w) 1e-12 "θ"
              Expect.equal run.StepsTaken 12L "steps"

          testCase "pure steps are single ones, checkpoints resume, and accumulation is a larger batch"
          <| fun _ ->
              inFolder (fun folder ->
                  let problem = alone (regression (adam 0.05))
                  let options = { GuardOptions.Default with Folder = folder; Every = 2L }
                  use whole = GuardedRun.FromSeed(problem, 3L, GuardOptions.Default)
                  whole.RunTo(9L, CancellationToken.None)

                  (use first = GuardedRun.FromSeed(problem, 3L, options)
                   first.RunTo(5L, CancellationToken.None))

                  use found = Resume.latest folder problem
                  use second = GuardedRun.Resume(problem, found, options)
                  second.RunTo(9L, CancellationToken.None)
                  Expect.equal (numbers second.Run.Theta.Vector) (numbers whole.Run.Theta.Vector) "resumed"
                  use start = Bilevel.start 3L problem
                  let mutable pure' = start

                  for _ in 1..9 do
                      let next, reports = Bilevel.step problem pure'
                      Expect.equal reports.Length 1 "one step"
                      pure' <- next

                  Expect.equal (numbers pure'.Theta) (numbers whole.Run.Theta.Vector) "pure")

          testCase "nothing steers it: what asks for a hypergradient says so, and λ has no parameter"
          <| fun _ ->
              let problem = alone (regression (sgd 0.1))
              use start = Bilevel.start 1L problem
              throws<ArgumentException> [ "one level" ] (fun () -> Hypergradient.compute problem start |> ignore)
              throws<ArgumentException> [ "one level" ] (fun () -> Hypergradient.explain problem start |> ignore)

              let asks =
                  Level.create "a" [ "w", torch.zeros 1L ] (sgd 0.1) ignore (fun _ theta lambda () ->
                      (theta["w"] * lambda["x"]).sum ())

              use run = new BilevelRun(alone asks, 1L)
              throws<ArgumentException> [ "'x'"; "alone" ] (fun () -> run.Step() |> ignore)
              Expect.isFalse ((string problem).Contains "method") "printed without a method"

          testCase "modules: running statistics are the state's, tasks may stand side by side"
          <| fun _ ->
              let net: torch.nn.Module<Tensor, Tensor> =
                  torch.nn.Sequential(torch.nn.BatchNorm1d(3L, dtype = f64), torch.nn.Linear(3L, 1L, dtype = f64))

              let level =
                  Level.ofModule "net" net (sgd 0.1) (Batches.shuffled (Rows.pair x y) 8) (fun _ (x, y) ->
                      (net.call(x).squeeze (1L) - y).square().mean ())

              let problem =
                  Problem.ofTiers BilevelOptions.Default Hypergradient.sama [ [ level; task ] ]

              use run = new BilevelRun(problem, 1L)
              use start = run.Snapshot()
              let losses = [ for _ in 1..3 -> run.Step().BaseLoss ]
              use after = run.Snapshot()
              Expect.isFalse (after.Buffers.Values |> Seq.forall2 (fun a b -> a.Equals b) start.Buffers.Values) "moved"
              run.Restore start
              Expect.equal [ for _ in 1..3 -> run.Step().BaseLoss ] losses "again" ]

let private evaluations =
    testList
        "evaluations"
        [ testCase "modules are in eval mode, those that the metric alone calls too; modes, buffers and generator come back"
          <| fun _ ->
              let train (evaluated: bool) =
                  torch.random.manual_seed 7L |> ignore
                  let norm = torch.nn.BatchNorm1d(3L, dtype = f64)
                  let frozen = torch.nn.Dropout 0.5

                  let net: torch.nn.Module<Tensor, Tensor> =
                      torch.nn.Sequential(
                          norm,
                          torch.nn.Dropout 0.5,
                          torch.nn.Sequential(frozen, torch.nn.Linear(3L, 1L, dtype = f64))
                      )

                  let other: torch.nn.Module<Tensor, Tensor> = torch.nn.Dropout 0.5
                  net.train ()
                  frozen.eval ()

                  let level =
                      Level.ofModule "net" net (sgd 0.01) (Batches.shuffled (Rows.pair x y) 8) (fun _ (x, y) ->
                          (net.call(x).squeeze (1L) - y).square().mean ())

                  let metrics (_: Params) (_: Params) =
                      let a, b = net.call x, net.call x
                      let same = if a.Equals b && (other.call x).Equals x then 1.0 else 0.0
                      // what a user does in vain: it is put back
                      net.train ()
                      net.call x |> ignore
                      torch.rand 3L |> ignore
                      readOnlyDict [ "same", same ] :> IReadOnlyDictionary<_, _>

                  let evaluation =
                      if evaluated then
                          EvaluationOptions(Metrics = metrics, Every = 2L)
                      else
                          null

                  use run =
                      GuardedRun.FromSeed(alone level, 1L, { GuardOptions.Default with Evaluation = evaluation })

                  let reports = [ for _ in 1..4 -> run.Step() ]
                  use state = run.Run.Snapshot()

                  if evaluated then
                      Expect.equal
                          [ for r in reports -> if isNull r.Evaluation then None else Some r.Evaluation.Metrics["same"] ]
                          [ None; Some 1.0; None; Some 1.0 ]
                          "two passes agree"

                  Expect.equal
                      [ net.training; norm.training; frozen.training; other.training ]
                      [ true; true; false; true ]
                      "modes"

                  List.map _.BaseLoss reports,
                  numbers state.Theta,
                  (torch.rand 2L).data<float32>().ToArray(),
                  [ for buffer in state.Buffers.Values do
                        if torch.is_floating_point buffer then
                            numbers buffer ]

              Expect.equal (train true) (train false) "losses, parameters, generator, buffers"

          testCase "an evaluated run is the run without, to the bit"
          <| fun _ ->
              let train evaluation =
                  use run =
                      GuardedRun.FromSeed(
                          reweightingWith (unrollBy 2) Stopped 0.3 (adam 1e-2) Hypergradient.sama,
                          1L,
                          { GuardOptions.Default with Evaluation = evaluation }
                      )

                  run.RunTo(6L, CancellationToken.None)
                  numbers run.Run.Theta.Vector, numbers run.Run.Lambda.Vector

              let evaluation =
                  EvaluationOptions(
                      Score = (fun theta _ -> (theta.Vector * torch.rand_like theta.Vector).sum().item<float> ()),
                      Every = 1L
                  )

              Expect.equal (train evaluation) (train null) "state"

          testCase "the best state comes back where the run ends, with and without patience; without asking it does not"
          <| fun _ ->
              let scores = [ 3.0; 1.0; 2.0; nan; 5.0 ]

              let ended change =
                  use run = scored scores GuardOptions.Default change
                  run.RunTo(5L, CancellationToken.None)
                  count run, run.BestScore.Value

              Expect.equal (ended ignore) (5.0, 1.0) "not asked for"
              Expect.equal (ended (fun e -> e.RestoreBest <- true)) (2.0, 1.0) "by the number of steps"

              Expect.equal
                  (ended (fun e ->
                      e.RestoreBest <- true
                      e.Patience <- Nullable 2))
                  (2.0, 1.0)
                  "by patience"

              Expect.equal
                  (ended (fun e ->
                      e.RestoreBest <- true
                      e.Maximize <- true))
                  (5.0, 5.0)
                  "the largest"

              use run = scored scores GuardOptions.Default (fun e -> e.KeepBest <- true)
              run.RunTo(4L, CancellationToken.None)
              use best = run.BestState()
              Expect.equal (best.Step, count run) (2L, 4.0) "kept"
              Expect.isTrue (run.RestoreBest()) "there is one"
              Expect.equal (count run, run.Run.StepsTaken) (2.0, 2L) "restored"
              use none = scored scores GuardOptions.Default ignore
              throws<InvalidOperationException> [ "KeepBest" ] (fun () -> none.RestoreBest() |> ignore)

          testCase "a cancelled run stays where it is, and its checkpoint goes on"
          <| fun _ ->
              inFolder (fun folder ->
                  let options = { GuardOptions.Default with Folder = folder }
                  use source = new CancellationTokenSource()
                  use run = scored [ 3.0; 1.0; 2.0 ] options (fun e -> e.RestoreBest <- true)

                  for _ in 1..3 do
                      run.Step() |> ignore

                  source.Cancel()

                  Expect.throwsT<OperationCanceledException> (fun () -> run.RunTo(9L, source.Token)) "cancelled"
                  Expect.equal (count run) 3.0 "where it was"
                  use found = Resume.latest folder counting
                  Expect.equal found.State.Step 3L "checkpoint"

                  // the last step is the checkpoint, the best state comes back behind it
                  run.RunTo(5L, CancellationToken.None)
                  Expect.equal (count run) 2.0 "best"
                  use last = Resume.latest folder counting
                  Expect.equal last.State.Step 5L "last step"

                  use again =
                      GuardedRun.Resume(
                          counting,
                          last,
                          { options with
                              Evaluation = EvaluationOptions(Score = (fun _ _ -> 9.0), Every = 1L, RestoreBest = true) }
                      )

                  Expect.equal again.BestScore (Nullable 1.0) "best score"
                  again.RunTo(6L, CancellationToken.None)
                  Expect.equal (count again) 2.0 "the best state of the run before"

                  // gone: scores start anew, and that is said
                  File.Delete(Checkpoints.best folder)
                  use newest = Resume.latest folder counting

                  use without =
                      GuardedRun.Resume(
                          counting,
                          newest,
                          { options with
                              Evaluation = EvaluationOptions(Score = (fun _ _ -> 9.0), Every = 1L, RestoreBest = true) }
                      )

                  Expect.isFalse without.BestScore.HasValue "no score"
                  Expect.stringContains (Seq.exactlyOne without.PassedOver) "best.safetensors" "said")

          testCase "several metrics, one of which decides; wrong ones are named"
          <| fun _ ->
              let metrics (theta: Params) (_: Params) =
                  let n = -(theta["n"].item<float> ())

                  readOnlyDict [ "loss", -n; "accuracy", (if n = 2.0 then 0.9 else 0.5) ]
                  :> IReadOnlyDictionary<_, _>

              let run (change: EvaluationOptions -> unit) =
                  let evaluation = EvaluationOptions(Metrics = metrics, Every = 1L)
                  change evaluation
                  GuardedRun.FromSeed(counting, 1L, { GuardOptions.Default with Evaluation = evaluation })

              use by =
                  run (fun e ->
                      e.Best <- "accuracy"
                      e.Maximize <- true
                      e.RestoreBest <- true)

              by.RunTo(4L, CancellationToken.None)
              Expect.equal (count by, by.BestScore) (2.0, Nullable 0.9) "by accuracy"
              use none = run ignore
              let report = none.Step()
              Expect.equal [ for m in report.Evaluation.Metrics -> m.Key, m.Value ] [ "loss", -1.0; "accuracy", 0.5 ] ""
              Expect.isFalse report.Evaluation.Score.HasValue "nothing decides"
              Expect.stringContains (string report) "accuracy 0.5" "printed"
              use absent = run (fun e -> e.Best <- "f1")
              throws<InvalidOperationException> [ "'f1'"; "loss, accuracy" ] (fun () -> absent.Step() |> ignore)

              let refused (name: string) (change: EvaluationOptions -> unit) =
                  Expect.throwsC (fun () -> (run change).Step() |> ignore) (function
                      | :? ArgumentException as e -> Expect.equal e.ParamName name ""
                      | e -> failtest $"{e}")

              refused "Score" (fun e -> e.Metrics <- null)

              refused "Best" (fun e ->
                  e.Best <- "loss"
                  e.Score <- fun _ _ -> 0.0)

              refused "Best" (fun e -> e.RestoreBest <- true)
              refused "Best" (fun e -> e.Patience <- Nullable 1)
              refused "Every" (fun e -> e.Every <- 0L)
              refused "MinDelta" (fun e -> e.MinDelta <- -1.0)

              refused "Patience" (fun e ->
                  e.Best <- "loss"
                  e.Patience <- Nullable 0)

          testCase "evaluations are told with the steps"
          <| fun _ ->
              inFolder (fun folder ->
                  let path = folder + ".jsonl"

                  use run =
                      scored [ 3.0; nan ] { GuardOptions.Default with Telemetry = TelemetryOptions(JsonLines = path) } ignore

                  run.RunTo(2L, CancellationToken.None)
                  (run :> IDisposable).Dispose()

                  let found =
                      File.ReadAllLines path |> Array.filter (fun line -> line.Contains "\"evaluation\"")

                  Expect.equal
                      found
                      [| """{"kind":"evaluation","step":1,"score":3,"improved":true,"metrics":{"score":3}}"""
                         """{"kind":"evaluation","step":2,"score":"NaN","improved":false,"metrics":{"score":"NaN"}}""" |]
                      "lines") ]

let private failures =
    /// NaN in the base loss, or what `break'` does, where `bad` says.
    let failing policy (bad: Draw -> bool) =
        Problem.create
            { unrollBy 2 with NonFinite = policy }
            Hypergradient.sama
            [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] (adam 0.1) id (fun _ theta lambda draw ->
                  (square theta["w"] * lambda["x"]).sum () * scalar (if bad draw then nan else 1.0))
              Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) ignore (fun _ theta _ () ->
                  square(theta["w"]).sum ()) ]

    testList
        "failures"
        [ testCase "a way back is there from the first step on, and leads to this run's own checkpoint"
          <| fun _ ->
              inFolder (fun folder ->
                  // of another run, further on
                  (use other = GuardedRun.FromSeed(failing NonFinitePolicy.Stop (fun _ -> false), 9L, { GuardOptions.Default with Folder = folder })
                   other.RunTo(50L, CancellationToken.None))

                  let problem = failing NonFinitePolicy.Stop (fun draw -> draw.Seed = 1L && draw.Step = 0L)

                  use run =
                      GuardedRun.FromSeed(problem, 1L, { GuardOptions.Default with Folder = folder; Rollbacks = 1 })

                  let report = run.Step()
                  Expect.stringContains report.Skipped "went back to the checkpoint of step 0" ""
                  Expect.stringContains report.Skipped "'base'" "why"
                  run.RunTo(4L, CancellationToken.None)
                  Expect.equal (run.Run.StepsTaken, run.RollbacksTaken) (4L, 1) "steps")

          testCase "too many left out in a row go back too"
          <| fun _ ->
              inFolder (fun folder ->
                  let problem =
                      failing NonFinitePolicy.Skip (fun draw -> draw.Seed = 1L && draw.Step >= 4L && draw.Step < 8L)

                  use run =
                      GuardedRun.FromSeed(
                          problem,
                          1L,
                          { GuardOptions.Default with
                              Folder = folder
                              Every = 2L
                              SkipAtMost = Nullable 2
                              Rollbacks = 1 }
                      )

                  let reports = [ for _ in 1..10 -> run.Step() ]
                  let back = reports |> List.find (fun r -> not (isNull r.Skipped) && r.Skipped.Contains "went back")
                  Expect.stringContains back.Skipped "3 steps in a row" ""
                  Expect.equal run.RollbacksTaken 1 "once")

          testCase "a delegate's exception keeps its type, and has step, level and checkpoint; a metric's too"
          <| fun _ ->
              inFolder (fun folder ->
                  let problem =
                      failing NonFinitePolicy.Stop (fun draw ->
                          if draw.Step = 3L then
                              raise (TimeoutException "gone")

                          false)

                  use run = GuardedRun.FromSeed(problem, 1L, { GuardOptions.Default with Folder = folder })

                  let raised =
                      try
                          run.RunTo(9L, CancellationToken.None)
                          null
                      with e ->
                          e

                  Expect.isTrue (raised :? TimeoutException) "type"
                  Expect.equal (raised.Data["Sama.Step"], raised.Data["Sama.Level"]) (box 3L, box "base") "where"
                  use found = Resume.latest folder problem
                  Expect.equal (found.State.Step, found.Info.Path) (3L, string raised.Data["Sama.Checkpoint"]) "checkpoint")

              inFolder (fun folder ->
                  let options = { GuardOptions.Default with Folder = folder }

                  use run =
                      scored [ 1.0 ] options (fun e ->
                          e.Score <- fun theta _ -> if theta["n"].item<float> () = -2.0 then failwith "score" else 0.0)

                  throws<Exception> [ "score" ] (fun () -> run.RunTo(9L, CancellationToken.None))
                  use found = Resume.latest folder counting
                  Expect.equal found.State.Step 2L "the step was taken")

          testCase "no memory, in a loss and in its derivative: the state is that of the last good step"
          <| fun _ ->
              let problem at =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] (sgd 0.1) id (fun _ theta lambda draw ->
                            if draw.Step = 2L && at = "loss" then
                                torch.zeros (1L <<< 50) |> ignore

                            (square theta["w"] * lambda["x"]).sum ())
                        Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) id (fun _ theta _ draw ->
                            // 8 bytes for each of 2⁴⁶ numbers, in the derivative alone
                            let wide = theta["w"].sum().expand (1L <<< 23, 1L <<< 23)

                            if draw.Step = 2L && at = "derivative" then
                                wide.square().sum ()
                            else
                                square(theta["w"]).sum ()) ]

              for at, level in [ "loss", "base"; "derivative", "meta" ] do
                  use run = GuardedRun.FromSeed(problem at, 1L, GuardOptions.Default)

                  throws<InvalidOperationException> [ "memory" ] (fun () -> run.RunTo(9L, CancellationToken.None))
                  use plain = new BilevelRun(problem "nowhere", 1L)
                  plain.Step() |> ignore
                  plain.Step() |> ignore
                  Expect.equal run.Run.StepsTaken 2L $"{at} of {level}"
                  Expect.equal (numbers run.Run.Theta.Vector) (numbers plain.Theta.Vector) "θ"

          testCase "a step that fails while it is written is no state: nothing goes on from it, a checkpoint does"
          <| fun _ ->
              inFolder (fun folder ->
                  let mutable calls = 0
                  let mutable limit = Int32.MaxValue

                  let rule =
                      UpdateRule.create "breaks" (fun _ -> RuleState.empty) (fun state g _ ->
                          calls <- calls + 1

                          if calls > limit then
                              raise (TimeoutException "no memory")

                          g * 0.1, { state with Count = state.Count + 1L })

                  let problem =
                      Problem.ofTiers
                          BilevelOptions.Default
                          Hypergradient.sama
                          [ [ task
                              Level.general "other" [ "w", torch.ones (3L, dtype = f64) ] rule ignore (fun _ levels () ->
                                  square(levels["other"].["w"]).sum ()) ] ]

                  use run = GuardedRun.FromSeed(problem, 1L, { GuardOptions.Default with Folder = folder; Every = 1L })
                  run.Step() |> ignore
                  let perStep = calls
                  run.Step() |> ignore
                  // the last call of a step is that of its writing
                  limit <- calls + (calls - perStep) - 1

                  let raised =
                      try
                          run.Step() |> ignore
                          null
                      with e ->
                          e

                  Expect.isTrue (raised :? TimeoutException) $"{raised}"
                  Expect.stringContains (string raised.Data["Sama.CheckpointFailure"]) "the state is lost" "no checkpoint of it"
                  limit <- Int32.MaxValue
                  throws<InvalidOperationException> [ "the state is lost" ] (fun () -> run.Step() |> ignore)
                  use found = Resume.latest folder problem
                  Expect.equal found.State.Step 2L "the last good step"
                  run.Restart found.State
                  run.RunTo(4L, CancellationToken.None)) ]

let private sayings =
    testList
        "sayings"
        [ testCase "the rows of lowest weight, of equal ones the lower row first"
          <| fun _ ->
              let lowest count weights =
                  [ for row in SuspiciousRows.lowest count weights -> row.Row, row.Weight ]

              Expect.equal (lowest 3 [ 0.5; 0.1; 0.9; 0.1; 0.0 ]) [ 4L, 0.0; 1L, 0.1; 3L, 0.1 ] "ties"
              Expect.equal (lowest 9 [ 2.0; 1.0 ]) [ 1L, 1.0; 0L, 2.0 ] "all there are"
              Expect.equal (lowest 0 [ 2.0 ]) [] "none"
              throws<ArgumentException> [ "row 1" ] (fun () -> lowest 1 [ 0.0; nan ] |> ignore)
              throws<ArgumentException> [ "-1" ] (fun () -> lowest -1 [] |> ignore)
              use weights = torch.tensor [| 0.5f; -1.0f; 0.25f |]
              let found = SuspiciousRows.lowestOf 2 weights
              Expect.equal [ for row in found -> row.Row, row.Weight ] [ 1L, -1.0; 2L, 0.25 ] "a tensor"
              throws<ArgumentException> [ "[3x1]" ] (fun () -> SuspiciousRows.lowestOf 1 (weights.view (3L, 1L)) |> ignore)

          testCase "why λ stands still, or moves"
          <| fun _ ->
              let explained (change: BilevelProblem -> BilevelProblem) rule metaRule baseLoss metaLoss =
                  let problem =
                      Problem.create
                          BilevelOptions.Default
                          Hypergradient.samaNa
                          [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] rule ignore (fun _ theta lambda () ->
                                baseLoss theta["w"] lambda["x"])
                            Level.create "weights" [ "x", torch.ones (8L, dtype = f64) ] metaRule ignore (fun _ theta lambda () ->
                                metaLoss theta["w"] lambda["x"]) ]
                      |> change

                  use start = Bilevel.start 1L problem
                  Hypergradient.explain problem start

              let weighed (w: Tensor) (x: Tensor) = w.square().sum () * x.mean ()
              let bySquare (w: Tensor) (_: Tensor) = w.square().sum ()

              let finds (words: string list) (e: Explanation) =
                  let text = string e

                  for word in words do
                      Expect.stringContains text word ""

              let moving = explained id (sgd 0.1) (sgd 0.1) weighed bySquare
              Expect.isEmpty moving.Findings (string moving)
              Expect.equal (moving.Reached, moving.Moved, moving.Length, moving.DirectNorm) (8L, 8L, 8L, 0.0) "numbers"
              Expect.floatClose Accuracy.medium moving.UpdateNorm (0.1 * moving.HypergradientNorm) "u"
              finds [ "nothing stands in its way"; "'weights'" ] moving

              explained id (sgd 0.1) (sgd 0.1) weighed (fun w _ -> w.detach().sum ())
              |> finds [ "sees no parameter" ]

              explained id (sgd 0.1) (sgd 0.1) (fun w _ -> w.square().sum ()) (fun w x -> (w * 0.0).sum () + x.sum ())
              |> finds [ "no loss below depends on the parameters of level 'weights'" ]

              explained id (sgd 0.1) (sgd 0.0) weighed bySquare |> finds [ "'sgd' takes no step" ]
              explained id (sgd 0.1) (sgd 1e-30) weighed bySquare |> finds [ "rounding of Float64" ]

              explained id (sgd 0.1) (sgd 0.1) (fun w x -> w.square().sum () * x[0]) bySquare
              |> finds [ "h is 0 at 7 of 8 coordinates" ]

              explained (Problem.withMethod Hypergradient.sama) (adam 0.1) (sgd 0.1) (fun w x -> w.square().sum () * x.mean () * 0.0) bySquare
              |> finds [ "the gradient of level 'base' is 0 everywhere"; "v is 0 at all 3 coordinates" ]

              explained id (sgd 0.1) (sgd 0.1) (fun w x -> w.square().sum () * x.mean () * scalar nan) bySquare
              |> finds [ "not finite" ]

          testCase "problems, levels, parameters, passes and reports say what they are"
          <| fun _ ->
              let problem = quadratic (adam 0.1) 3 Hypergradient.sama
              let text = string problem

              for word in [ "'base'"; "'meta'"; "6 parameters"; "Float64"; "adam"; "sgd"; "method sama, K = 3"; "device cpu" ] do
                  Expect.stringContains text word ""

              use run = new BilevelRun(problem, 1L)
              Expect.stringContains (string run.Theta) "'b' [2x2]" "parameters"
              Expect.stringContains (string problem.Levels[0]) "level 'base': 6 parameters in 2 tensors" "level"

              let pass = Pass({ Seed = 3L; Step = 5L; Stream = 1; Rank = 0 }, Mode.Perturbed, Dictionary())
              Expect.stringContains (string pass) "Perturbed pass of level 1, step 5" "pass"
              let reports = [ for _ in 1..3 -> run.Step() ]
              Expect.stringContains (string (List.last reports)) "'meta': loss" "report" ]

let tests =
    testList "trainer" [ oneLevel; evaluations; failures; sayings ]
