namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices

/// Cleaning of noisy or weak labels with few clean rows. Ways of training are tried on a part of the clean rows and judged
/// on the rest, fold by fold; a mixture of them, weighted by the clean rows, is weighed against the control, and the one
/// that is chosen is trained on all of them.
[<AbstractClass; Sealed>]
type DataCleaning =

    /// Names of the ways of training: the control first, the mixture of all, "together", last. Label models are among them
    /// where there are votes.
    static member Candidates(votes: bool) : string[] =
        Array.append (Ways.names votes) [| Ways.together |]

    /// Names that are asked for, in order, without the mixture.
    static member private Considered(all: string[], ways: IReadOnlyList<string>) : string[] =
        if isNull ways then
            all
        else
            for name in ways do
                let known = String.Join(", ", all)

                Check.that "options.Ways" (Array.contains name all || name = Ways.together) (fun () ->
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
            |> CleaningStore.Digest

        let o = options

        String.Join(
            "\n",
            [ "form 2"
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
        let shared = [ "noisy"; "confident learning" ] |> List.filter (fun name -> Set.contains name recipes)
        1 + shared.Length + (recipes.Count - shared.Length) * (folds + 1) + 1

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
        let considered =
            let votes = not (isNull data.Votes) && not (isNull data.CleanVotes)
            DataCleaning.Considered(Ways.names votes, options.Ways)

        let folds = DataCleaning.Folds(data, options)
        let stages = Stages(options, DataCleaning.Count(considered, folds.Length))
        use recipes = new Recipes(model, data, options, folds, stages)
        stages.Open(DataCleaning.Identity(model, data, options, recipes.Trainer.Layout.Length))

        let everything =
            { Tag = "all"
              Places = Array.init data.Clean id }

        let ways = considered |> Array.map (Ways.make recipes everything)

        let heldOut =
            ways
            |> Array.map (fun way ->
                [| for fold in folds ->
                       { Rows = fold.Held
                         Probabilities = way.HeldOut fold } |])

        let mixture = Mixture.fit data.CleanLabels heldOut
        let pooled name parts = Candidate.Pooled(name, parts, data.CleanLabels)
        let judged = Array.map2 (fun way parts -> pooled way.Name parts) ways heldOut
        let together = pooled Ways.together mixture.HeldOut
        let choice = Selection.Choose([| judged[0]; together |], options.Selection)

        let trained name train =
            if options.TrainAll || name = choice.Name then
                train ()
            else
                null

        let thetas =
            Array.append
                (ways |> Array.map (fun way -> trained way.Name way.Train))
                [| trained Ways.together (fun () -> Mixture.train recipes everything ways mixture) |]

        let theta = thetas[if choice.Index = 0 then 0 else ways.Length]

        let predict (theta: float32[]) =
            if isNull theta || data.Others = 0 then
                null
            else
                recipes.Trainer.Predict(theta, data.OtherRows)

        let used (way: Way) (theta: float32[]) =
            way.Stages(if isNull theta then folds.Head.Part else everything)

        let candidate name heldOut weight theta stageNames =
            { Name = name
              HeldOut = heldOut
              Weight = weight
              Predictions = predict theta
              Seconds = stages.Seconds(Seq.distinct stageNames) }

        let single =
            Array.init ways.Length (fun i ->
                candidate ways[i].Name judged[i] mixture.Weights[i] thetas[i] (used ways[i] thetas[i]))

        let whole =
            let used = Seq.map2 used ways thetas |> Seq.collect id
            candidate Ways.together together 0.0 (Array.last thetas) (Seq.append used [ $"together, {everything.Tag}" ])

        let candidates = Array.append single [| whole |]
        let some (start: string) = considered |> Array.exists _.StartsWith(start)

        let targets =
            [ for fold in folds do
                  if some "SAMA correction" then
                      let struct (_, targets) =
                          recipes.Judge(recipes.Correction fold.Part, recipes.SamaCorrection fold.Part)

                      targets ]

        let weights =
            [ for fold in folds do
                  if some "SAMA weights" then
                      let struct (weights, _) = recipes.Judge(recipes.Weights(), recipes.SamaWeights fold.Part)
                      weights ]

        { Choice = choice
          Candidates = candidates
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
          Predictions = predict theta }
