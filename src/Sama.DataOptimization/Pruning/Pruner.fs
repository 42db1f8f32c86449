namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Diagnostics
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// A training whose rows change as it goes.
type DynamicPruning =
    /// InfoBatch: a random half of the well-learned rows is left out each epoch, the rest of them weighs double
    | InfoBatch = 0
    /// DynaMS: after a tenth of the steps on all rows, each epoch trains on the rows nearest to the boundary
    | DynaMs = 1

/// Scores of rows, and trainings on what is kept of them, over one classifier. What methods share is trained once: ten models
/// for EL2N and GraNd, one full training for forgetting and the area under the margin.
///
/// `labels` are those of all rows that the model knows; `rows` are to be pruned (null: all), the others are there to be
/// judged by. `clean` are rows that SAMA's meta loss is taken on and that judge which rows are kept (null: `rows` themselves). The model is borrowed.
/// ArgumentException for labels or rows that the model does not know, a row given twice, fewer than two classes or options
/// out of range; InvalidOperationException for a state folder of other data or options.
[<Sealed>]
type Pruner
    (
        model: IRowClassifier,
        labels: int[],
        [<Optional; DefaultParameterValue(null: int[])>] rows: int[],
        [<Optional; DefaultParameterValue(null: int[])>] clean: int[],
        [<Optional; DefaultParameterValue(null: PruningOptions)>] options: PruningOptions
    ) =
    let options = if isNull options then PruningOptions() else options

    do
        Check.notNull (nameof model) model
        options.Validate()
        Check.labels (nameof labels) model.Classes model.Rows labels

    let among (name: string) (given: int[]) =
        Check.nonEmpty name given

        for row in given do
            Check.that name (row >= 0 && row < labels.Length) (fun () ->
                $"row {row} is not one of the {labels.Length} rows")

        Check.that name ((Array.distinct given).Length = given.Length) (fun () -> "a row is given twice")
        given

    let rows =
        if isNull rows then
            Array.init labels.Length id
        else
            among (nameof rows) rows

    let meta = if isNull clean then rows else among (nameof clean) clean
    let own = rows |> Array.map (fun row -> labels[row])

    do
        Check.that (nameof labels) ((Array.distinct own).Length > 1) (fun () ->
            $"all rows are of one class, {own[0]}: at least two are needed")

    let clock =
        let device =
            use scope = torch.NewDisposeScope()
            (snd (Named.into scope (model.Start 0L)).Head).device

        let begun = Stopwatch.GetTimestamp()

        if device.``type`` = DeviceType.CPU then
            fun () -> Process.GetCurrentProcess().TotalProcessorTime.TotalSeconds
        else
            fun () -> Stopwatch.GetElapsedTime(begun).TotalSeconds

    let stages =
        Stages(options.StateFolder, options.Progress, options.Ranks, options.StopIfCancelled, options.Stages, clock)

    let trainer = new PruningTrainer(model, labels, options, stages.Report)

    do
        stages.Open
            $"{StageStore.Digest(Seq.concat [ labels; rows; meta ])}, {trainer.Layout.Length} numbers, rate {trainer.Rate}; form 2; {options.Text}"

    let search =
        PruningSearch(trainer, stages, labels, rows, meta, options.SearchShare, "")

    /// Clean rows, or a fifth of the rows, of each class its share.
    let judges () =
        if isNull clean then
            Keep.AtRandom(rows.Length, 0.2, own, search.SeedOf 5000)
            |> Array.map (fun place -> rows[place])
        else
            clean

    /// Scores of a search of half the length, of which a judgement begins.
    let judged (name: string) (asked: AskedScore) =
        let judges = judges ()
        let judging = HashSet judges

        let rest =
            Array.init rows.Length id
            |> Array.filter (fun place -> not (judging.Contains rows[place]))

        Check.that (nameof rows) (judges.Length >= 2 && rest.Length >= 2) (fun () ->
            $"{judges.Length} rows to judge {rest.Length} others by: at least two of each are needed")

        let short =
            PruningSearch(trainer, stages, labels, rows, meta, options.SearchShare / 2.0, "short ")

        let struct (score, theta) = short.Score(asked.Base, asked.Scorer)
        let full = float (search.StepsOf rows.Length)
        let steps = max 1 (int (Math.Round(options.JudgeShare * full)))

        PruningJudge(trainer, stages, labels, rows, judges, rest, search.SeedOf 5000, steps).Judge(name, score, theta)

    /// A name and what else a training depends on: the same name with other rows is another stage.
    let keyOf (name: string) (numbers: int seq) =
        $"{name} {(StageStore.Digest numbers)[..7]}"

    /// Steps of a training on so many rows: the options' epochs, the last batch of each filled from the next.
    member _.StepsOf(count: int) : int = search.StepsOf count

    /// Scores by a method of `PruningMethod.Known`, which are made once, and which rows are kept by them. Those of
    /// `judged-METHOD` come of a search of half the length: its model is then trained on for `JudgeShare` of a full
    /// training's steps with half of the rows, four times: the best, those at the other end, some of all strata, some at
    /// random. Clean rows judge, or a fifth of the rows, which is in none of these sets then (the search has seen it), by
    /// their log-loss; the best rows are kept unless another kind is ahead by more than a standard error, whatever share is
    /// asked for afterwards.
    ///
    /// ArgumentException for another name, or too few rows to judge by; InvalidOperationException for `margin` of
    /// a model that does not tell its last layer; OperationCanceledException.
    member _.Score(method: string) : PruningScore =
        let asked = PruningMethod.Parse method

        if asked.Kept.HasValue then
            let struct (score, _) = search.Score(asked.Base, asked.Scorer)

            { score with
                Method = method
                Kept = asked.Kept.Value }
        else
            judged method asked

    /// Scores by a net that `Score "sama"` learned on other data or with another model: a model is trained for the search's
    /// steps, and the net weighs the rows as they come. ArgumentException for a λ of another size.
    member _.ScoreBy(lambda: float32[]) : PruningScore =
        Check.nonEmpty (nameof lambda) lambda
        search.ScoreBy lambda

    /// θ and seconds of a full training on all rows: the unit of what a search costs.
    member _.Full() : struct (float32[] * float) = search.Full()

    /// θ and seconds of a training on kept rows, given by number, as many epochs as a full one has. `name` is the stage's, as `Progress` tells it.
    /// ArgumentException for a row that is not there or given twice.
    member _.Train
        (name: string, kept: int[], [<Optional; DefaultParameterValue(0)>] seed: int)
        : struct (float32[] * float) =
        Check.notNull (nameof name) name
        let kept = among (nameof kept) kept
        let key = keyOf name (Seq.append [ seed ] kept)

        let theta =
            stages.Made(key, (fun () -> search.Plain (search.SeedOf(4000 + seed)) kept (search.StepsOf kept.Length)))

        struct (theta, stages.Seconds [ key ])

    /// θ, all seconds, and those of them that its choice of rows took, of a training whose rows change: as many steps as a
    /// training on that share of the rows. With `scores`, high for rows that matter, InfoBatch goes by these in place of its
    /// losses. ArgumentException for a share outside (0, 1] or scores of other rows; InvalidOperationException for DynaMS over a
    /// model that does not tell its last layer.
    member _.TrainDynamic
        (
            name: string,
            kind: DynamicPruning,
            share: float,
            [<Optional; DefaultParameterValue(0)>] seed: int,
            [<Optional; DefaultParameterValue(null: float[])>] scores: float[]
        ) : struct (float32[] * float * float) =
        Check.notNull (nameof name) name

        if not (isNull scores) then
            Check.length (nameof scores) rows.Length scores
            Check.finite (nameof scores) scores

        Check.share (nameof share) share
        let kept = max 1 (int (Math.Round(share * float rows.Length)))
        let steps = search.StepsOf kept

        let bits =
            if isNull scores then
                [||]
            else
                Array.map BitConverter.DoubleToInt64Bits scores

        let halves = bits |> Seq.collect (fun bits -> [ int (bits >>> 32); int bits ])
        let key = keyOf name (Seq.append [ seed; int kind; kept ] halves)
        let seed = search.SeedOf(4000 + seed)

        let values =
            stages.Made(
                key,
                fun () ->
                    let choice =
                        match kind with
                        | DynamicPruning.InfoBatch -> DynamicRowsOf.infoBatch rows steps seed scores
                        | _ ->
                            search.RequireHead()
                            DynamicRowsOf.dynaMs rows steps share seed search.Boundary clock

                    Array.append (choice.Train trainer labels) [| float32 (choice.Seconds()) |]
            )

        let last = values.Length - 1
        struct (values[.. last - 1], stages.Seconds [ key ], float values[last])

    /// Probabilities of rows, given by number, by flat parameters: [row][class].
    member _.Predict(theta: float32[], rows: int[]) : float[][] =
        Check.nonEmpty (nameof theta) theta
        trainer.Predict(theta, among (nameof rows) rows)

    interface IDisposable with
        /// Frees its labels' tensor; the model is the caller's.
        member _.Dispose() = (trainer :> IDisposable).Dispose()
