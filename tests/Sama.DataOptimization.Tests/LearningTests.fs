/// Learners that SAMA trains on problems whose wrong labels are known.
module Sama.DataOptimization.Tests.LearningTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

/// Three Gaussian classes, 30 % of the labels turned to the next class; source 1 has most of them.
type private Toy(seed: int, noise: float) =
    let random = Random seed
    let count, classes = 400, 3
    let truths = Array.init count (fun _ -> random.Next classes)
    let wrong = truths |> Array.map (fun _ -> random.NextDouble() < noise)

    let given =
        Array.map2 (fun truth wrong -> if wrong then (truth + 1) % classes else truth) truths wrong

    let points (truths: int[]) =
        truths
        |> Array.collect (fun truth ->
            Array.init 4 (fun d -> float32 ((if d = truth then 2.0 else 0.0) + normal random)))
        |> fun flat -> torch.tensor(flat).view (int64 truths.Length, 4L)

    let x = points truths
    let cleanTruths = Array.init 30 (fun row -> row % classes)
    let cleanX = points cleanTruths

    member _.Wrong = wrong
    member _.Truths = truths
    member _.Given = given
    member _.X = x
    member _.CleanX = cleanX
    member _.CleanY = torch.tensor (Array.map int64 cleanTruths)
    member _.CleanTruths = cleanTruths
    member _.Sources = wrong |> Array.map (fun wrong -> if wrong = (random.NextDouble() < 0.9) then 1 else 0)

    /// Four rules: three right in most of their votes, the last one never.
    member _.VotesOf(truths: int[]) : int[][] =
        truths
        |> Array.map (fun truth ->
            [| for rule in 0..3 ->
                   if random.NextDouble() < 0.4 then -1
                   elif rule = 3 then (truth + 1) % classes
                   elif random.NextDouble() < 0.75 then truth
                   else random.Next classes |])

let private rowsOf (draw: Draw) count size =
    Random(int (draw.RandomSeed &&& 0x7fffffffL)).GetItems(Array.init count id, size)

let private log (theta: Params) (x: Tensor) =
    torch.nn.functional.log_softmax (torch.nn.functional.linear (x, theta["w"], theta["b"]), 1L)

let private start = [ "w", torch.zeros (3L, 4L); "b", torch.zeros 3L ]

/// λ and averaged predictions after training.
let private learn (toy: Toy) (table: RowTable) (learner: DataLearner) steps : Params * Tensor =
    use average =
        new AveragedParameters(Params.frozen (Layout.ofNamed start) (Layout.ravel start))

    let problem =
        Problem.create
            { BilevelOptions.Default with Unroll = 1 }
            (Hypergradient.samaWith
                { SamaOptions.Default with
                    Alpha = Nullable 1e-2 })
            [ Level.create "net" start (adam 2e-2) (fun draw -> table.At(rowsOf draw table.Count 64)) (fun pass theta lambda batch ->
                  let x = toy.X.index_select (0L, batch.Rows)
                  learner.Loss(pass, lambda, batch, log theta x, (log average.Parameters x).detach ()))
              learner.Level(
                  adam 5e-2,
                  (fun _ -> toy.CleanX),
                  (fun _ theta x -> torch.nn.functional.nll_loss (log theta x, toy.CleanY))
              ) ]

    use run = new BilevelRun(problem, 0L)

    for _ in 1..steps do
        run.Step() |> ignore
        average.Follow run.Theta

    Params.frozen run.Lambda.Layout (run.Lambda.Vector.clone ()), (log average.Parameters toy.X).detach ()

let private auroc (scores: float[]) (wrong: bool[]) =
    Ranking.Auroc(scores, wrong |> Array.map not).Value

let private weighs name least (learner: Toy -> DataLearner) =
    testCase $"weights: {name} separate flipped labels"
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        let toy = Toy(1, 0.3)
        use table = new RowTable(3, toy.Given, sources = toy.Sources)
        let learner = learner toy
        let lambda, log = learn toy table learner 300
        let weights = Rows.Vector(learner.Weights(lambda, table.At(Array.init 400 id), log, log))
        let found = auroc weights toy.Wrong
        Expect.isGreaterThan found least "AUROC"

let private corrects name (learner: Toy -> int[][] -> int[][] -> DataLearner) =
    testCase $"labels: {name} corrects more than it spoils"
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        let toy = Toy(2, 0.3)
        let votes = toy.VotesOf toy.Truths
        let given = MajorityVote.Labels(votes, 3)

        let given =
            Array.mapi (fun row label -> if label < 0 then toy.Given[row] else label) given

        let texts = toy.Truths |> Array.map (fun truth -> $"about{truth} x")
        use table = new RowTable(3, given, votes = votes, terms = HashedTerms.FromTexts(texts, 64))
        let learner = learner toy votes (toy.VotesOf toy.CleanTruths)
        let lambda, log = learn toy table learner 300
        let labels = Rows.FromTensor(learner.Targets(lambda, table.At(Array.init 400 id), log)) |> Rows.Argmax
        let before, after = Accuracy.Share(given, toy.Truths), Accuracy.Share(labels, toy.Truths)
        Expect.isGreaterThan after (before + 0.05) $"{before:F3} -> {after:F3}"

let tests =
    testList
        "learning"
        [ weighs "features" 0.9 (fun _ -> ExampleWeights.FromFeatures 3)
          weighs "the distance to the averaged model beside the loss" 0.9 (fun _ ->
              ExampleWeights.FromFeatures(3, 0, RowFeatures.Loss ||| RowFeatures.Distance))
          weighs "one a row" 0.75 (fun _ -> ExampleWeights.PerRow 400)
          weighs "one a source" 0.75 (fun _ -> ExampleWeights.PerSource 2)
          corrects "a label model" (fun toy votes clean ->
              Corrections.LabelModel(LogLinear.Fit(votes, 3, clean, toy.CleanTruths), 30))
          corrects "a table of terms" (fun _ _ _ -> Corrections.FromTerms(3, 4, 64))

          testCase "a module is the base level as well as a function"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let toy = Toy(1, 0.3)
              use table = new RowTable(3, toy.Given)
              torch.random.manual_seed 0L |> ignore
              use net = torch.nn.Linear(4L, 3L)
              let learner = ExampleWeights.FromFeatures 3

              let losses (x: Tensor) (y: Tensor) =
                  torch.nn.functional.cross_entropy (net.call x, y, reduction = torch.nn.Reduction.None)

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.ofModuleGeneral "net" net (adam 2e-2) (fun draw -> table.At(rowsOf draw 400 64)) (fun pass levels batch ->
                            let losses = losses (toy.X.index_select (0L, batch.Rows)) batch.Labels
                            learner.WeighedLoss(pass, levels[learner.Name], batch, losses))
                        learner.Level(adam 5e-2, (fun _ -> toy.CleanX), (fun _ _ x -> (losses x toy.CleanY).mean ())) ]

              use run = new BilevelRun(problem, 0L)

              for _ in 1..300 do
                  run.Step() |> ignore

              let log = torch.nn.functional.log_softmax (net.call toy.X, 1L)
              let weights = learner.Weights(run.Lambda, table.At(Array.init 400 id), log)
              Expect.isGreaterThan (auroc (Rows.Vector weights) toy.Wrong) 0.9 "AUROC" ]
