namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// A meta learner over data: what rows weigh, or what their labels should be, as a function of λ. It is made by
/// `ExampleWeights` and `Corrections`, holds no tensor but starting values, and goes into any level: `Loss` in the base
/// level's loss, `Level` above it.
[<Sealed>]
type DataLearner
    internal
    (
        name: string,
        start: int64 -> struct (string * Tensor)[],
        judge: (string -> Tensor) -> RowView -> Judgement,
        penalty: (string -> Tensor) -> Tensor
    ) =

    let find (lambda: Params) (parameter: string) = lambda[parameter]

    let smoothed (smoothing: float) (target: Tensor) (log: Tensor) =
        -(target * log).sum 1L * (1.0 - smoothing) - log.mean [| 1L |] * smoothing

    let judged (lambda: Params) (batch: RowBatch) (opinion: Tensor) (current: Tensor) =
        Check.notNull (nameof lambda) lambda
        Check.notNull (nameof batch) batch

        judge
            (find lambda)
            { Batch = batch
              Opinion = opinion
              Current = current }

    /// Rows that are known to be right have their label and weight 1.
    let weights (batch: RowBatch) (judgement: Judgement) : Tensor =
        if isNull judgement.Logits then
            torch.ones_like batch.Known
        else
            let z = judgement.Logits
            let w = torch.sigmoid (z - z.mean ())
            w * (1.0 - batch.Known) + batch.Known

    let targets (batch: RowBatch) (judgement: Judgement) : Tensor =
        if isNull judgement.Targets then
            batch.Given
        else
            let known = batch.Known.unsqueeze 1L
            judgement.Targets * (1.0 - known) + batch.Given * known

    /// Weights where losses [rows] are all that is known of a prediction.
    let byLosses (lambda: Params) (batch: RowBatch) (losses: Tensor) : Tensor =
        let stopped = losses.unsqueeze 1L
        let others = float (batch.Given.shape[1] - 1L)
        // what is left to the other classes, in equal parts
        let rest =
            (1.0 - (-stopped).exp ()).clamp_min(Scalar.op_Implicit 1e-6).log () - log others

        let opinion = -stopped * batch.Given + rest * (1.0 - batch.Given)
        let judgement = judged lambda batch opinion null

        if not (isNull judgement.Targets) then
            invalidOp $"{name} learns labels, for which losses by row are not enough: give log-probabilities to Loss"

        weights batch judgement

    /// What messages and a run call it.
    member _.Name = name

    member internal _.Judge = judge
    member internal _.Begin = start
    member internal _.Pull = penalty

    /// Names and starting values of λ, float32 on the CPU, drawn by the seed where they are random. The caller disposes
    /// them.
    member _.Start([<Optional; DefaultParameterValue(0L)>] seed: int64) : IReadOnlyList<struct (string * Tensor)> =
        let made =
            use _ = torch.NewDisposeScope()
            start seed

        made

    /// The base loss, one number: the mean over rows of w CE(t, p), with w = σ(z − z̄) the learned weights, t the learned
    /// labels, and `smoothing` of every label spread over all classes (Szegedy et al., 2016). Weights are relative to their
    /// batch: Adam takes steps of one size whatever their common factor, which left free drifts until all are saturated.
    ///
    /// `logProbabilities` [rows, classes] is the model's, differentiated. `averaged` is that of an averaged model, a
    /// constant, from which features are then taken; without it they are taken from the model itself and go through
    /// `pass.Stop`. With `prior` [classes] the classes' shares are adjusted (`LogitAdjustment`). ArgumentException for other
    /// shapes, or a feature that the table does not tell.
    member _.Loss
        (
            pass: Pass,
            lambda: Params,
            batch: RowBatch,
            logProbabilities: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] averaged: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] prior: Tensor,
            [<Optional; DefaultParameterValue(0.1)>] smoothing: float
        ) : Tensor =
        Check.notNull (nameof pass) pass
        Check.notNull (nameof batch) batch
        Fresh.like (nameof logProbabilities) batch.Given.shape logProbabilities

        if not (isNull averaged) then
            Fresh.like (nameof averaged) batch.Given.shape averaged

        let current = pass.Stop($"{name}: prediction", logProbabilities)

        let judgement =
            if isNull averaged then
                judged lambda batch current null
            else
                judged lambda batch (averaged.detach ()) current

        let w, t = weights batch judgement, targets batch judgement

        let log =
            if isNull prior then
                logProbabilities
            else
                LogitAdjustment.Apply(logProbabilities, t * w.unsqueeze 1L, prior)

        (w * smoothed smoothing t log).mean ()

    /// The base loss of a model that gives losses by row [rows] alone, the mean of w ℓ: weights from the row's number, its
    /// source, its label and votes, and from exp(−ℓ) as the label's probability (through `pass.Stop`).
    /// InvalidOperationException for a learner of labels, which needs log-probabilities.
    member _.WeighedLoss(pass: Pass, lambda: Params, batch: RowBatch, losses: Tensor) : Tensor =
        Check.notNull (nameof pass) pass
        Check.notNull (nameof batch) batch
        Fresh.like (nameof losses) [| batch.Known.shape[0] |] losses
        (byLosses lambda batch (pass.Stop($"{name}: losses", losses)) * losses).mean ()

    /// The weights that `WeighedLoss` takes: [rows] in 0 .. 1. The caller's; no gradient is stopped.
    member _.WeightsByLosses(lambda: Params, batch: RowBatch, losses: Tensor) : Tensor =
        Check.notNull (nameof batch) batch
        Fresh.like (nameof losses) [| batch.Known.shape[0] |] losses
        Fresh.tensor (fun () -> byLosses lambda batch losses)

    /// The learned weights, σ(z − z̄) over the rows given: [rows] in 0 .. 1. `logProbabilities` [rows, classes] as features.
    /// The caller's; no gradient is stopped.
    member _.Weights
        (
            lambda: Params,
            batch: RowBatch,
            logProbabilities: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] current: Tensor
        ) : Tensor =
        Check.notNull (nameof batch) batch
        Fresh.like (nameof logProbabilities) batch.Given.shape logProbabilities
        Fresh.tensor (fun () -> weights batch (judged lambda batch logProbabilities current))

    /// Logits of the weights, before they are made relative to the rows given: [rows]; zeros for a learner of labels alone.
    /// As `Weights`.
    member _.Logits
        (
            lambda: Params,
            batch: RowBatch,
            logProbabilities: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] current: Tensor
        ) : Tensor =
        Check.notNull (nameof batch) batch
        Fresh.like (nameof logProbabilities) batch.Given.shape logProbabilities

        Fresh.tensor (fun () ->
            match (judged lambda batch logProbabilities current).Logits with
            | null -> torch.zeros_like batch.Known
            | logits -> logits)

    /// The labels as they should be: distributions [rows, classes]. As `Weights`.
    member _.Targets
        (
            lambda: Params,
            batch: RowBatch,
            logProbabilities: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] current: Tensor
        ) : Tensor =
        Check.notNull (nameof batch) batch
        Fresh.like (nameof logProbabilities) batch.Given.shape logProbabilities
        Fresh.tensor (fun () -> (targets batch (judged lambda batch logProbabilities current)).alias ())

    /// What is added to the meta loss: how far λ is from what it is pulled to; 0 where it is free. A number, differentiable.
    member _.Penalty(lambda: Params) : Tensor =
        Check.notNull (nameof lambda) lambda
        penalty (find lambda)

    /// The meta level: λ from its start, under a rule, minimising `loss pass θ batch` on clean rows, a mean over them, plus
    /// the penalty. The starting values are held as long as the level.
    member learner.Level
        (
            rule: UpdateRule,
            data: Func<Draw, 'batch>,
            loss: Func<Pass, Params, 'batch, Tensor>,
            [<Optional; DefaultParameterValue(0L)>] seed: int64
        ) : Level =
        Check.notNull (nameof rule) rule
        Check.notNull (nameof data) data
        Check.notNull (nameof loss) loss

        Level.create
            name
            [ for struct (name, value) in learner.Start seed -> name, value ]
            rule
            data.Invoke
            (fun pass theta lambda batch -> loss.Invoke(pass, theta, batch) + penalty (find lambda))

    /// One learner of another's weights and of this one's labels, or the other way round: the parameters of both, with
    /// their learner's name before them. ArgumentException if both have one name; when they judge, if both learn the same.
    static member Combine(weights: DataLearner, labels: DataLearner) : DataLearner =
        Check.notNull (nameof weights) weights
        Check.notNull (nameof labels) labels

        Check.that (nameof labels) (weights.Name <> labels.Name) (fun () -> $"both are called {labels.Name}")

        let part (learner: DataLearner) (find: string -> Tensor) parameter = find $"{learner.Name}.{parameter}"

        DataLearner(
            $"{weights.Name} and {labels.Name}",
            (fun seed ->
                [| for learner in [ weights; labels ] do
                       for struct (name, value) in learner.Begin seed -> struct ($"{learner.Name}.{name}", value) |]),
            (fun find view ->
                let a, b =
                    weights.Judge (part weights find) view, labels.Judge (part labels find) view

                let one (what: string) (first: Tensor) (second: Tensor) =
                    Check.that (nameof labels) (isNull first || isNull second) (fun () ->
                        $"{weights.Name} and {labels.Name} both learn {what}: one of them would never be heard")

                    if isNull first then second else first

                { Logits = one "weights" a.Logits b.Logits
                  Targets = one "labels" b.Targets a.Targets }),
            (fun find -> weights.Pull(part weights find) + labels.Pull(part labels find))
        )
