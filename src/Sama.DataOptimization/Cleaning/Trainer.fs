namespace Sama.DataOptimization

open System
open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// This rank's rows of a step and what is known of them.
[<NoComparison; NoEquality>]
type internal Fetched =
    {
        Inputs: Tensor[]
        Rows: RowBatch
        /// the averaged model's log-probabilities, or null
        Opinion: Tensor
        /// what a mean over them counts for in the mean over the ranks
        Share: float
    }

/// A vector of parameters with, after SAMA, that of λ; else null.
[<NoComparison; NoEquality>]
type internal Fit = { Theta: float32[]; Lambda: float32[] }

/// The trainings that candidates are made of, over one model.
[<Sealed>]
type internal Trainer(model: IRowClassifier, options: CleaningOptions, report: int -> int -> float -> unit) =

    let layout, initial, device, dtype =
        use scope = torch.NewDisposeScope()
        let named = Named.into scope (model.Start(int64 options.Seed))
        let flat = Layout.ravel named
        Layout.ofNamed named, flat.``to``(torch.float32).cpu().data<float32>().ToArray(), flat.device, flat.dtype

    let numbers (vector: Tensor) : float32[] =
        use _ = torch.NewDisposeScope()
        vector.detach().``to``(torch.float32).cpu().data<float32>().ToArray()

    /// Named tensors that live until `free`.
    let named (layout: Layout) (vector: float32[]) =
        let flat = torch.tensor(vector, dtype = dtype).``to`` device

        [ for slice in layout.Slices do
              slice.Name, (flat.narrow (0L, slice.Offset, slice.Length)).view slice.Shape ]

    let crossEntropy (target: Tensor) (log: Tensor) : Tensor =
        -(target * log).sum 1L * (1.0 - options.Smoothing)
        - log.mean [| 1L |] * options.Smoothing

    /// Probabilities of rows, [row][class].
    let predict (theta: Params) (rows: int[]) : float[][] =
        rows
        |> Array.chunkBySize 256
        |> Array.collect (fun chunk ->
            options.StopIfCancelled()
            use _ = torch.NewDisposeScope()
            use _ = torch.no_grad ()
            let log = model.LogProbabilities(theta, model.Read chunk, false)
            Rows.FromTensor(log.exp ()) |> Array.map Simplex.normalise)

    /// Runs `steps` steps of a problem over averages of θ and λ, which it gives back; `look` sees the average of θ after
    /// each step.
    let run steps rate (seed: int) start (look: int -> Params -> unit) (problem: AveragedParameters -> BilevelProblem) =
        use average =
            new AveragedParameters(Params.frozen (Layout.ofNamed start) (Layout.ravel start))

        use run =
            new BilevelRun(problem average |> Problem.onRanks options.Ranks, int64 seed)

        use lambda = new AveragedParameters(run.Lambda)
        let steered = run.Problem.LevelNames.Length > 1

        for step in 1..steps do
            options.StopIfCancelled()
            let told = Together.step rate run
            average.Follow run.Theta
            look step average.Parameters

            if steered then
                lambda.Follow run.Lambda

            if step % 10 = 0 || step = steps then
                report step steps told.BaseLoss

        { Theta = numbers average.Parameters.Vector
          Lambda = if steered then numbers lambda.Parameters.Vector else null }

    let read (table: RowTable) (opinion: Tensor[] -> Tensor) (sample: Draw -> int[]) (draw: Draw) : Fetched =
        let struct (rows, share) = Sampling.part options.Ranks sample draw
        let inputs = model.Read rows

        { Inputs = inputs
          Rows = table.At rows
          Opinion = opinion inputs
          Share = share }

    member _.Layout = layout
    member _.Device = device
    member _.Initial = initial
    member _.Report = report

    /// θ after Adam on the mean cross-entropy of the table's given labels, averaged over about the last 100 steps; `look`
    /// sees that average after each step.
    member _.Watched
        (
            look: int -> Params -> unit,
            start: float32[],
            table: RowTable,
            sample: Draw -> int[],
            steps: int,
            rate: float,
            seed: int
        ) : float32[] =
        use _ = torch.NewDisposeScope()
        let start = named layout start

        let fit =
            run steps rate seed start look (fun _ ->
                Problem.create
                    BilevelOptions.Default
                    Hypergradient.samaNa
                    [ Level.create
                          "classifier"
                          start
                          (adam rate)
                          (read table (fun _ -> null) sample)
                          (fun _ theta _ batch ->
                              (crossEntropy batch.Rows.Given (model.LogProbabilities(theta, batch.Inputs, true)))
                                  .mean ()
                              |> Sampling.counted batch.Share) ])

        fit.Theta

    /// The same where nobody looks.
    member trainer.Plain
        (start: float32[], table: RowTable, sample: Draw -> int[], steps: int, rate: float, seed: int)
        : float32[] =
        trainer.Watched((fun _ _ -> ()), start, table, sample, steps, rate, seed)

    /// θ and λ after training by a learner whose λ SAMA learns from the loss on clean rows. `learner` looks at the averaged
    /// classifier: calmer than the one in training, and a constant in a step.
    member _.BySama
        (
            start: float32[],
            learner: DataLearner,
            prior: Tensor,
            table: RowTable,
            sample: Draw -> int[],
            clean: int[],
            steps: int,
            rate: float,
            seed: int
        ) : Fit =
        use scope = torch.NewDisposeScope()
        let start = named layout start

        let lambda =
            [ for name, value in Named.into scope (learner.Start(int64 seed)) -> name, value.``to`` device ]

        let metaRows =
            if clean.Length <= options.MetaBatch then
                fun _ -> clean
            else
                Sampling.epochs clean options.MetaBatch

        let method =
            Hypergradient.samaWith
                { SamaOptions.Default with
                    Alpha = Nullable options.Alpha }

        run steps rate seed start (fun _ _ -> ()) (fun average ->
            let opinion inputs =
                use _ = torch.no_grad ()
                model.LogProbabilities(average.Parameters, inputs, false)

            Problem.create
                { BilevelOptions.Default with
                    Unroll = options.Unroll }
                method
                [ Level.create
                      "classifier"
                      start
                      (adam rate)
                      (read table opinion sample)
                      (fun pass theta lambda batch ->
                          let log = model.LogProbabilities(theta, batch.Inputs, true)

                          learner.Loss(pass, lambda, batch.Rows, log, batch.Opinion, prior, options.Smoothing)
                          |> Sampling.counted batch.Share)
                  Level.create
                      learner.Name
                      lambda
                      (adam options.MetaRate)
                      (read table (fun _ -> null) metaRows)
                      (fun _ theta lambda batch ->
                          let log = model.LogProbabilities(theta, batch.Inputs, false)

                          Sampling.counted batch.Share ((crossEntropy batch.Rows.Given log).mean ())
                          + learner.Penalty lambda) ])

    /// Probabilities of rows, [row][class].
    member _.Predict(theta: float32[], rows: int[]) : float[][] =
        use _ = torch.NewDisposeScope()
        predict (Params.frozen layout (torch.tensor(theta, dtype = dtype).``to`` device)) rows

    /// The same for parameters.
    member _.Predict(theta: Params, rows: int[]) : float[][] = predict theta rows

    /// What a learner says of rows after training: weights and labels, by the averaged model's predictions.
    member _.Judge(learner: DataLearner, fit: Fit, table: RowTable, rows: int[]) : struct (float[] * float[][]) =
        use scope = torch.NewDisposeScope()
        use _ = torch.no_grad ()

        let theta =
            Params.frozen layout (torch.tensor(fit.Theta, dtype = dtype).``to`` device)

        let names = Layout.ofNamed (Named.into scope (learner.Start 0L))
        let lambda = Params.frozen names (torch.tensor(fit.Lambda).``to`` device)

        let parts =
            rows
            |> Array.chunkBySize 256
            |> Array.map (fun chunk ->
                use _ = torch.NewDisposeScope()
                let batch = table.At chunk
                let log = model.LogProbabilities(theta, model.Read chunk, false)
                Rows.Vector(learner.Logits(lambda, batch, log)), Rows.FromTensor(learner.Targets(lambda, batch, log)))

        let logits = Array.collect fst parts
        let middle = Array.average logits
        let weights = logits |> Array.map (fun z -> 1.0 / (1.0 + exp (middle - z)))
        struct (weights, Array.collect (snd >> Array.map Simplex.normalise) parts)
