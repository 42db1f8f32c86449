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
/// judged by. `clean` are rows that SAMA's meta loss is taken on (null: `rows` themselves). The model is borrowed.
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
        options.Check()
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
        Stages(options.StateFolder, options.Progress, options.Cancellation, options.Stages, clock)

    let trainer = new PruningTrainer(model, labels, options, stages.Report)

    do
        stages.Open
            $"{CleaningStore.Digest(Seq.concat [ labels; rows; meta ])}, {trainer.Layout.Length} numbers, rate {trainer.Rate}; {options.Text}"

    let stepsOf (count: int) =
        options.Epochs * ((count + options.Batch - 1) / options.Batch)

    let early =
        max 1 (int (Math.Round(options.SearchShare * float (stepsOf rows.Length))))

    let floats (values: float[]) = Array.map float32 values

    /// Seeds of trainings that are not to be alike.
    let seedOf (stream: int) =
        (Seeded.random options.Seed stream).Next()

    let plain (seed: int) (rows: int[]) steps =
        let plan = trainer.Shuffled(rows, seed)
        trainer.Train(seed, steps, (fun step -> struct (plan step, null)), (fun _ _ _ -> ()))

    let earlyName model = $"early model {model + 1}"

    let earlyModel model =
        stages.Made(earlyName model, fun () -> plain (seedOf model) rows early)

    let fullName = "full training"

    /// θ, forgetting counts, areas under the margin.
    let full () =
        stages.Made(
            fullName,
            fun () ->
                let record = TrainingRecord own
                let place = Dictionary()
                rows |> Array.iteri (fun i row -> place[row] <- i)
                let seed = seedOf 1000
                let plan = trainer.Shuffled(rows, seed)

                let theta =
                    trainer.Train(
                        seed,
                        stepsOf rows.Length,
                        (fun step -> struct (plan step, null)),
                        fun _ shown _ ->
                            record.Observe(shown.Rows |> Array.map (fun row -> place[row]), Rows.FromTensor shown.Log)
                    )

                Array.concat [ theta; floats record.Forgetting; floats record.AreaUnderMargin ]
        )

    let part (values: float32[]) number =
        let first = int trainer.Layout.Length + number * rows.Length
        values[first .. first + rows.Length - 1] |> Array.map float

    let head () =
        match model with
        | :? ILinearHead as head -> head
        | _ ->
            invalidOp
                $"{model.GetType().Name} does not tell its last layer (ILinearHead), whose boundaries this method asks for"

    let boundary (theta: Params) (rows: int[]) : float[] =
        let head = head ()
        let weights = Rows.FromTensor theta[head.HeadWeight]

        let logits =
            trainer.Look(
                theta,
                rows,
                fun theta _ inputs -> Rows.FromTensor(model.LogProbabilities(theta, inputs, false))
            )

        PruningScores.BoundaryDistance(logits, rows |> Array.map (fun row -> labels[row]), weights)

    let frozen (theta: float32[]) =
        Params.frozen trainer.Layout (trainer.Vector theta)

    let errorNorms (theta: float32[]) =
        PruningScores.El2n(trainer.Predict(theta, rows), own)

    /// Of the last layer where the model tells it, else of all.
    let gradientNorms (theta: float32[]) =
        use _ = torch.NewDisposeScope()

        match model with
        | :? ILinearHead as head ->
            let features =
                trainer.Look(frozen theta, rows, (fun theta _ inputs -> Rows.FromTensor(head.Features(theta, inputs))))

            PruningScores.GraNdLastLayer(trainer.Predict(theta, rows), own, features, head.HeadBias)
        | _ ->
            let loss (theta: Params) place =
                options.Cancellation.ThrowIfCancellationRequested()
                let row = [| rows[place] |]
                let log = model.LogProbabilities(theta, model.Read row, false)
                (trainer.Losses(log, trainer.Labels row)).sum ()

            GradientNorms.ByRow(trainer.Layout, trainer.Vector theta, rows.Length, loss)

    let meanOf (kind: string) (norms: float32[] -> float[]) (models: int) =
        let names =
            [ for model in 0 .. models - 1 -> model, $"{kind} of model {model + 1}" ]

        let scores =
            [| for model, name in names do
                   let theta = earlyModel model
                   stages.Made(name, (fun () -> floats (norms theta))) |> Array.map float |]

        PruningScores.Mean scores,
        [ for model, name in names do
              yield earlyName model
              yield name ]

    let learned (name: string) (weigher: Weigher) =
        let values =
            stages.Made(
                name,
                fun () ->
                    let search = SamaSearch(trainer, model.Classes, labels, weigher)
                    let struct (scores, lambda) = search.Learn(seedOf 2000, rows, meta, early)
                    Array.append scores lambda
            )

        values[.. rows.Length - 1] |> Array.map float, values[rows.Length ..]

    /// Steps of a training on so many rows: the options' epochs, the last batch of each filled from the next.
    member _.StepsOf(count: int) : int = stepsOf count

    /// Scores by a method of `PruningMethod.Known`, which are made once. ArgumentException for another name,
    /// InvalidOperationException for `margin` of a model that does not tell its last layer, OperationCanceledException.
    member _.Score(method: string) : PruningScore =
        let scored (scores, names: string list) highest lambda =
            { Method = method
              Scores = scores
              KeepsHighest = highest
              Seconds = stages.Seconds names
              Lambda = lambda }

        match PruningMethod.Parse method with
        | AtRandom ->
            let random = Seeded.random options.Seed 3000
            scored (Array.init rows.Length (fun _ -> random.NextDouble()), []) true null
        | ErrorNorm models -> scored (meanOf "errors" errorNorms models) true null
        | GradientNorm models -> scored (meanOf "gradients" gradientNorms models) true null
        | ForgettingCount -> scored (part (full ()) 0, [ fullName ]) true null
        | UnderMargin -> scored (part (full ()) 1, [ fullName ]) false null
        | Boundary ->
            head () |> ignore

            let score theta =
                use _ = torch.NewDisposeScope()
                boundary (frozen theta) rows

            scored (meanOf "margins" score 1) false null
        | Learned weigher ->
            let scores, lambda = learned method weigher
            scored (scores, [ method ]) true (if weigher = Net then lambda else null)

    /// Scores by a net that `Score "sama"` learned on other data or with another model: a model is trained for the search's
    /// steps, and the net weighs the rows as they come. ArgumentException for a λ of another size.
    member _.ScoreBy(lambda: float32[]) : PruningScore =
        Check.nonEmpty (nameof lambda) lambda

        let name =
            $"weights by a net of elsewhere {CleaningStore.Digest(Seq.map BitConverter.SingleToInt32Bits lambda)}"

        let scores =
            stages.Made(
                name,
                fun () -> SamaSearch(trainer, model.Classes, labels, Net).Apply(seedOf 2000, rows, lambda, early)
            )

        { Method = "sama"
          Scores = Array.map float scores
          KeepsHighest = true
          Seconds = stages.Seconds [ name ]
          Lambda = lambda }

    /// θ and seconds of a full training on all rows: the unit of what a search costs.
    member _.Full() : struct (float32[] * float) =
        let theta = (full ())[.. int trainer.Layout.Length - 1]
        struct (theta, stages.Seconds [ fullName ])

    /// θ and seconds of a training on kept rows, given by number, as many epochs as a full one has. `name` is the stage's.
    /// ArgumentException for a row that is not there or given twice.
    member _.Train
        (name: string, kept: int[], [<Optional; DefaultParameterValue(0)>] seed: int)
        : struct (float32[] * float) =
        Check.notNull (nameof name) name
        let kept = among (nameof kept) kept

        let theta =
            stages.Made(name, (fun () -> plain (seedOf (4000 + seed)) kept (stepsOf kept.Length)))

        struct (theta, stages.Seconds [ name ])

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
        let steps = stepsOf kept
        let seed = seedOf (4000 + seed)

        let values =
            stages.Made(
                name,
                fun () ->
                    let choice =
                        match kind with
                        | DynamicPruning.InfoBatch -> DynamicRowsOf.infoBatch rows steps seed scores
                        | _ ->
                            head () |> ignore
                            DynamicRowsOf.dynaMs rows steps share seed boundary clock

                    Array.append (choice.Train trainer labels) [| float32 (choice.Seconds()) |]
            )

        let last = values.Length - 1
        struct (values[.. last - 1], stages.Seconds [ name ], float values[last])

    /// Probabilities of rows, given by number, by flat parameters: [row][class].
    member _.Predict(theta: float32[], rows: int[]) : float[][] =
        Check.nonEmpty (nameof theta) theta
        trainer.Predict(theta, among (nameof rows) rows)

    interface IDisposable with
        /// Frees its labels' tensor; the model is the caller's.
        member _.Dispose() = (trainer :> IDisposable).Dispose()
