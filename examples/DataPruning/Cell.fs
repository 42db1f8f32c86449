/// One cell of the tables: a data set and a seed, what every method reached in it.
module DataPruning.Cell

open System
open System.IO
open TorchSharp
open Sama.DataOptimization
open Sama.DataPruning

[<NoComparison>]
type Settings =
    {
        Device: torch.Device
        Model: string
        /// to which scores of `Model` are carried
        Other: string
        Shares: float[]
        /// of `all`
        Methods: string list
        /// rows of the training half that are taken, at most
        TrainRows: int
        HeldOut: bool
        /// a folder for what is trained, or null
        State: string
        Options: string -> int -> PruningOptions
    }

/// Half of the rows is there to be trained on, half judges, whatever the seed.
[<NoComparison; NoEquality>]
type Task =
    { Name: string
      Images: ImageSet
      Train: int[]
      Judge: int[] }

/// What a method reached: accuracy, or the share of flipped labels among what it prunes. Costs are in full trainings.
type Outcome =
    {
        Method: string
        /// which rows are kept
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

/// To tune by, a fifth of the training half judges in the other half's place.
let taskOf (settings: Settings) (name: string) (images: ImageSet) : Task =
    let order = Array.init images.Count id
    Random(0).Shuffle order
    let train, rest = Array.splitAt (images.Count / 2) order

    let train, judge =
        if settings.HeldOut then
            Array.splitAt (train.Length * 4 / 5) train
        else
            train, rest

    let train = Array.truncate settings.TrainRows train

    { Name = name
      Images = images
      Train = Array.sort train
      Judge = Array.sort judge }

let private pruner settings (title: string) seed (model: ImageClassifier) labels rows clean =
    let options: PruningOptions = settings.Options title seed

    if not (isNull settings.State) then
        options.StateFolder <- Path.Combine(settings.State, title.Replace(' ', '-'))

    new Pruner(model, labels, rows, clean, options)

let private accuracy (task: Task) (pruner: Pruner) (theta: float32[]) =
    let predicted = pruner.Predict(theta, task.Judge) |> Rows.Argmax
    Accuracy.Share(predicted, task.Judge |> Array.map (fun row -> task.Images.Labels[row]))

let private ownLabels (task: Task) =
    task.Train |> Array.map (fun row -> task.Images.Labels[row])

/// Rows to keep by a method's scores: each class keeps its share. Coverage-centric selection cuts nothing off, a tenth where
/// 30 % and less are kept.
let private keptBy (pruner: Pruner) (labels: int[]) (share: float) (seed: int) (name: string) =
    let score = pruner.Score name
    score, score.Keep(share, labels, seed, (if name.StartsWith "ccs-" && share <= 0.3 then 0.1 else 0.0))

let private scored =
    [ "random"
      "el2n-1"
      "el2n-10"
      "grand-10"
      "forgetting"
      "aum"
      "ccs-aum"
      "easy-el2n-1"
      "sama"
      "sama-rows"
      "easy-sama"
      "ccs-sama"
      "judged-sama"
      "judged-el2n-1" ]

let private dynamic =
    [ "infobatch", DynamicPruning.InfoBatch
      "infobatch-sama", DynamicPruning.InfoBatch
      "dynams", DynamicPruning.DynaMs ]

/// Names of all methods of the first table.
let all = scored @ List.map fst dynamic

let private cell table (task: Task) seed (full: float) (reached: float) outcomes =
    { Table = table
      Data = task.Name
      Seed = seed
      Rows = task.Train.Length
      FullSeconds = full
      FullAccuracy = reached
      Outcomes = Array.ofSeq outcomes }

/// Accuracy by method and share kept, and what it cost.
let methods (settings: Settings) (task: Task) (seed: int) : Cell =
    use model = new ImageClassifier(task.Images, settings.Model, settings.Device)

    use pruner =
        pruner settings $"{task.Name} {seed}" seed model task.Images.Labels task.Train null

    let struct (theta, full) = pruner.Full()
    let labels = ownLabels task

    let outcome name (kept: string) share (theta: float32[]) search train =
        { Method = name
          Kept = kept
          Share = share
          Value = accuracy task pruner theta
          Search = search / full
          Total = (search + train) / full }

    cell
        "methods"
        task
        seed
        full
        (accuracy task pruner theta)
        [ for share in settings.Shares do
              for name in settings.Methods |> List.except (List.map fst dynamic) do
                  let score, kept = keptBy pruner labels share seed name
                  let rows = kept |> Array.map (fun place -> task.Train[place])
                  let struct (theta, seconds) = pruner.Train($"{name} {share}", rows)
                  outcome name score.KeptName share theta score.Seconds seconds

              for name, kind in dynamic |> List.filter (fun (name, _) -> List.contains name settings.Methods) do
                  let by =
                      if name.EndsWith "-sama" then
                          pruner.Score "sama"
                      else
                          pruner.Score "random"

                  let scores = if by.Method = "sama" then by.Scores else null

                  let struct (theta, all, choice) =
                      pruner.TrainDynamic($"{name} {share}", kind, share, scores = scores)

                  outcome name "" share theta (by.Seconds + choice) (all - choice) ]

/// Scores found on one model used to train another; and, on the first one, scores by a net learned on other data.
let transfer (settings: Settings) (task: Task) (elsewhere: Task list) (seed: int) : Cell =
    use first = new ImageClassifier(task.Images, settings.Model, settings.Device)

    use found =
        pruner settings $"{task.Name} {seed}" seed first task.Images.Labels task.Train null

    use second = new ImageClassifier(task.Images, settings.Other, settings.Device)

    use other =
        pruner settings $"{task.Name} {seed} {settings.Other}" seed second task.Images.Labels task.Train null

    let struct (theta, full) = other.Full()
    let labels = ownLabels task

    let shares =
        settings.Shares |> Array.filter (fun share -> share = 0.7 || share = 0.5)

    let rowsOf kept =
        kept |> Array.map (fun place -> task.Train[place])

    let outcome name share value search =
        { Method = name
          Kept = ""
          Share = share
          Value = value
          Search = search
          Total = nan }

    cell
        "transfer"
        task
        seed
        full
        (accuracy task other theta)
        [ for share in shares do
              for name in [ "random"; "el2n-10"; "aum"; "sama" ] do
                  let score, kept = keptBy found labels share seed name
                  let struct (theta, _) = other.Train($"{name} {share}", rowsOf kept)

                  outcome
                      $"{name} of {settings.Model} on {settings.Other}"
                      share
                      (accuracy task other theta)
                      (score.Seconds / full)

          for from in elsewhere do
              use model = new ImageClassifier(from.Images, settings.Model, settings.Device)

              use learned =
                  pruner settings $"{from.Name} {seed}" seed model from.Images.Labels from.Train null

              let score = found.ScoreBy (learned.Score "sama").Lambda
              let struct (_, full) = found.Full()

              for share in shares do
                  let kept = score.Keep(share, labels, seed)
                  let struct (theta, _) = found.Train($"by {from.Name} {share}", rowsOf kept)

                  outcome
                      $"net of {from.Name}, {settings.Model}"
                      share
                      (accuracy task found theta)
                      (score.Seconds / full) ]

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

    use model = new ImageClassifier(task.Images, settings.Model, settings.Device)

    use plain =
        pruner settings $"{task.Name} {seed} flipped" seed model labels rows null

    use guided =
        pruner settings $"{task.Name} {seed} guided" seed model labels rows clean

    let struct (theta, full) = plain.Full()

    let share (kept: int[]) =
        let pruned = Array.except kept [| 0 .. rows.Length - 1 |]

        pruned
        |> Array.averageBy (fun place -> if wrong.Contains rows[place] then 1.0 else 0.0)

    let outcomes name (score: PruningScore) =
        [ for suffix, highest in [ "", score.KeepsHighest; ", other end", not score.KeepsHighest ] ->
              { Method = name + suffix
                Kept = ""
                Share = 0.8
                Value = share (Keep.ByScore(score.Scores, 0.8, highest, seed = seed))
                Search = score.Seconds / full
                Total = nan } ]

    cell
        "flipped"
        task
        seed
        full
        (accuracy task plain theta)
        [ for name in
              [ "el2n-1"
                "el2n-10"
                "grand-10"
                "forgetting"
                "aum"
                "margin"
                "sama"
                "sama-rows" ] do
              yield! outcomes name (plain.Score name)

          for name in [ "sama"; "sama-rows" ] do
              yield! outcomes $"{name}, 100 clean" (guided.Score name) ]
