namespace Sama.DataOptimization

open System
open TorchSharp
open Sama
open Sama.Functional

/// What weighs rows in a search.
type internal Weigher =
    /// a net of the averaged model's loss and the distance of the model in training from it
    | Net
    /// one weight a row
    | Table

/// Weights of rows learned by SAMA while a model is trained on them (Choe et al., 2023): the meta loss is that on the rows
/// themselves, or on clean ones.
[<Sealed>]
type internal SamaSearch(trainer: PruningTrainer, classes: int, labels: int[], weigher: Weigher) =
    let options = trainer.Options
    let model = trainer.Model

    let learner =
        match weigher with
        | Net -> ExampleWeights.FromFeatures(classes, features = (RowFeatures.Loss ||| RowFeatures.Distance))
        | Table -> ExampleWeights.PerRow labels.Length

    let rate =
        match weigher with
        | Net -> options.MetaRate
        | Table -> options.RowRate

    let sums = Array.zeroCreate<float> labels.Length
    let counts = Array.zeroCreate<int> labels.Length

    let observe (rows: int[]) (weights: float[]) =
        Array.iter2
            (fun row (weight: float) ->
                sums[row] <- sums[row] + weight
                counts[row] <- counts[row] + 1)
            rows
            weights

    let read (table: RowTable) (opinion: Tensor[] -> Tensor) (plan: int64 -> int[]) (draw: Draw) : Fetched =
        let struct (rows, share) =
            Sampling.part options.Ranks (fun draw -> plan draw.Step) draw

        let inputs = model.Read rows

        { Inputs = inputs
          Rows = table.At rows
          Opinion = opinion inputs
          Share = share }

    /// log-probabilities of the averaged model, a constant; a weight a row does not look at them
    let opinion (average: AveragedParameters) (inputs: Tensor[]) =
        if weigher = Net then
            use _ = torch.no_grad ()
            model.LogProbabilities(average.Parameters, inputs, false)
        else
            null

    /// Weights of rows that were not met in the window are those at its end.
    let rest (rows: int[]) (average: Params) (theta: Params) (weigh: int[] -> Tensor -> Tensor -> float[]) =
        let unseen = rows |> Array.filter (fun row -> counts[row] = 0)

        if unseen.Length > 0 then
            let weights =
                trainer.Look(
                    theta,
                    unseen,
                    fun theta chunk inputs ->
                        let calm = model.LogProbabilities(average, inputs, false)
                        weigh chunk calm (model.LogProbabilities(theta, inputs, false))
                )

            observe unseen weights

    let scores (rows: int[]) =
        rows |> Array.map (fun row -> float32 (sums[row] / float counts[row]))

    /// First step, from 1, of the window at the end of so many.
    let windowOf (steps: int) =
        steps - max 1 (int (Math.Round(options.Window * float steps))) + 1

    /// Scores of the rows, λ, and θ averaged over the search.
    member _.Learn(seed: int, rows: int[], meta: int[], steps: int) : struct (float32[] * float32[] * float32[]) =
        use table =
            new RowTable(classes, labels, device = trainer.Device, dtype = trainer.Dtype)

        let window = windowOf steps
        let plan = trainer.Shuffled(rows, seed)
        // this rank's weights, of the step that is taken
        let shown = ref [||]
        let values = ref [||]
        let metaSize = min options.MetaBatch meta.Length

        let metaPlan =
            let pick =
                Sama.Functional.Sampling.rows (int64 meta.Length) (Sama.Sampling.Of metaSize)

            fun (draw: Draw) -> pick draw |> Array.map (fun place -> meta[int place])

        let weigh (lambda: Params) (batch: RowBatch) calm (log: Tensor) =
            use _ = torch.no_grad ()
            use weights = learner.Weights(lambda, batch, calm, log)
            Rows.Vector weights

        let loss (pass: Pass) (theta: Params) (lambda: Params) (batch: Fetched) =
            let log = model.LogProbabilities(theta, batch.Inputs, true)

            if weigher = Net && pass.Kind = PassKind.Base && int pass.Draw.Step + 1 >= window then
                shown.Value <- weigh lambda batch.Rows batch.Opinion (log.detach ())

            learner.Loss(pass, lambda, batch.Rows, log, batch.Opinion, smoothing = 0.0)
            |> Sampling.counted batch.Share

        let metaLoss (_: Pass) (theta: Params) (lambda: Params) (batch: Fetched) =
            let log = model.LogProbabilities(theta, batch.Inputs, false)

            Sampling.counted batch.Share ((trainer.Losses(log, batch.Rows.Labels)).mean ())
            + learner.Penalty lambda

        let method =
            Hypergradient.samaWith
                { SamaOptions.Default with
                    Alpha = Nullable options.Alpha
                    OneSided = true }

        let problem start (average: AveragedParameters) =
            let lambda =
                [ for struct (name, value) in learner.Start(int64 seed) ->
                      name, value.``to`` (trainer.Dtype, trainer.Device) ]

            Problem.create
                { BilevelOptions.Default with
                    Unroll = options.Unroll }
                method
                [ Level.create "classifier" start (adam trainer.Rate) (read table (opinion average) plan) loss
                  Level.create
                      learner.Name
                      lambda
                      (adam rate)
                      (fun draw -> read table (fun _ -> null) (fun _ -> metaPlan { draw with Rank = 0 }) draw)
                      metaLoss ]

        let after step (run: BilevelRun) (average: AveragedParameters) =
            if step >= window then
                match weigher with
                | Net ->
                    use _ = torch.NewDisposeScope()
                    let rows = plan (int64 step - 1L)
                    let struct (first, _, _) = Sampling.place options.Ranks rows.Length

                    torch.tensor shown.Value
                    |> Together.whole options.Ranks rows.Length first
                    |> Rows.Vector
                    |> observe rows
                | Table -> observe (Array.init labels.Length id) (Rows.Vector run.Lambda.Vector)

            if step = steps then
                rest rows average.Parameters run.Theta (fun chunk -> weigh run.Lambda (table.At chunk))
                values.Value <- Rows.Vector run.Lambda.Vector |> Array.map float32

        let theta = trainer.Run(seed, null, steps, problem, after)
        struct (scores rows, values.Value, theta)

    /// Scores of rows by a λ that was learned elsewhere, while a model is trained on them plainly.
    member _.Apply(seed: int, rows: int[], lambda: float32[], steps: int) : float32[] =
        use scope = torch.NewDisposeScope()

        use table =
            new RowTable(classes, labels, device = trainer.Device, dtype = trainer.Dtype)

        let names = Layout.ofNamed (Named.into scope (learner.Start 0L))

        Check.that (nameof lambda) (int64 lambda.Length = names.Length) (fun () ->
            $"{lambda.Length} numbers, the net has {names.Length}")

        let lambda = Params.frozen names (trainer.Vector lambda)

        let weigh (chunk: int[]) calm (log: Tensor) =
            use _ = torch.NewDisposeScope()
            use _ = torch.no_grad ()
            Rows.Vector(learner.Weights(lambda, table.At chunk, calm, log))

        let plan = trainer.Shuffled(rows, seed)
        let window = windowOf steps

        trainer.Train(
            seed,
            null,
            steps,
            (fun step -> struct (plan step, null)),
            fun step shown average ->
                if step >= window then
                    use _ = torch.NewDisposeScope()
                    observe shown.Rows (weigh shown.Rows (opinion average (model.Read shown.Rows)) shown.Log)

                if step = steps then
                    rest rows average.Parameters average.Parameters weigh
        )
        |> ignore

        scores rows
