namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices

/// A way of training: its name, the trainings it is made of, θ given a part of the clean rows.
[<NoComparison; NoEquality>]
type internal Way =
    { Name: string
      Uses: CleanPart -> string list
      Train: CleanPart -> float32[] }

/// Cleaning of noisy or weak labels with few clean rows, which harms nobody: candidates are trained on a part of the clean
/// rows and judged on the rest, fold by fold; the one that is chosen, in doubt the control, is trained on all of them.
[<AbstractClass; Sealed>]
type DataCleaning =

    /// Names of the ways, in order of preference: the control first. Label models are among them where there are votes.
    static member Candidates(votes: bool) : string[] =
        [| "noisy, then clean"
           "noisy"
           "clean only"
           "confident learning, then clean"
           if votes then
               "label model, then clean"
           "SAMA weights"
           "SAMA correction"
           "SAMA weights, then clean"
           "SAMA correction, then clean" |]

    /// Names that are asked for, in order.
    static member private Considered(all: string[], ways: IReadOnlyList<string>) : string[] =
        if isNull ways then
            all
        else
            for name in ways do
                let known = String.Join(", ", all)

                Check.that "options.Ways" (Array.contains name all) (fun () ->
                    $"'{name}' is no way of training here; there are: {known}")

            all |> Array.filter (fun name -> name = all[0] || Seq.contains name ways)

    static member private Ways(recipes: Recipes, names: string[]) : Way[] =
        let tag name (part: CleanPart) = $"{name}, {part.Tag}"
        let tuned name (part: CleanPart) = $"{name}, then clean, {part.Tag}"

        names
        |> Array.map (fun name ->
            let uses, train =
                match name with
                | "noisy, then clean" ->
                    (fun part -> [ "noisy"; tuned "noisy" part ]),
                    (fun part -> recipes.Tuned("noisy", recipes.Noisy(), part))
                | "noisy" -> (fun _ -> [ "noisy" ]), (fun _ -> recipes.Noisy())
                | "clean only" -> (fun part -> [ tag name part ]), recipes.CleanOnly
                | "confident learning, then clean" ->
                    (fun part -> [ "out of fold"; "confident learning"; tuned "confident learning" part ]),
                    (fun part -> recipes.Tuned("confident learning", recipes.Confident(), part))
                | "label model, then clean" ->
                    (fun part -> [ tag "label model" part; tuned "label model" part ]),
                    (fun part -> recipes.Tuned("label model", recipes.ByLabelModel part, part))
                | "SAMA weights" -> (fun part -> [ tag name part ]), (fun part -> (recipes.SamaWeights part).Theta)
                | "SAMA correction" ->
                    (fun part -> [ tag name part ]), (fun part -> (recipes.SamaCorrection part).Theta)
                | "SAMA weights, then clean" ->
                    (fun part -> [ tag "SAMA weights" part; tuned "SAMA weights" part ]),
                    (fun part -> recipes.Tuned("SAMA weights", (recipes.SamaWeights part).Theta, part))
                | "SAMA correction, then clean" ->
                    (fun part -> [ tag "SAMA correction" part; tuned "SAMA correction" part ]),
                    (fun part -> recipes.Tuned("SAMA correction", (recipes.SamaCorrection part).Theta, part))
                | other -> invalidOp other

            { Name = name
              Uses = uses
              Train = train })

    static member private Identity(model: IRowClassifier, data: CleaningData, options: CleaningOptions, size: int64) =
        let votes =
            if isNull data.Votes then
                Seq.empty
            else
                Seq.concat data.AllVotes

        let digest =
            Seq.concat
                [ seq data.Labels
                  seq data.CleanLabels
                  votes
                  (if isNull data.Terms then
                       Seq.empty
                   else
                       Seq.concat data.Terms) ]
            |> CleaningStore.Digest

        let o = options

        String.Join(
            "\n",
            [ $"data {digest}, {data.Train} + {data.Clean} + {data.Others} rows, {data.Classes} classes"
              $"model {model.GetType().FullName}, {size} numbers, rate {model.Rate}"
              $"seed {o.Seed}, steps {o.Steps} and {o.TuningSteps}, batch {o.Batch} and {o.MetaBatch}"
              $"rates {o.Rate}, {o.TuningRate}, {o.MetaRate}, unroll {o.Unroll}, alpha {o.Alpha}"
              $"clean share {o.CleanShare}, strength {o.Strength}, terms from {o.TermsFrom}, smoothing {o.Smoothing}"
              $"folds {o.Folds} and {o.NoisyFolds}" ]
        )

    /// Trains, judges, chooses and cleans. `names` are the classes', for the reasons (null: their numbers). The model is
    /// borrowed. ArgumentException for a model of other rows or classes or options out of range; InvalidOperationException
    /// for a state folder of other data or options; OperationCanceledException when it is cancelled: with a state folder
    /// the next call goes on from the last training that was ended.
    static member Run
        (
            model: IRowClassifier,
            data: CleaningData,
            [<Optional; DefaultParameterValue(null: CleaningOptions)>] options: CleaningOptions,
            [<Optional; DefaultParameterValue(null: string[])>] names: string[]
        ) : CleaningResult =
        Check.notNull (nameof model) model
        Check.notNull (nameof data) data
        let options = if isNull options then CleaningOptions() else options
        options.Check()

        Check.that (nameof model) (model.Classes = data.Classes) (fun () ->
            $"the model has {model.Classes} classes, the data {data.Classes}")

        let rows = data.Train + data.Clean + data.Others

        Check.that (nameof model) (model.Rows = rows) (fun () ->
            $"the model knows {model.Rows} rows, the data has {rows}")

        let names =
            if isNull names then
                Array.init data.Classes string
            else
                names

        Check.length (nameof names) data.Classes names
        let folds = min options.Folds (data.Clean / 2)

        let labelModel = not (isNull data.Votes) && not (isNull data.CleanVotes)

        let considered =
            DataCleaning.Considered(DataCleaning.Candidates labelModel, options.Ways)

        let some (start: string) =
            considered |> Array.exists _.StartsWith(start)

        let perPart =
            considered.Length - (if some "noisy" then 1 else 0)
            + (if some "label" then 1 else 0)

        let stages = 3 + perPart * (folds + (if options.TrainAll then 1 else 0))
        use recipes = new Recipes(model, data, options, stages)
        recipes.Open(DataCleaning.Identity(model, data, options, recipes.Trainer.Layout.Length))
        let ways = DataCleaning.Ways(recipes, considered)
        let fold = CrossFit.Folds(data.CleanLabels, folds, options.Seed)

        let parts =
            [| for held in 0 .. folds - 1 ->
                   let inside, outside =
                       Array.init data.Clean id |> Array.partition (fun row -> fold[row] <> held)

                   { Tag = $"fold {held + 1} of {folds}"
                     Places = inside },
                   outside |]

        let everything =
            { Tag = "all"
              Places = Array.init data.Clean id }

        let cleanRow place = data.Train + place

        let heldOut =
            ways
            |> Array.map (fun way ->
                let parts =
                    [| for part, outside in parts ->
                           { Rows = outside
                             Probabilities = recipes.Trainer.Predict(way.Train part, Array.map cleanRow outside) } |]

                Candidate.Pooled(way.Name, parts, data.CleanLabels))

        let choice = Selection.Choose(heldOut, options.Selection)

        let final =
            ways
            |> Array.mapi (fun index way ->
                if options.TrainAll || index = choice.Index then
                    way.Train everything
                else
                    null)

        let theta = final[choice.Index]

        let predictions =
            final
            |> Array.map (fun theta ->
                if isNull theta || data.Others = 0 then
                    null
                else
                    recipes.Trainer.Predict(theta, data.OtherRows))

        let targets =
            [ for part, _ in parts do
                  if some "SAMA correction" then
                      let struct (_, targets) =
                          recipes.Judge(recipes.Correction part, recipes.SamaCorrection part)

                      targets ]

        let weights =
            [ for part, _ in parts do
                  if some "SAMA weights" then
                      let struct (weights, _) = recipes.Judge(recipes.Weights(), recipes.SamaWeights part)
                      weights ]

        { Choice = choice
          Candidates =
            ways
            |> Array.mapi (fun index way ->
                { Name = way.Name
                  HeldOut = heldOut[index]
                  Predictions = predictions[index]
                  Seconds = recipes.Seconds(way.Uses(if isNull final[index] then fst parts[0] else everything)) })
          Rows =
            Verdicts.ofRows
                names
                data
                (recipes.OutOfFold())
                targets
                weights
                (recipes.Trainer.Predict(theta, recipes.Train))
          Layout = recipes.Trainer.Layout
          Theta = theta
          Predictions = predictions[choice.Index] }
