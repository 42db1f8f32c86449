/// What the choice of a cleaning gains and loses against the control on drawn problems with many kinds of wrong labels.
module Sama.Benchmarks.Choice

open System
open System.Collections.Generic
open System.Text.Json.Nodes
open TorchSharp
open Sama
open Sama.DataOptimization

/// A linear classifier of points.
type private Linear(points: float32[][], classes: int) =
    interface IRowClassifier with
        member _.Classes = classes
        member _.Rows = points.Length
        member _.Rate = 1e-2

        member _.Start(_) : IReadOnlyList<struct (string * Tensor)> =
            [| struct ("w", torch.zeros (int64 classes, int64 points[0].Length))
               struct ("b", torch.zeros (int64 classes)) |]

        member _.Read(rows: int[]) : Tensor[] =
            [| torch.tensor(rows |> Array.collect (fun row -> points[row])).view (int64 rows.Length, -1L) |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], _) : Tensor =
            torch.nn.functional.log_softmax (torch.nn.functional.linear (inputs[0], theta["w"], theta["b"]), 1L)

        member _.Dispose() = ()

let private classes, features = 4, 30
let private train, test = 800, 1000

let private normal (random: Random) =
    sqrt (-2.0 * log (1.0 - random.NextDouble()))
    * cos (2.0 * Math.PI * random.NextDouble())

/// How labels go wrong: a row's label or votes, given its class and its point.
type private Noise =
    | Labels of (Random -> int -> float32[] -> int)
    | Votes of rules: int * (Random -> int -> int -> float32[] -> int)

let private other (random: Random) label =
    (label + 1 + random.Next(classes - 1)) % classes

let private orElse (random: Random) share label wrong =
    if random.NextDouble() < share then label else wrong

let private kinds: (string * Noise) list =
    [ "labels right", Labels(fun _ label _ -> label)
      "30 % flipped", Labels(fun r label _ -> orElse r 0.7 label (other r label))
      "45 % of one class for the next", Labels(fun r label _ -> orElse r 0.55 label ((label + 1) % classes))
      "one region wrong", Labels(fun _ label x -> if x[classes] > 0.5f then (label + 1) % classes else label)
      "labels at random", Labels(fun r _ _ -> r.Next classes)
      "8 rules of any quality",
      Votes(
          8,
          fun r rule label _ ->
              if r.Next 3 > 0 then
                  -1
              else
                  orElse r (0.2 + 0.1 * float rule) label (other r label)
      )
      "a rule for one class on most rows",
      Votes(
          6,
          fun r rule label _ ->
              if rule = 0 then orElse r 0.6 0 -1
              elif r.Next 4 > 0 then -1
              else orElse r 0.75 label (other r label)
      )
      "votes at random", Votes(5, fun r _ _ _ -> r.Next(classes + 1) - 1) ]

/// Points around the corners of a simplex; each class has as many clean rows, the last a single one.
let private problem noise perClass seed =
    let random = Random(1000 * seed + perClass)
    let clean = (classes - 1) * perClass + 1

    let truths =
        Array.init (train + clean + test) (fun row ->
            if row >= train && row < train + clean then
                (row - train) / perClass
            else
                random.Next classes)

    let points =
        truths
        |> Array.map (fun truth ->
            Array.init features (fun d -> float32 ((if d = truth then 2.0 else 0.0) + normal random)))

    let rows = train + clean

    let data =
        match noise with
        | Labels wrong ->
            let labels = Array.init train (fun row -> wrong random truths[row] points[row])

            CleaningData(classes, labels, truths[train .. rows - 1], others = test, seed = seed)
        | Votes(rules, vote) ->
            let votes =
                Array.init rows (fun row -> Array.init rules (fun rule -> vote random rule truths[row] points[row]))

            for row in votes do
                if Array.forall (fun v -> v < 0) row then
                    row[random.Next rules] <- random.Next classes

            CleaningData(
                classes,
                Array.create train -1,
                truths[train .. rows - 1],
                votes[.. train - 1],
                votes[train..],
                test,
                seed = seed
            )

    points, data, truths[rows..]

let private cell (kind: string, noise) perClass seed : JsonObject =
    let points, data, truths = problem noise perClass seed
    use model: IRowClassifier = new Linear(points, classes)

    let options =
        CleaningOptions(Seed = seed, Steps = 150, TuningSteps = 150, TrainAll = true)

    let result = DataCleaning.Run(model, data, options)

    let accuracy (way: CandidateResult) =
        Accuracy.Share(Rows.Argmax way.Predictions, truths)

    let row = JsonObject()
    row["kind"] <- JsonValue.Create kind
    row["clean rows a class"] <- JsonValue.Create perClass
    row["seed"] <- JsonValue.Create seed
    row["chosen"] <- JsonValue.Create result.Choice.Name
    row["choice"] <- JsonValue.Create(Accuracy.Share(Rows.Argmax result.Predictions, truths))

    for way in result.Candidates do
        row[way.Name] <- JsonValue.Create(accuracy way)

    row

/// The table: gains in points of the choice over the control, by kind, Student's intervals over seeds.
let private print (rows: JsonObject list) : unit =
    let number (row: JsonObject) (name: string) = row[name].GetValue<float>()

    for (kind, perClass), rows in
        rows
        |> List.groupBy (fun row -> string row["kind"], row["clean rows a class"].GetValue<int>()) do
        let gain name =
            let gains =
                [| for row in rows -> 100.0 * (number row name - number row "noisy, then clean") |]

            let over = Uncertainty.OverSeeds gains
            $"{over.Mean:F1} ({over.Low:F1} to {over.High:F1}; worst {Array.min gains:F1})"

        let control = rows |> List.averageBy (fun row -> number row "noisy, then clean")

        let others =
            rows
            |> List.filter (fun row -> string row["chosen"] <> "noisy, then clean")
            |> List.length

        let choice = gain "choice"

        printfn
            $"{kind}, {perClass} a class: control {control:F3}; choice {choice}, {others} of {rows.Length} another way"

/// `seeds` problems of each kind.
let run (seeds: int) (only: string option) (write: JsonObject list -> unit) : int =
    let rows =
        [ for seed in 0 .. seeds - 1 do
              for kind in kinds do
                  for perClass in [ 5; 20 ] do
                      if only |> Option.forall (fst kind).StartsWith then
                          cell kind perClass seed ]

    write rows
    print rows
    0
