namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Diagnostics
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

/// The trainings of a cleaning, each made once: what does not depend on the clean rows serves all parts of them.
[<Sealed>]
type internal Recipes(model: IRowClassifier, data: CleaningData, options: CleaningOptions, stages: int) =
    let store = CleaningStore options.StateFolder
    let seconds = Dictionary<string, float>()
    let clock = Stopwatch()
    let mutable stage = ""
    let mutable finished = 0

    let report step steps loss =
        if not (isNull options.Progress) then
            options.Progress.Report
                { Stage = stage
                  Done = finished
                  Stages = stages
                  Step = step
                  Steps = steps
                  Loss = loss }

    let trainer = Trainer(model, options, report)
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
            0.3 * rate

    let made (name: string) (make: unit -> float32[]) : float32[] =
        options.Cancellation.ThrowIfCancellationRequested()

        match store.TryLoad name with
        | null ->
            stage <- name
            clock.Restart()
            let values = make ()
            seconds[name] <- clock.Elapsed.TotalSeconds
            store.Save(name, values, seconds[name])
            finished <- finished + 1
            values
        | values ->
            if seconds.TryAdd(name, store.Seconds name) then
                finished <- finished + 1

            values

    let rows (part: CleanPart) =
        part.Places |> Array.map (fun place -> data.Train + place)

    let noisy rows table name =
        made name (fun () ->
            trainer.Plain(trainer.Initial, table, Sampling.epochs rows options.Batch, steps, rate, options.Seed))

    let softTable (given: float[][]) =
        let clean =
            data.CleanLabels
            |> Array.map (fun label -> Array.init data.Classes (fun c -> if c = label then 1.0 else 0.0))

        new RowTable(data.Classes, allLabels, Array.append given clean, known, null, null, null, device)

    /// Classes' shares, as the clean rows have them.
    let prior (part: CleanPart) =
        let labels = part.Places |> Array.map (fun place -> data.CleanLabels[place])
        LogitAdjustment.Prior(labels, data.Classes).``to`` (device)

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
            let clean = rows part

            trainer.BySama(
                trainer.Initial,
                learner,
                prior,
                table,
                Sampling.joined train clean options.CleanShare options.Batch,
                clean,
                steps,
                rate,
                options.Seed
            )
            |> packed)
        |> unpacked

    member _.Open(identity: string) = store.Open identity
    member _.Trainer = trainer
    member _.Train = train

    member _.UsesTerms(part: CleanPart) =
        not (isNull terms) && part.Places.Length >= options.TermsFrom

    /// Seconds of some trainings, by name.
    member _.Seconds(names: string seq) : float =
        names
        |> Seq.sumBy (fun name ->
            match seconds.TryGetValue name with
            | true, s -> s
            | _ -> 0.0)

    member _.Noisy() : float32[] = noisy train table "noisy"

    member _.CleanOnly(part: CleanPart) : float32[] =
        made $"clean only, {part.Tag}" (fun () ->
            let sample =
                Sampling.repeated (rows part) (min options.Batch (2 * part.Places.Length))

            let steps = min steps (2 * options.TuningSteps)
            trainer.Plain(trainer.Initial, table, sample, steps, rate, options.Seed))

    /// Fine-tuning on the clean rows.
    member _.Tuned(name: string, from: float32[], part: CleanPart) : float32[] =
        made $"{name}, then clean, {part.Tag}" (fun () ->
            let sample =
                Sampling.repeated (rows part) (min options.Batch (2 * part.Places.Length))

            trainer.Plain(from, table, sample, options.TuningSteps, tuningRate, options.Seed + 1))

    /// Probabilities of the rows to clean, each by a model that has not seen it.
    member _.OutOfFold() : float[][] =
        made "out of fold" (fun () ->
            CrossFit.OutOfFold(
                data.Labels,
                options.NoisyFolds,
                (fun own others ->
                    trainer.Predict(
                        trainer.Plain(
                            trainer.Initial,
                            table,
                            Sampling.epochs own options.Batch,
                            steps,
                            rate,
                            options.Seed
                        ),
                        others
                    )),
                options.Seed
            )
            |> flatten)
        |> unflatten

    /// Training on the rows that confident learning leaves; on all, where it would leave fewer than a batch.
    member recipes.Confident() : float32[] =
        let found = ConfidentLearning.Estimate(recipes.OutOfFold(), data.Labels).Wrong()
        let wrong = HashSet found
        let left = train |> Array.filter (wrong.Contains >> not)

        noisy
            (if left.Length < min options.Batch train.Length then
                 train
             else
                 left)
            table
            "confident learning"

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

    /// Training on the label model's probabilities.
    member recipes.ByLabelModel(part: CleanPart) : float32[] =
        use table = softTable ((recipes.LabelModel part).Predict data.Votes)
        noisy train table $"label model, {part.Tag}"

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

    member recipes.SamaCorrection(part: CleanPart) : Fit =
        use prior = prior part
        bySama "SAMA correction" (recipes.Correction part) prior part

    member _.Judge(learner: DataLearner, fit: Fit) : struct (float[] * float[][]) =
        trainer.Judge(learner, fit, table, train)

    interface IDisposable with
        member _.Dispose() = (table :> IDisposable).Dispose()
