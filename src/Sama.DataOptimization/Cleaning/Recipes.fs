namespace Sama.DataOptimization

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// The clean rows that a training may see, and what it is called in the store.
[<NoComparison; NoEquality>]
type internal CleanPart =
    {
        Tag: string
        /// places among the clean rows
        Places: int[]
    }

/// A part of the clean rows to train on, and the others to judge by.
[<NoComparison; NoEquality>]
type internal Fold =
    {
        Part: CleanPart
        /// places among the clean rows
        Held: int[]
    }

/// A training that fine-tuning can start from: its name, the trainings it is made of, θ given a part of the clean rows.
[<NoComparison; NoEquality>]
type internal Source =
    { Name: string
      Stages: CleanPart -> string list
      Train: CleanPart -> float32[] }

/// The trainings of a cleaning, each made once: what does not depend on the clean rows serves all parts of them.
[<Sealed>]
type internal Recipes
    (model: IRowClassifier, data: CleaningData, options: CleaningOptions, folds: Fold list, stages: Stages) =
    let trainer = Trainer(model, options, stages.Report)
    let train = Array.init data.Train id
    let allLabels = Array.append data.Labels data.CleanLabels

    let known = Array.init allLabels.Length (fun row -> row >= data.Train)

    let terms =
        if isNull data.Terms then
            null
        else
            data.Terms[.. allLabels.Length - 1]

    let device = trainer.Device

    let table =
        new RowTable(data.Classes, allLabels, null, known, data.AllVotes, null, terms, device)

    let steps =
        if options.Steps.HasValue then
            options.Steps.Value
        else
            max 300 (min 1000 (6 * data.Train / options.Batch))

    let rate =
        if options.Rate.HasValue then
            options.Rate.Value
        else
            model.Rate

    let tuningRate =
        if options.TuningRate.HasValue then
            options.TuningRate.Value
        else
            rate

    let made (name: string) (make: unit -> float32[]) = stages.Made(name, make)

    let rowsAt (places: int[]) =
        places |> Array.map (fun place -> data.Train + place)

    let rows (part: CleanPart) = rowsAt part.Places

    /// Training on given labels of some rows.
    let plain (rows: int[]) : float32[] =
        trainer.Plain(trainer.Initial, table, Sampling.epochs rows options.Batch, steps, rate, options.Seed)

    /// A share of each batch is clean rows.
    let besideClean (part: CleanPart) =
        Sampling.joined train (rows part) options.CleanShare options.Batch

    /// Lengths of the fine-tuning, of which the held-out rows choose one.
    let lengths =
        [ options.TuningSteps / 10; options.TuningSteps / 3; options.TuningSteps ]
        |> List.map (max 1)
        |> List.distinct

    let tune (look: int -> Params -> unit) (from: float32[]) (part: CleanPart) (steps: int) : float32[] =
        let sample =
            Sampling.repeated (rows part) (min options.Batch (2 * part.Places.Length))

        trainer.Watched(look, from, table, sample, steps, tuningRate, options.Seed + 1)

    let softTable (given: float[][]) =
        let clean =
            data.CleanLabels
            |> Array.map (fun label -> Array.init data.Classes (fun c -> if c = label then 1.0 else 0.0))

        new RowTable(data.Classes, allLabels, Array.append given clean, known, null, null, null, device)

    let flatten (rows: float[][]) =
        rows |> Array.collect (Array.map float32)

    let unflatten (values: float32[]) =
        values
        |> Array.chunkBySize data.Classes
        |> Array.map (Array.map float >> Simplex.normalise)

    let packed (fit: Fit) = Array.append fit.Theta fit.Lambda

    let unpacked (values: float32[]) =
        { Theta = values[.. int trainer.Layout.Length - 1]
          Lambda = values[int trainer.Layout.Length ..] }

    let bySama (name: string) (learner: DataLearner) (prior: Tensor) (part: CleanPart) =
        made $"{name}, {part.Tag}" (fun () ->
            trainer.BySama(
                trainer.Initial,
                learner,
                prior,
                table,
                besideClean part,
                rows part,
                steps,
                rate,
                options.Seed
            )
            |> packed)
        |> unpacked

    member _.Trainer = trainer
    member _.Train = train

    member _.UsesTerms(part: CleanPart) =
        not (isNull terms) && part.Places.Length >= options.TermsFrom

    member _.Noisy() : float32[] = made "noisy" (fun () -> plain train)

    member _.CleanOnly(part: CleanPart) : float32[] =
        made $"clean only, {part.Tag}" (fun () ->
            let sample =
                Sampling.repeated (rows part) (min options.Batch (2 * part.Places.Length))

            let steps = min steps (2 * options.TuningSteps)
            trainer.Plain(trainer.Initial, table, sample, steps, rate, options.Seed))

    /// Probabilities of clean rows by their places.
    member _.Predict(theta: float32[], places: int[]) : float[][] = trainer.Predict(theta, rowsAt places)

    /// Probabilities of a fold's held-out rows after fine-tuning of each length, [length][row][class].
    member private _.TunedHeld(source: Source, fold: Fold) : float[][][] =
        let from = source.Train fold.Part

        made $"{source.Name}, then clean, {fold.Part.Tag}" (fun () ->
            let seen = List<float32>()

            let look step (theta: Params) =
                if List.contains step lengths then
                    seen.AddRange(flatten (trainer.Predict(theta, rowsAt fold.Held)))

            tune look from fold.Part options.TuningSteps |> ignore
            seen.ToArray())
        |> unflatten
        |> Array.chunkBySize fold.Held.Length

    /// Which length leaves the least log-loss on the held-out rows of all folds.
    member private recipes.LengthOf(source: Source) : int =
        let losses =
            [ for fold in folds ->
                  let labels = fold.Held |> Array.map (fun place -> data.CleanLabels[place])

                  recipes.TunedHeld(source, fold)
                  |> Array.map (fun rows -> Array.sum (Calibration.LogLosses(rows, labels))) ]
            |> List.reduce (Array.map2 (+))

        Array.IndexOf(losses, Array.min losses)

    /// Probabilities of a fold's held-out rows after fine-tuning, as long as suits the held-out rows.
    member recipes.HeldAfterTuning(source: Source, fold: Fold) : float[][] =
        recipes.TunedHeld(source, fold)[recipes.LengthOf source]

    /// Fine-tuning on all clean rows, as long as suits the held-out rows.
    member recipes.Tuned(source: Source, everything: CleanPart) : float32[] =
        let from = source.Train everything
        let steps = lengths[recipes.LengthOf source]

        made $"{source.Name}, then clean, {everything.Tag}" (fun () -> tune (fun _ _ -> ()) from everything steps)

    /// Probabilities of the rows to clean, each by a model that has not seen it.
    member _.OutOfFold() : float[][] =
        made "out of fold" (fun () ->
            CrossFit.OutOfFold(
                data.Labels,
                options.NoisyFolds,
                (fun own others -> trainer.Predict(plain own, others)),
                options.Seed
            )
            |> flatten)
        |> unflatten

    /// Training on the rows that confident learning leaves; on all, where it would leave fewer than a batch.
    member recipes.Confident() : float32[] =
        let found = ConfidentLearning.Estimate(recipes.OutOfFold(), data.Labels).Wrong()
        let wrong = HashSet found
        let left = train |> Array.filter (wrong.Contains >> not)
        let few = left.Length < min options.Batch train.Length
        made "confident learning" (fun () -> plain (if few then train else left))

    /// The label model, its start pulled by clean rows where these have votes.
    member _.LabelModel(part: CleanPart) : LogLinearModel =
        if isNull data.CleanVotes then
            LogLinear.FromAgreement(data.ModelVotes, data.Classes)
        else
            LogLinear.Fit(
                data.ModelVotes,
                data.Classes,
                part.Places |> Array.map (fun place -> data.CleanVotes[place]),
                part.Places |> Array.map (fun place -> data.CleanLabels[place]),
                options.Strength
            )

    /// Training on the label model's probabilities, beside clean rows.
    member recipes.ByLabelModel(part: CleanPart) : float32[] =
        made $"label model, {part.Tag}" (fun () ->
            use table = softTable ((recipes.LabelModel part).Predict data.Votes)
            trainer.Plain(trainer.Initial, table, besideClean part, steps, rate, options.Seed))

    member _.Weights() : DataLearner =
        ExampleWeights.FromFeatures(data.Classes, data.Rules)

    /// A table of words where there are clean rows enough for it, else a label model.
    member recipes.Correction(part: CleanPart) : DataLearner =
        if recipes.UsesTerms part then
            Corrections.FromTerms(data.Classes, data.Rules)
        else
            Corrections.LabelModel(recipes.LabelModel part, part.Places.Length, options.Strength)

    member recipes.SamaWeights(part: CleanPart) : Fit =
        bySama "SAMA weights" (recipes.Weights()) null part

    /// Shares of the classes as the label model has them: clean rows are often picked to be as many of each class.
    member private recipes.Shares(part: CleanPart) : Tensor =
        let rows = (recipes.LabelModel part).Predict data.ModelVotes

        let share c =
            rows |> Array.averageBy (fun row -> row[c])

        torch.tensor (Array.init data.Classes (share >> float32), device = device)

    member recipes.SamaCorrection(part: CleanPart) : Fit =
        use prior = recipes.Shares part
        bySama "SAMA correction" (recipes.Correction part) prior part

    member _.Judge(learner: DataLearner, fit: Fit) : struct (float[] * float[][]) =
        trainer.Judge(learner, fit, table, train)

    interface IDisposable with
        member _.Dispose() = (table :> IDisposable).Dispose()
