namespace Sama.DataOptimization

open System
open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// The trainings that scores are made of, each made once. Those that look early take a `share` of a full training's steps;
/// stages' names say `mark`, which tells two searches apart.
[<Sealed>]
type internal PruningSearch
    (trainer: PruningTrainer, stages: Stages, labels: int[], rows: int[], meta: int[], share: float, mark: string) =
    let model, options = trainer.Model, trainer.Options
    let own = rows |> Array.map (fun row -> labels[row])

    let stepsOf (count: int) =
        options.Epochs * ((count + options.Batch - 1) / options.Batch)

    let early = max 1 (int (Math.Round(share * float (stepsOf rows.Length))))

    let floats (values: float[]) = Array.map float32 values

    /// Seeds of trainings that are not to be alike.
    let seedOf (stream: int) =
        (Seeded.random options.Seed stream).Next()

    let plain (seed: int) (rows: int[]) steps =
        let plan = trainer.Shuffled(rows, seed)
        trainer.Train(seed, null, steps, (fun step -> struct (plan step, null)), (fun _ _ _ -> ()))

    let earlyName model = $"{mark}early model {model + 1}"

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
                        null,
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
                options.StopIfCancelled()
                let row = [| rows[place] |]
                let log = model.LogProbabilities(theta, model.Read row, false)
                (trainer.Losses(log, trainer.Labels row)).sum ()

            GradientNorms.ByRow(trainer.Layout, trainer.Vector theta, rows.Length, loss)

    let meanOf (kind: string) (norms: float32[] -> float[]) (models: int) =
        let names =
            [ for model in 0 .. models - 1 -> model, $"{mark}{kind} of model {model + 1}" ]

        let scores =
            [| for model, name in names do
                   let theta = earlyModel model
                   stages.Made(name, (fun () -> floats (norms theta))) |> Array.map float |]

        let stages =
            [ for model, name in names do
                  yield earlyName model
                  yield name ]

        PruningScores.Mean scores, stages, (fun () -> earlyModel 0)

    /// Scores, λ and the averaged model.
    let learned (method: string) (weigher: Weigher) =
        let name = mark + method

        let values =
            stages.Made(
                name,
                fun () ->
                    let search = SamaSearch(trainer, model.Classes, labels, weigher)
                    let struct (scores, lambda, theta) = search.Learn(seedOf 2000, rows, meta, early)
                    Array.concat [ scores; lambda; theta ]
            )

        let last = values.Length - int trainer.Layout.Length

        (values[.. rows.Length - 1] |> Array.map float, [ name ], (fun () -> values[last..])),
        values[rows.Length .. last - 1]

    /// Steps of a training on so many rows.
    member _.StepsOf(count: int) = stepsOf count

    /// A seed for trainings that are not to be alike.
    member _.SeedOf(stream: int) = seedOf stream

    /// θ after steps of rows that stay.
    member _.Plain (seed: int) (rows: int[]) (steps: int) : float32[] = plain seed rows steps

    /// θ of the full training, and seconds.
    member _.Full() : struct (float32[] * float) =
        let theta = (full ())[.. int trainer.Layout.Length - 1]
        struct (theta, stages.Seconds [ fullName ])

    /// InvalidOperationException for a model that does not tell its last layer.
    member _.RequireHead() : unit = head () |> ignore

    /// Distances of rows to the boundary.
    member _.Boundary (theta: Params) (rows: int[]) : float[] = boundary theta rows

    /// Scores, and θ of the first model that they were made with, null where there was none that looks early.
    member _.Score(name: string, scorer: Scorer) : struct (PruningScore * float32[]) =
        let scored (scores, names: string list, model: unit -> float32[]) highest lambda =
            struct ({ Method = name
                      Scores = scores
                      KeepsHighest = highest
                      Kept = KeptRows.Best
                      Judgement = Unchecked.defaultof<Choice>
                      Seconds = stages.Seconds names
                      Lambda = lambda },
                    model ())

        let none () = null

        match scorer with
        | AtRandom ->
            let random = Seeded.random options.Seed 3000
            scored (Array.init rows.Length (fun _ -> random.NextDouble()), [], none) true null
        | ErrorNorm models -> scored (meanOf "errors" errorNorms models) true null
        | GradientNorm models -> scored (meanOf "gradients" gradientNorms models) true null
        | ForgettingCount -> scored (part (full ()) 0, [ fullName ], none) true null
        | UnderMargin -> scored (part (full ()) 1, [ fullName ], none) false null
        | Boundary ->
            head () |> ignore

            let score theta =
                use _ = torch.NewDisposeScope()
                boundary (frozen theta) rows

            scored (meanOf "margins" score 1) false null
        | Learned weigher ->
            let found, lambda = learned name weigher
            scored found true (if weigher = Net then lambda else null)

    /// Scores by a net that was learned elsewhere.
    member _.ScoreBy(lambda: float32[]) : PruningScore =

        let name =
            $"weights by a net of elsewhere {StageStore.Digest(Seq.map BitConverter.SingleToInt32Bits lambda)}"

        let scores =
            stages.Made(
                name,
                fun () -> SamaSearch(trainer, model.Classes, labels, Net).Apply(seedOf 2000, rows, lambda, early)
            )

        { Method = "sama"
          Scores = Array.map float scores
          KeepsHighest = true
          Kept = KeptRows.Best
          Judgement = Unchecked.defaultof<Choice>
          Seconds = stages.Seconds [ name ]
          Lambda = lambda }
