namespace Sama.DataOptimization

open System

/// Judges which rows of an order by scores to keep: the search's model is trained on with each kind for a short while, and
/// rows that are in none of these sets tell which did best. `rest` are the places, among `rows`, of those to choose from. Half of the rows are kept then, whatever share is asked for.
[<Sealed>]
type internal PruningJudge
    (
        trainer: PruningTrainer,
        stages: Stages,
        labels: int[],
        rows: int[],
        judges: int[],
        rest: int[],
        seed: int,
        steps: int
    ) =
    let options = trainer.Options

    let classOf (rows: int[]) =
        rows |> Array.map (fun row -> labels[row])

    let restLabels = rest |> Array.map (fun place -> labels[rows[place]])

    let stageOf (method: string) (kind: string) = $"judging {method}, {kind}"

    /// Probabilities of the judging rows after a short training, [row * classes + class].
    let predicted (score: PruningScore) (theta: float32[]) (kept: KeptRows) : float32[] =
        let set =
            { score.At rest with Kept = kept }.Keep(0.5, restLabels, options.Seed)
            |> Array.map (fun place -> rows[rest[place]])

        let plan = trainer.Shuffled(set, seed)

        let trained =
            trainer.Train(seed, theta, steps, (fun step -> struct (plan step, null)), (fun _ _ _ -> ()))

        trainer.Predict(trained, judges) |> Array.collect (Array.map float32)

    /// The scores with the kind of rows whose training left the least log-loss: that of the method itself unless another is
    /// ahead of it by more than a standard error of their paired difference. Accuracy after so short a training favours easy
    /// rows. θ is the search's.
    member _.Judge(name: string, score: PruningScore, theta: float32[]) : PruningScore =
        let candidates =
            [| for kept, kind in KeptNames.all do
                   let values =
                       stages.Made(stageOf score.Method kind, (fun () -> predicted score theta kept))

                   let probabilities =
                       values
                       |> Array.map float
                       |> Array.chunkBySize trainer.Model.Classes
                       |> Array.map Simplex.normalise

                   Candidate.FromProbabilities(kind, probabilities, classOf judges) |]

        let choice =
            Selection.Choose(
                candidates,
                SelectionOptions(
                    Criterion = Criterion.LogLoss,
                    ExpectedGain = Nullable 0.0,
                    GainSpread = Nullable infinity
                )
            )

        { score with
            Method = name
            Kept = fst KeptNames.all[choice.Index]
            Judgement = choice
            Seconds =
                score.Seconds
                + stages.Seconds(KeptNames.all |> List.map (fun (_, kind) -> stageOf score.Method kind)) }
