/// One cell of the tables: a data set and a seed, what every method reached in it.
module DataPruning.Cell

open System
open System.IO
open TorchSharp
open Sama.DataOptimization
open Sama.DataPruning

/// What a method reached: accuracy, or the share of flipped labels among what it prunes. Costs are in full trainings.
type Outcome =
    {
        Method: string
        /// which rows its scores kept, in words
        Kept: string
        Share: float
        Value: float
        Search: float
        Total: float
    }

type Cell =
    { Table: string
      Data: string
      Seed: int
      Rows: int
      FullSeconds: float
      FullAccuracy: float
      Outcomes: Outcome[] }

[<NoComparison; NoEquality>]
type Settings =
    {
        Device: torch.Device
        Shares: float list
        /// of `all`
        Methods: string list
        /// options of a seed whose trainings are kept under a name
        Options: string -> int -> PruningOptions
    }

/// Half of the images is there to be trained on, half judges, whatever the seed.
[<NoComparison; NoEquality>]
type Task =
    { Name: string
      Images: ImageSet
      Train: int[]
      Judge: int[] }

/// To tune by, a fifth of the training half judges in the other half's place.
let taskOf (heldOut: bool) (name: string) (images: ImageSet) : Task =
    let order = Array.init images.Count id
    Random(0).Shuffle order
    let train, rest = Array.splitAt (images.Count / 2) order

    let train, judge =
        if heldOut then
            Array.splitAt (train.Length * 4 / 5) train
        else
            train, rest

    { Name = name
      Images = images
      Train = Array.sort train
      Judge = Array.sort judge }

/// A pruner over rows of a task, and its accuracy on the rows that judge.
type Bench
    (settings: Settings, task: Task, title: string, seed: int, net: string, labels: int[], rows: int[], clean: int[]) =
    let model = new ImageClassifier(task.Images, net, settings.Device)
    let pruner = new Pruner(model, labels, rows, clean, settings.Options title seed)

    new(settings, task: Task, title, seed, net) =
        new Bench(settings, task, title, seed, net, task.Images.Labels, task.Train, null)

    member _.Pruner = pruner

    member _.Accuracy(theta: float32[]) : float =
        let truths = task.Judge |> Array.map (fun row -> task.Images.Labels[row])
        Accuracy.Share(Rows.Argmax(pruner.Predict(theta, task.Judge)), truths)

    /// Rows that a score keeps, each class its share. Coverage-centric selection cuts nothing off, a tenth where 30 % and less
    /// are kept.
    member _.Kept(score: PruningScore, share: float) : int[] =
        let cutoff =
            if score.Method.StartsWith "ccs-" && share <= 0.3 then
                0.1
            else
                0.0

        score.Keep(share, rows |> Array.map (fun row -> labels[row]), seed, cutoff)
        |> Array.map (fun place -> rows[place])

    member bench.Cell(table: string, outcomes: Outcome seq) : Cell =
        let struct (theta, full) = pruner.Full()

        { Table = table
          Data = task.Name
          Seed = seed
          Rows = rows.Length
          FullSeconds = full
          FullAccuracy = bench.Accuracy theta
          Outcomes =
            [| for outcome in outcomes ->
                   { outcome with
                       Search = outcome.Search / full
                       Total = outcome.Total / full } |] }

    interface IDisposable with
        member _.Dispose() =
            (pruner :> IDisposable).Dispose()
            (model :> IDisposable).Dispose()

let private scored =
    "random el2n-1 el2n-10 grand-10 forgetting aum ccs-aum easy-el2n-1 sama sama-rows easy-sama ccs-sama judged-sama judged-el2n-1"
        .Split
        ' '
    |> List.ofArray

/// Trainings whose rows change, by the losses or by scores of a method.
let private dynamic =
    [ "infobatch", (DynamicPruning.InfoBatch, None)
      "infobatch-sama", (DynamicPruning.InfoBatch, Some "sama")
      "dynams", (DynamicPruning.DynaMs, None) ]

/// Names of all methods of the first table.
let all = scored @ List.map fst dynamic

let private outcome name kept share value search train =
    { Method = name
      Kept = kept
      Share = share
      Value = value
      Search = search
      Total = search + train }

/// Accuracy by method and share kept, and what it cost.
let methods (settings: Settings) (task: Task) (seed: int) : Cell =
    use bench = new Bench(settings, task, $"{task.Name} {seed}", seed, "lenet")
    let pruner = bench.Pruner
    // the unit of costs, before what shares its training
    pruner.Full() |> ignore

    let reached share name =
        match dynamic |> List.tryFind (fst >> (=) name) with
        | None ->
            let score = pruner.Score name

            let struct (theta, seconds) =
                pruner.Train($"{name} {share}", bench.Kept(score, share))

            outcome name score.KeptName share (bench.Accuracy theta) score.Seconds seconds
        | Some(_, (kind, by)) ->
            let by = by |> Option.map pruner.Score
            let scores = by |> Option.map _.Scores |> Option.toObj

            let struct (theta, seconds, choice) =
                pruner.TrainDynamic($"{name} {share}", kind, share, scores = scores)

            let search = choice + (by |> Option.map _.Seconds |> Option.defaultValue 0.0)
            outcome name "" share (bench.Accuracy theta) search (seconds - choice)

    bench.Cell("methods", List.allPairs settings.Shares settings.Methods |> List.map ((<||) reached))

/// Scores found on LeNet used to train the residual net; and, on LeNet, scores by a net learned on other data. Half is kept.
let transfer (settings: Settings) (elsewhere: Task list) (task: Task) (seed: int) : Cell =
    use found = new Bench(settings, task, $"{task.Name} {seed}", seed, "lenet")
    use other = new Bench(settings, task, $"{task.Name} {seed} resnet", seed, "resnet")

    let trained (on: Bench) name (score: PruningScore) =
        let struct (theta, _) = on.Pruner.Train($"{name} 0.5", found.Kept(score, 0.5))
        on.Accuracy theta

    other.Cell(
        "transfer",
        [ for name in [ "random"; "el2n-10"; "aum"; "sama"; "judged-sama" ] do
              let score = found.Pruner.Score name
              outcome $"{name} of lenet on resnet" score.KeptName 0.5 (trained other name score) score.Seconds nan

          for from in elsewhere do
              use learned = new Bench(settings, from, $"{from.Name} {seed}", seed, "lenet")
              let score = found.Pruner.ScoreBy (learned.Pruner.Score "sama").Lambda
              outcome $"net of {from.Name}" "" 0.5 (trained found $"by {from.Name}" score) score.Seconds nan ]
    )

/// A fifth of the labels is another class's: the share of these among the fifth that each method prunes, and among the fifth at
/// the other end of its scores.
let flipped (settings: Settings) (task: Task) (seed: int) : Cell =
    let random = Random(1000 + seed)
    let labels = Array.copy task.Images.Labels
    let order = Array.copy task.Train
    random.Shuffle order
    let clean, rows = order[..99], Array.sort order[100..]
    let wrong = order[100 .. 99 + rows.Length / 5] |> Set.ofArray

    for row in wrong do
        labels[row] <- (labels[row] + random.Next(1, task.Images.Classes.Length)) % task.Images.Classes.Length

    let bench title clean =
        new Bench(settings, task, $"{task.Name} {seed} {title}", seed, "lenet", labels, rows, clean)

    use plain = bench "flipped" null
    use guided = bench "guided" clean

    let outcomes name (score: PruningScore) =
        [ for suffix, highest in [ "", score.KeepsHighest; ", other end", not score.KeepsHighest ] do
              let kept = Keep.ByScore(score.Scores, 0.8, highest, seed = seed)

              let share =
                  Array.except kept [| 0 .. rows.Length - 1 |]
                  |> Array.averageBy (fun place -> if wrong.Contains rows[place] then 1.0 else 0.0)

              outcome (name + suffix) "" 0.8 share score.Seconds nan ]

    plain.Cell(
        "flipped",
        [ for name in "el2n-1 el2n-10 grand-10 forgetting aum margin sama sama-rows".Split ' ' do
              yield! outcomes name (plain.Pruner.Score name)
          for name in [ "sama"; "sama-rows" ] do
              yield! outcomes $"{name}, 100 clean" (guided.Pruner.Score name) ]
    )
