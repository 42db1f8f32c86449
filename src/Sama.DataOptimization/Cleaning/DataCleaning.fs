namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Diagnostics
open System.Runtime.InteropServices

/// Cleaning of noisy or weak labels with few clean rows. Ways of training are tried on a part of the clean rows and judged
/// on the rest, fold by fold; the one that is chosen, in doubt the control, is trained on all of them.
[<AbstractClass; Sealed>]
type DataCleaning =

    /// Names of the ways, in order of preference: the control, then the average of four trainings, fine-tuned. Label models are
    /// among them where there are votes.
    static member Candidates(votes: bool) : string[] = Ways.names votes

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
            |> StageStore.Digest

        let o = options

        String.Join(
            "\n",
            [ "form 4"
              $"data {digest}, {data.Train} + {data.Clean} + {data.Others} rows, {data.Classes} classes"
              $"model {model.GetType().FullName}, {size} numbers, rate {model.Rate}"
              $"seed {o.Seed}, steps {o.Steps} and {o.TuningSteps}, batch {o.Batch} and {o.MetaBatch}"
              $"rates {o.Rate}, {o.TuningRate}, {o.MetaRate}, unroll {o.Unroll}, alpha {o.Alpha}"
              $"clean share {o.CleanShare}, strength {o.Strength}, terms from {o.TermsFrom}, smoothing {o.Smoothing}"
              $"folds {o.Folds} and {o.NoisyFolds}" ]
        )

    static member private Folds(data: CleaningData, options: CleaningOptions) : Fold list =
        let count = min options.Folds (data.Clean / 2)
        let fold = CrossFit.Folds(data.CleanLabels, count, options.Seed)

        [ for k in 0 .. count - 1 ->
              let inside, held =
                  Array.init data.Clean id |> Array.partition (fun place -> fold[place] <> k)

              { Part =
                  { Tag = $"fold {k + 1} of {count}"
                    Places = inside }
                Held = held } ]

    /// How many stages there are, if all ways are trained on all clean rows.
    static member private Count(considered: string[], folds: int) : int =
        let recipes = Ways.recipes considered

        let shared =
            [ "noisy"; "confident learning" ]
            |> List.filter (fun name -> Set.contains name recipes)

        1 + shared.Length + (recipes.Count - shared.Length) * (folds + 1)

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
        options.Validate()

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

        let considered =
            let votes = not (isNull data.Votes) && not (isNull data.CleanVotes)
            DataCleaning.Considered(Ways.names votes, options.Ways)

        let folds = DataCleaning.Folds(data, options)
        let begun = Stopwatch.GetTimestamp()

        let stages =
            Stages(
                options.StateFolder,
                options.Progress,
                options.Ranks,
                options.StopIfCancelled,
                DataCleaning.Count(considered, folds.Length),
                fun () -> Stopwatch.GetElapsedTime(begun).TotalSeconds
            )

        use recipes = new Recipes(model, data, options, folds, stages)
        stages.Open(DataCleaning.Identity(model, data, options, recipes.Trainer.Layout.Length))

        let everything =
            { Tag = "all"
              Places = Array.init data.Clean id }

        let ways = considered |> Array.map (Ways.make recipes everything)

        let heldOut =
            ways
            |> Array.map (fun way ->
                let parts =
                    [| for fold in folds ->
                           { Rows = fold.Held
                             Probabilities = way.HeldOut fold } |]

                (Candidate.Pooled(way.Name, parts, data.CleanLabels)).Calibrated data.CleanLabels)

        let choice =
            Selection.Choose(heldOut, options.Selection.Among(Ways.names true, considered))

        let thetas =
            ways
            |> Array.mapi (fun index way ->
                if options.TrainAll || index = choice.Index then
                    way.Train()
                else
                    null)

        let theta = thetas[choice.Index]

        let predictions =
            thetas
            |> Array.map (fun theta ->
                if isNull theta || data.Others = 0 then
                    null
                else
                    recipes.Trainer.Predict(theta, data.OtherRows))

        let some (start: string) =
            considered |> Array.exists _.StartsWith(start)

        let targets =
            [ for fold in folds do
                  if some "SAMA correction" then
                      let struct (_, targets) =
                          recipes.Judge(recipes.Correction fold.Part, recipes.SamaCorrection fold.Part)

                      targets ]

        let weights =
            [ for fold in folds do
                  if some "SAMA weights" then
                      let struct (weights, _) =
                          recipes.Judge(recipes.Weights(), recipes.SamaWeights fold.Part)

                      weights ]

        { Choice = choice
          Candidates =
            ways
            |> Array.mapi (fun index way ->
                let part = if isNull thetas[index] then folds.Head.Part else everything

                { Name = way.Name
                  HeldOut = heldOut[index]
                  Predictions = predictions[index]
                  Seconds = stages.Seconds(way.Stages part) })
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
