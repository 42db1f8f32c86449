/// What learners compute, against formulas; their hypergradients, against the one-step-unrolled ones.
module Sama.DataOptimization.Tests.LearnerTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private classes, rules, count, width = 3, 4, 24, 5

/// Rows of a drawn problem: votes right more often than not, some abstentions, three known rows.
let private rows (random: Random) =
    let truths = Array.init count (fun _ -> random.Next classes)

    let votes =
        truths
        |> Array.map (fun truth ->
            Array.init rules (fun _ ->
                match random.Next 10 with
                | 0
                | 1
                | 2 -> -1
                | 3
                | 4 -> random.Next classes
                | _ -> truth))

    let labels =
        Array.map2 (fun label truth -> if label < 0 then truth else label) (MajorityVote.Labels(votes, classes)) truths

    let texts =
        truths |> Array.map (fun truth -> $"w{truth} w{random.Next 5} w{random.Next 5}")

    new RowTable(
        classes,
        labels,
        null,
        Array.init count (fun row -> row < 3),
        votes,
        Array.init count (fun row -> row % 2),
        HashedTerms.FromTexts(texts, 50),
        null,
        torch.float64
    ),
    truths,
    votes

let private learners (votes: int[][]) : DataLearner list =
    let features = ExampleWeights.FromFeatures(classes, rules)
    let model = LogLinear.FromAgreement(votes, classes)

    [ features
      ExampleWeights.FromFeatures(
          classes,
          0,
          RowFeatures.Loss
          ||| RowFeatures.Margin
          ||| RowFeatures.Entropy
          ||| RowFeatures.Distance
      )
      ExampleWeights.PerRow count
      ExampleWeights.PerSource 2
      Corrections.LabelModel(model, 6)
      Corrections.FromTerms(classes, rules, 50)
      DataLearner.Combine(features, Corrections.LabelModel(model, 6)) ]

let private normals (random: Random) (shape: int64[]) scale : Tensor =
    let values =
        Array.init (int (Array.fold (*) 1L shape)) (fun _ -> scale * normal random)

    torch.tensor(values, dtype = torch.float64).view shape

/// Starting values moved at random, in float64: at the start itself some derivatives are 0.
let private moved (random: Random) (learner: DataLearner) : (string * Tensor) list =
    [ for struct (name, value) in learner.Start 1L -> name, value.to_type torch.float64 + normals random value.shape 0.3 ]

let private asParams (named: (string * Tensor) list) =
    Params.frozen (Layout.ofNamed named) (Layout.ravel named)

let private logOf (theta: Params) (x: Tensor) =
    torch.nn.functional.log_softmax (torch.nn.functional.linear (x, theta["w"]), 1L)

let private relative (a: Tensor) (b: Tensor) =
    ((a - b).norm () / b.norm ()).item<float> ()

let private hypergradients =
    property "SAMA's hypergradient of every learner is the one-step-unrolled one as ε goes to 0" (fun seed ->
        use _ = torch.NewDisposeScope()
        let random = Random seed
        let table, truths, votes = rows random
        let x = normals random [| int64 count; int64 width |] 1.0
        let cleanX = normals random [| 6L; int64 width |] 1.0
        let cleanY = torch.tensor (Array.init 6 (fun row -> int64 truths[row]))
        let w = normals random [| int64 classes; int64 width |] 0.3
        let all = Array.init count id
        let averaged = logOf (asParams [ "w", w + 0.1 ]) x
        let prior = LogitAdjustment.Prior(truths, classes)

        for learner in learners votes do
            // with an averaged model, and with features of the model itself, which pass.Stop holds
            for teacher in
                (if learner.Name.Contains "correction" then
                     [ averaged; null ]
                 else
                     [ averaged ]) do
                let lambda = moved random learner

                let problem method =
                    Problem.create
                        BilevelOptions.Default
                        method
                        [ Level.create
                              "net"
                              [ "w", w ]
                              (adam 1e-2)
                              (fun _ -> table.At all)
                              (fun pass theta lambda batch ->
                                  learner.Loss(pass, lambda, batch, logOf theta x, teacher, prior))
                          Level.create learner.Name lambda (adam 1e-2) ignore (fun _ theta lambda () ->
                              torch.nn.functional.nll_loss (logOf theta cleanX, cleanY)
                              + learner.Penalty lambda) ]

                let at method =
                    let problem = problem method
                    use state = Bilevel.start 3L problem
                    (Hypergradient.compute problem state).Total

                let sama =
                    at (
                        Hypergradient.samaWith
                            { SamaOptions.Default with
                                Alpha = Nullable 1e-4
                                Norm = PerturbationNorm.All }
                    )

                let unrolled = at Hypergradient.unrolled

                Expect.isTrue
                    (relative sama unrolled < 1e-6 || (unrolled.norm ()).item<float> () < 1e-12)
                    $"{learner.Name}: {relative sama unrolled}")

let private target (learner: DataLearner) lambda (table: RowTable) (log: Tensor) =
    learner.Targets(lambda, table.At(Array.init table.Count id), log)

let private laws =
    [ property "a label model that has learned nothing says what its start says, mixed with the prediction" (fun seed ->
          use _ = torch.NewDisposeScope()
          let random = Random seed
          let table, _, votes = rows random
          let model = LogLinear.FromAgreement(votes, classes)
          let learner = Corrections.LabelModel(model, 6, 3.0, 0.25)

          let lambda =
              asParams [ for struct (name, value) in learner.Start() -> name, value.to_type torch.float64 ]

          let log =
              logOf
                  (asParams [ "w", normals random [| int64 classes; int64 width |] 1.0 ])
                  (normals random [| int64 count; int64 width |] 1.0)

          let found = Rows.FromTensor(target learner lambda table log)
          let said = model.Predict votes
          let predicted = Rows.FromTensor(log.exp ())

          for row in 0 .. count - 1 do
              for c in 0 .. classes - 1 do
                  let expected =
                      if row < 3 then
                          (if table.Labels[row] = c then 1.0 else 0.0)
                      else
                          0.75 * said[row][c] + 0.25 * predicted[row][c]

                  Expect.floatClose Accuracy.medium (found[row].[c]) expected $"row {row}, class {c}"

          Expect.equal ((learner.Penalty lambda).item<float> ()) 0.0 "nothing pulls at the start")

      property "targets are distributions, weights are shares, known rows keep label and weight" (fun seed ->
          use _ = torch.NewDisposeScope()
          let random = Random seed
          let table, _, votes = rows random
          let batch = table.At(Array.init count id)

          let log =
              torch.nn.functional.log_softmax (normals random [| int64 count; int64 classes |] 2.0, 1L)

          for learner in learners votes do
              let lambda = asParams (moved random learner)
              let targets = Rows.FromTensor(learner.Targets(lambda, batch, log, log))
              let weights = Rows.Vector(learner.Weights(lambda, batch, log, log))

              for row in 0 .. count - 1 do
                  Expect.floatClose Accuracy.high (Array.sum targets[row]) 1.0 learner.Name
                  Expect.isTrue (weights[row] > 0.0 && weights[row] <= 1.0) $"{learner.Name}: {weights[row]}"

              for row in 0..2 do
                  Expect.equal (weights[row]) 1.0 learner.Name
                  Expect.equal (targets[row]).[table.Labels[row]] 1.0 learner.Name)

      property "a factor of all weights is not the learner's to choose" (fun seed ->
          use _ = torch.NewDisposeScope()
          let random = Random seed
          let table, _, _ = rows random
          let learner = ExampleWeights.FromFeatures(classes, rules)
          let named = moved random learner

          let log =
              torch.nn.functional.log_softmax (normals random [| int64 count; int64 classes |] 2.0, 1L)

          let batch = table.At(Array.init count id)

          let weights named =
              Rows.Vector(learner.Weights(asParams named, batch, log))

          let shifted =
              [ for name, value in named -> name, (if name = "bias" then value + 2.0 else value) ]

          closeAll (weights shifted) (weights named) "weights")

      property
          "logit adjustment: nothing where the targets have the prior's shares; else the logits meet log π − log prior"
          (fun seed ->
              use _ = torch.NewDisposeScope()
              let random = Random seed
              let log = torch.nn.functional.log_softmax (normals random [| 6L; 3L |] 1.0, 1L)
              let prior = torch.tensor [| 0.5; 0.25; 0.25 |]
              let same = prior.expand (6L, 3L)
              Expect.isTrue ((LogitAdjustment.Apply(log, same, prior) - log).abs().max().item<float> () < 1e-12) "same"

              let targets =
                  torch.tensor(probabilities random 6 3 1.0 |> Array.concat).view (6L, 3L)

              let mass = targets.sum 0L + prior * 8.0

              let expected =
                  torch.nn.functional.log_softmax (log + mass.log () - mass.sum().log () - prior.log (), 1L)

              let found = LogitAdjustment.Apply(log, targets, prior)
              Expect.isTrue ((found - expected).abs().max().item<float> () < 1e-12) "shifted")

      property "losses by row do for weights what log-probabilities of two classes do" (fun seed ->
          use _ = torch.NewDisposeScope()
          let random = Random seed
          let labels = labels random 8 2
          use table = new RowTable(2, labels, dtype = torch.float64)
          let batch = table.At(Array.init 8 id)
          let learner = ExampleWeights.FromFeatures 2
          let w = normals random [| 2L; 3L |] 1.0
          let x = normals random [| 8L; 3L |] 1.0
          let lambda = moved random learner

          let value (loss: Pass -> Params -> Tensor -> Tensor) =
              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.create "net" [ "w", w ] (adam 1e-2) ignore (fun pass theta lambda () ->
                            loss pass lambda (logOf theta x))
                        Level.create "weights" lambda (adam 1e-2) ignore (fun _ theta _ () ->
                            theta["w"].square().sum ()) ]

              use run = new BilevelRun(problem, 0L)
              run.Step().BaseLoss

          let byLog =
              value (fun pass lambda log -> learner.Loss(pass, lambda, batch, log, smoothing = 0.0))

          let byLosses =
              value (fun pass lambda log -> learner.WeighedLoss(pass, lambda, batch, -(log * batch.Given).sum 1L))

          let byWeights =
              value (fun pass lambda log ->
                  let losses = -(log * batch.Given).sum 1L
                  (learner.WeightsByLosses(lambda, batch, pass.Stop("losses", losses)) * losses).mean ())

          Expect.floatClose Accuracy.medium byLosses byLog "loss"
          Expect.floatClose Accuracy.high byWeights byLosses "weights")

      testCase "an average forgets its start, then moves by 1 − decay; its views move with it"
      <| fun _ ->
          use _ = torch.NewDisposeScope()

          let at (value: float) =
              asParams [ "a", torch.tensor [| value; value |] ]

          use average = new AveragedParameters(at 1.0, 0.9)
          let mutable expected = 1.0

          for step in 1..200 do
              average.Follow(at (float step))
              let kept = min 0.9 (float step / (10.0 + float step))
              expected <- kept * expected + (1.0 - kept) * float step

          close (average.Parameters["a"].[0].item<float> ()) expected "average"
          Expect.equal average.Followed 200L "count"

      testCase "terms are the same for the same words, of words and of pairs, below the size"
      <| fun _ ->
          let terms = HashedTerms.FromTexts([| "One two"; "two ONE!"; "" |], 1000)
          Expect.equal (Array.map Array.length terms) [| 4; 6; 0 |] "counts"
          Expect.equal (terms[0].[0]) (terms[1].[1]) "one"
          Expect.notEqual (terms[0].[3]) (terms[1].[3]) "pairs are in order"
          Expect.isTrue (Seq.concat terms |> Seq.forall (fun term -> term >= 0 && term < 1000)) "size"

      testCase "what the table does not tell is named"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          use table = new RowTable(2, [| 0; 1 |])
          let batch = table.At [| 0; 1 |]
          let log = torch.zeros (2L, 2L) - log 2.0

          for learner, word in
              [ ExampleWeights.FromFeatures(2, 3), "votes"
                ExampleWeights.PerSource 2, "sources"
                Corrections.FromTerms 2, "terms"
                ExampleWeights.FromFeatures(2, 0, RowFeatures.Distance), "averaged model" ] do
              let lambda = asParams [ for struct (name, value) in learner.Start() -> name, value ]
              refused<ArgumentException> [ word ] (fun () -> learner.Weights(lambda, batch, log) |> ignore)

          refused<ArgumentException> [ "row 5"; "2 rows" ] (fun () -> table.At [| 5 |] |> ignore)

      testCase "what a learner has not is named: rows, sources, terms, classes"
      <| fun _ ->
          use _ = torch.NewDisposeScope()

          use table =
              new RowTable(3, [| 0; 1; 2 |], sources = [| 0; 4; 1 |], terms = [| [| 1; 9 |]; [||]; [| 77 |] |])

          let batch = table.At [| 2; 1; 0 |]
          let log = torch.zeros (3L, 3L) - log 3.0

          let model classes =
              LogLinear.FromAgreement([| [| 0 |]; [| 1 |] |], classes)

          for learner, words in
              [ ExampleWeights.PerRow 2, [ "row 2"; "of 2" ]
                ExampleWeights.PerSource 4, [ "source 4"; "of 4" ]
                Corrections.FromTerms(3, 0, 77), [ "term 77"; "of 77" ]
                Corrections.FromTerms 4, [ "3 classes"; "of 4" ]
                Corrections.LabelModel(model 2, 1), [ "3 classes"; "of 2" ]
                ExampleWeights.FromFeatures 2, [ "3 classes"; "of 2" ] ] do
              let lambda = asParams [ for struct (name, value) in learner.Start() -> name, value ]
              refused<ArgumentException> words (fun () -> learner.Targets(lambda, batch, log) |> ignore)

          for terms, words in
              [ [| [| 1 |]; null |], [ "terms[1]" ]
                [| [||]; [| -1 |] |], [ "row 1"; "from 0" ] ] do
              refused<ArgumentException> words (fun () -> new RowTable(2, [| 0; 1 |], terms = terms) |> ignore)

      testCase "two learners of one thing make no learner of both; other types than λ's are named"
      <| fun _ ->
          use _ = torch.NewDisposeScope()

          use table =
              new RowTable(2, [| 0; 1 |], sources = [| 0; 1 |], terms = [| [| 1 |]; [| 2 |] |])

          let model = LogLinear.FromAgreement([| [| 0 |]; [| 1 |] |], 2)
          let log = torch.zeros (2L, 2L) - log 2.0

          let judge (learner: DataLearner) (log: Tensor) =
              let lambda = asParams [ for struct (name, value) in learner.Start() -> name, value ]
              learner.Targets(lambda, table.At [| 0; 1 |], log) |> ignore

          let weights, labels = ExampleWeights.PerRow 2, Corrections.LabelModel(model, 2)
          judge (DataLearner.Combine(weights, labels)) log
          judge (DataLearner.Combine(labels, weights)) log

          refused<ArgumentException> [ "both learn weights"; "a weight a row"; "a weight a source" ] (fun () ->
              judge (DataLearner.Combine(weights, ExampleWeights.PerSource 2)) log)

          refused<ArgumentException> [ "both learn labels" ] (fun () ->
              judge (DataLearner.Combine(Corrections.FromTerms 2, labels)) log)

          for learner in [ ExampleWeights.FromFeatures 2; Corrections.FromTerms 2 ] do
              let lambda = asParams [ for struct (name, value) in learner.Start() -> name, value ]

              refused<ArgumentException> [ "Float64"; "Float32"; "RowTable" ] (fun () ->
                  learner.Targets(lambda, table.At [| 0; 1 |], log.to_type torch.float64)
                  |> ignore)

      testCase "labels that are no class are named"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let log = torch.zeros (2L, 3L) - log 3.0

          for label in [ 3L; -1L ] do
              let labels = torch.tensor [| 0L; label |]

              refused<ArgumentException> [ $"label {label}"; "3 classes" ] (fun () ->
                  Bootstrapping.Soft(log, labels) |> ignore)

              refused<ArgumentException> [ $"label {label}"; "3 classes" ] (fun () ->
                  Bootstrapping.Hard(log, labels) |> ignore)

      testCase "after the end it says so; an average follows its own parameters alone"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let table = new RowTable(2, [| 0; 1 |])
          (table :> IDisposable).Dispose()
          refused<ObjectDisposedException> [ "RowTable" ] (fun () -> table.At [| 0 |] |> ignore)

          let named names =
              asParams [ for name, size in names -> name, torch.ones [| size |] ]

          let average = new AveragedParameters(named [ "a", 2L; "b", 3L ])
          average.Follow(named [ "a", 2L; "b", 3L ])

          for other in [ [ "b", 3L; "a", 2L ]; [ "a", 3L; "b", 2L ]; [ "a", 2L; "c", 3L ] ] do
              refused<ArgumentException> [ "other parameters" ] (fun () -> average.Follow(named other))

          (average :> IDisposable).Dispose()

          refused<ObjectDisposedException> [ "AveragedParameters" ] (fun () ->
              average.Follow(named [ "a", 2L; "b", 3L ]))

          refused<ObjectDisposedException> [ "AveragedParameters" ] (fun () -> average.Parameters |> ignore)

      testCase "a table of many classes takes no room for rows times classes, and tells the same"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let labels = Array.init 2000 (fun row -> row * 50)
          let before = GC.GetAllocatedBytesForCurrentThread()
          use table = new RowTable(100_000, labels)
          let batch = table.At [| 7; 3 |]
          Expect.isLessThan (GC.GetAllocatedBytesForCurrentThread() - before) 50_000_000L "bytes"
          Expect.equal (batch.Given.argmax(1L).data<int64>().ToArray()) [| 350L; 150L |] "labels"
          Expect.equal (batch.Given.sum().item<float32> ()) 2f "and nothing else"

          let soft =
              Array.init 3 (fun row -> Array.init 3 (fun c -> if c = row then 1.0 else 0.0))

          use hard = new RowTable(3, [| 0; 1; 2 |], dtype = torch.float64)
          use given = new RowTable(3, [| 0; 1; 2 |], soft, dtype = torch.float64)

          Expect.isTrue
              ((hard.At [| 2; 0 |]).Given.Equals((given.At [| 2; 0 |]).Given))
              "as one-hot rows that are given"

      testCase "adjustment: a class without a target has a share all the same"
      <| fun _ ->
          use _ = torch.NewDisposeScope()

          let log, targets =
              torch.zeros (1L, 2L) - log 2.0, torch.tensor (array2D [ [ 1f; 0f ] ])

          let prior = LogitAdjustment.Prior([| 0; 1 |], 2)

          for pseudo in [ 0.0; -1.0; nan; infinity ] do
              refused<ArgumentException> [ "above 0" ] (fun () ->
                  LogitAdjustment.Apply(log, targets, prior, pseudo) |> ignore)

          let adjusted = LogitAdjustment.Apply(log, targets, prior, 1e-3)
          Expect.isTrue ((adjusted * targets).sum().isfinite().item<bool> ()) "finite"

      testCase "no tensor is left behind by a table, an average, a judgement"
      <| fun _ ->
          let live () =
              GC.Collect()
              GC.WaitForPendingFinalizers()
              torch.NewDisposeScope().Dispose()
              DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount

          let work () =
              use table = new RowTable(3, [| 0; 1; 2 |], votes = [| [| 0 |]; [| 1 |]; [| -1 |] |])
              use _ = torch.NewDisposeScope()
              let learner = ExampleWeights.FromFeatures(3, 1)
              let named = [ for struct (name, value) in learner.Start() -> name, value ]
              use average = new AveragedParameters(asParams named)
              let log = torch.nn.functional.log_softmax (torch.randn (3L, 3L), 1L)
              learner.Weights(average.Parameters, table.At [| 0; 1; 2 |], log) |> ignore

              for _, value in named do
                  value.Dispose()

          work ()
          let before = live ()
          work ()
          Expect.equal (live ()) before "tensors" ]

let tests = testList "learners" (hypergradients :: laws)
