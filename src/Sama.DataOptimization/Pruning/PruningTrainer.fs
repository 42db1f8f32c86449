namespace Sama.DataOptimization

open System
open TorchSharp
open Sama
open Sama.Functional

/// This rank's rows of a step: their inputs and labels, what their losses are multiplied by, or null, and what a mean over them
/// counts for in the mean over the ranks.
[<NoComparison; NoEquality>]
type internal PlainBatch =
    { Inputs: Tensor[]
      Labels: Tensor
      Weights: Tensor
      Share: float }

/// What a step showed on all ranks: the rows it trained on and their log-probabilities before it, the caller's scope's.
[<NoComparison; NoEquality>]
type internal Shown = { Rows: int[]; Log: Tensor }

/// Trainings by Adam at one rate, θ averaged over about the last 100 steps.
[<Sealed>]
type internal PruningTrainer
    (model: IRowClassifier, labels: int[], options: PruningOptions, report: int -> int -> float -> unit) =

    let layout, device, dtype =
        use scope = torch.NewDisposeScope()
        let named = Named.into scope (model.Start(int64 options.Seed))
        let first = snd named.Head
        Layout.ofNamed named, first.device, first.dtype

    let held =
        (torch.tensor (Array.map int64 labels, device = device)).DetachFromDisposeScope()

    let numbers (vector: Tensor) : float32[] =
        use _ = torch.NewDisposeScope()
        vector.detach().``to``(torch.float32).cpu().data<float32>().ToArray()

    let index (rows: int[]) : Tensor =
        torch.tensor (Array.map int64 rows, device = device)

    member _.Layout = layout
    member _.Device = device
    member _.Dtype = dtype
    member _.Model = model
    member _.Options = options

    member _.Rate = options.Rate.GetValueOrDefault model.Rate

    /// The rows' labels, which belong to the caller's scope.
    member _.Labels(rows: int[]) : Tensor = held.index_select (0L, index rows)

    /// −log p of each row's label.
    member _.Losses(log: Tensor, labels: Tensor) : Tensor =
        -log.gather(1L, labels.unsqueeze 1L).squeeze 1L

    /// Full batches of rows in a new order every epoch, as a function of the step.
    member _.Shuffled(rows: int[], seed: int) : int64 -> int[] =
        let pick =
            Sama.Functional.Sampling.rows
                (int64 rows.Length)
                { Sama.Sampling.Of(min options.Batch rows.Length) with
                    Remainder = Remainder.Wrap }

        fun step ->
            pick
                { Seed = int64 seed
                  Step = step
                  Stream = 0
                  Rank = 0 }
            |> Array.map (fun place -> rows[int place])

    /// Where a training begins: at flat values, or where these are null where the model begins by the seed.
    member private trainer.Start (scope: DisposeScope) (seed: int) (values: float32[]) : (string * Tensor) list =
        if isNull values then
            Named.into scope (model.Start(int64 seed))
        else
            let parameters = Params.frozen layout (trainer.Vector values)
            [ for slice in layout.Slices -> slice.Name, parameters[slice.Name] ]

    /// Runs a problem made of a start and its average, and gives the average back; `after` is called after each step.
    member trainer.Run
        (
            seed: int,
            from: float32[],
            steps: int,
            problem: (string * Tensor) list -> AveragedParameters -> BilevelProblem,
            after: int -> BilevelRun -> AveragedParameters -> unit
        ) : float32[] =
        use scope = torch.NewDisposeScope()
        let start = trainer.Start scope seed from

        use average =
            new AveragedParameters(Params.frozen (Layout.ofNamed start) (Layout.ravel start))

        use run =
            new BilevelRun(problem start average |> Problem.onRanks options.Ranks, int64 seed)

        for step in 1..steps do
            options.StopIfCancelled()
            let told = Together.step trainer.Rate run
            average.Follow run.Theta
            after step run average

            if step % 10 = 0 || step = steps then
                report step steps told.BaseLoss

        numbers average.Parameters.Vector

    /// θ after `steps` steps on what `plan` gives at each: rows, and factors of their losses or null, from flat values or null.
    /// `after` sees the step, from 1, what it showed, and the averaged parameters.
    member trainer.Train
        (
            seed: int,
            from: float32[],
            steps: int,
            plan: int64 -> struct (int[] * float32[]),
            after: int -> Shown -> AveragedParameters -> unit
        ) : float32[] =
        // this rank's, of the step that is taken
        let log: Tensor ref = ref null

        let forget () =
            if not (isNull log.Value) then
                log.Value.Dispose()

        let read (draw: Draw) =
            let struct (rows, weights) = plan draw.Step
            let struct (first, count, share) = Sampling.place options.Ranks rows.Length
            let own = Array.sub rows first count

            { Inputs = model.Read own
              Labels = trainer.Labels own
              Weights =
                if isNull weights then
                    null
                else
                    torch.tensor (Array.sub weights first count, dtype = dtype, device = device)
              Share = share }

        let loss (pass: Pass) (theta: Params) (_: Params) (batch: PlainBatch) =
            let own = model.LogProbabilities(theta, batch.Inputs, true)

            if pass.Kind = PassKind.Base then
                forget ()
                log.Value <- own.detach().clone().DetachFromDisposeScope()

            let losses = trainer.Losses(own, batch.Labels)

            (if isNull batch.Weights then
                 losses
             else
                 losses * batch.Weights)
                .mean ()
            |> Sampling.counted batch.Share

        let show (step: int) =
            let struct (rows, _) = plan (int64 step - 1L)
            let struct (first, _, _) = Sampling.place options.Ranks rows.Length

            { Rows = rows
              Log = Together.whole options.Ranks rows.Length first log.Value }

        let problem start _ =
            Problem.create
                BilevelOptions.Default
                Hypergradient.samaNa
                [ Level.create "classifier" start (adam trainer.Rate) read loss ]

        try
            trainer.Run(
                seed,
                from,
                steps,
                problem,
                fun step _ average ->
                    use _ = torch.NewDisposeScope()
                    after step (show step) average
            )
        finally
            forget ()

    /// Looks at rows in pieces, without gradients: what `look` gives of each, put together.
    member _.Look(theta: Params, rows: int[], look: Params -> int[] -> Tensor[] -> 'part[]) : 'part[] =
        rows
        |> Array.chunkBySize 256
        |> Array.collect (fun chunk ->
            options.StopIfCancelled()
            use _ = torch.NewDisposeScope()
            use _ = torch.no_grad ()
            look theta chunk (model.Read chunk))

    /// Flat values in the model's type, which belong to the caller's scope.
    member _.Vector(theta: float32[]) : Tensor =
        torch.tensor (theta, dtype = dtype, device = device)

    /// The same at flat values.
    member trainer.LookAt(theta: float32[], rows: int[], look: Params -> int[] -> Tensor[] -> 'part[]) : 'part[] =
        use _ = torch.NewDisposeScope()
        trainer.Look(Params.frozen layout (trainer.Vector theta), rows, look)

    /// Probabilities of rows, [row][class].
    member trainer.Predict(theta: float32[], rows: int[]) : float[][] =
        trainer.LookAt(
            theta,
            rows,
            fun theta _ inputs ->
                Rows.FromTensor((model.LogProbabilities(theta, inputs, false)).exp ())
                |> Array.map Simplex.normalise
        )

    interface IDisposable with
        member _.Dispose() = held.Dispose()
