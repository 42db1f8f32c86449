namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices

/// Predictions for some of the held-out rows: those of one fold, or of one repeat of it.
[<NoComparison; NoEquality>]
type HeldOut =
    {
        /// the rows, as indices into the labels
        Rows: int[]
        /// one row of probabilities each
        Probabilities: float[][]
    }

/// What one way of training reached on held-out rows, row by row, so that ways can be compared row by row.
[<Sealed; AllowNullLiteral>]
type Candidate private (name: string, correct: float[], logLoss: float[], probabilities: float[][]) =

    static let named name =
        Check.that "name" (not (String.IsNullOrWhiteSpace name)) (fun () -> "a candidate needs a name")

    /// Its name in the table.
    member _.Name = name
    /// Of every held-out row: 1 where the prediction is right, 0 where it is wrong; their mean over repeats.
    member _.Correct: IReadOnlyList<float> = correct
    /// Of every held-out row: −log of the label's probability in nats, bounded by `Calibration.LogLosses`; null where
    /// only right or wrong is known.
    member _.LogLoss: IReadOnlyList<float> = if isNull logLoss then null else logLoss

    /// Of every held-out row: the predicted probabilities, their mean over repeats; null where only right or wrong is known.
    member _.Probabilities: IReadOnlyList<float[]> =
        if isNull probabilities then null else probabilities

    member internal _.Right = correct
    member internal _.Losses = logLoss

    /// From predicted probabilities of the held-out rows and their right labels. ArgumentException as for
    /// `Calibration.Bins`.
    static member FromProbabilities(name: string, probabilities: float[][], labels: int[]) : Candidate =
        named name
        let losses = Calibration.LogLosses(probabilities, labels)

        let correct =
            Array.map2 (fun p y -> if Simplex.argmax p = y then 1.0 else 0.0) probabilities labels

        Candidate(name, correct, losses, probabilities)

    /// From right and wrong alone; it can be chosen by accuracy only. ArgumentException for no rows.
    static member FromCorrect(name: string, correct: bool[]) : Candidate =
        named name
        Check.nonEmpty (nameof correct) correct
        Candidate(name, correct |> Array.map (fun right -> if right then 1.0 else 0.0), null, null)

    /// The same with log-losses after calibration (`Calibration.CalibratedLosses`), so that ways are compared by what they
    /// know and not by how sure they are. `labels` are the held-out rows'. InvalidOperationException where only right and wrong are known;
    /// ArgumentException as for `Calibration.Bins`.
    member _.Calibrated(labels: int[]) : Candidate =
        if isNull probabilities then
            invalidOp $"{name} has no probabilities to calibrate: make it from probabilities"

        Candidate(name, correct, Calibration.CalibratedLosses(probabilities, labels), probabilities)

    /// From the folds of a cross-fit, pooled: every row is judged by models that have not seen it. A row that occurs
    /// in several repeats counts once, with its mean. ArgumentException, naming the row, where one is missing, out of
    /// range, or occurs more often than another.
    static member Pooled(name: string, parts: IReadOnlyList<HeldOut>, labels: int[]) : Candidate =
        named name
        Check.nonEmpty (nameof labels) labels
        Check.nonEmpty (nameof parts) parts
        let seen = Array.zeroCreate<int> labels.Length
        let correct = Array.zeroCreate<float> labels.Length
        let losses = Array.zeroCreate<float> labels.Length
        let probabilities = Array.create<float[]> labels.Length null

        for part in parts do
            Check.notNull (nameof parts) part
            Check.notNull "parts.Rows" part.Rows

            for row in part.Rows do
                Check.that "parts.Rows" (row >= 0 && row < labels.Length) (fun () ->
                    $"row {row} is not one of the {labels.Length} labelled rows")

            let given = part.Rows |> Array.map (fun row -> labels[row])
            let scored = Candidate.FromProbabilities(name, part.Probabilities, given)

            part.Rows
            |> Array.iteri (fun i row ->
                seen[row] <- seen[row] + 1
                correct[row] <- correct[row] + scored.Right[i]
                losses[row] <- losses[row] + scored.Losses[i]
                let seen = part.Probabilities[i]

                probabilities[row] <-
                    if isNull probabilities[row] then
                        seen
                    else
                        Array.map2 (+) probabilities[row] seen)

        let repeats = Array.max seen

        seen
        |> Array.iteri (fun row times ->
            Check.that (nameof parts) (times = repeats) (fun () ->
                $"row {row} is predicted {times} times, another row {repeats} times"))

        let mean = Array.map (fun sum -> sum / float repeats)
        Candidate(name, mean correct, mean losses, Array.map mean probabilities)

/// What decides between candidates.
type Criterion =
    /// share of right rows
    | Accuracy = 0
    /// mean log-loss
    | LogLoss = 1
    /// accuracy finds the best; the control is left where that is clearly ahead by accuracy or by log-loss
    | Both = 2

/// How `Selection.Choose` weighs evidence; as it is made it suits a control that is known to be good and few rows.
[<Sealed; AllowNullLiteral>]
type SelectionOptions() =
    /// What decides; accuracy unless told.
    member val Criterion = Criterion.Accuracy with get, set

    /// How many of the first candidates need no more than to be expected the best; 1 unless told, the control. Where one is
    /// known to do no harm in the mean, it belongs here.
    member val Trusted = 1 with get, set

    /// These are left only where the best is ahead of the best of them by more than this many standard errors of their
    /// paired difference; 1 unless told, 0 takes the best.
    member val StandardErrors = 1.0 with get, set

    /// The gain over the first candidate that is expected of another one before any row is seen, in units of the
    /// criterion. Unless told −0.02 of accuracy, −0.04 nats of log-loss: methods disappoint.
    member val ExpectedGain = Nullable<float>() with get, set

    /// The same of those of the first `Trusted` behind the first; unless told as `ExpectedGain`.
    member val TrustedGain = Nullable<float>() with get, set

    /// Standard deviation of these expectations, in the same units; infinity believes the held-out rows alone. Unless
    /// told 0.03 of accuracy, 0.06 nats of log-loss.
    member val GainSpread = Nullable<float>() with get, set

    /// The same where only some of the candidates are there.
    member internal o.Among(all: string[], some: string[]) : SelectionOptions =
        let trusted =
            Array.truncate o.Trusted all
            |> Array.filter (fun name -> Array.contains name some)

        SelectionOptions(
            Criterion = o.Criterion,
            Trusted = trusted.Length,
            StandardErrors = o.StandardErrors,
            ExpectedGain = o.ExpectedGain,
            TrustedGain = o.TrustedGain,
            GainSpread = o.GainSpread
        )
