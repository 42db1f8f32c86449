namespace Sama.DataOptimization

/// How many rows get their class.
[<AbstractClass; Sealed>]
type Accuracy =

    static member private Checked(predicted: int[], labels: int[]) =
        Check.nonEmpty (nameof labels) labels
        Check.length (nameof predicted) labels.Length predicted

    /// Share of rows whose predicted class is the label, in 0 .. 1. ArgumentException for no rows or lengths that
    /// differ.
    static member Share(predicted: int[], labels: int[]) : float =
        Accuracy.Checked(predicted, labels)

        Array.map2 (fun p y -> if p = y then 1.0 else 0.0) predicted labels
        |> Array.average

    /// Unweighted mean over classes of F1 = 2 tp / (2 tp + fp + fn), over the classes that are predicted or given.
    /// ArgumentException for no rows or lengths that differ.
    static member MacroF1(predicted: int[], labels: int[]) : float =
        Accuracy.Checked(predicted, labels)

        Array.append predicted labels
        |> Array.distinct
        |> Array.averageBy (fun k ->
            let count p y =
                Array.fold2 (fun n p' y' -> if (p' = k) = p && (y' = k) = y then n + 1 else n) 0 predicted labels
                |> float

            let right = count true true
            2.0 * right / (2.0 * right + count true false + count false true))

    /// Counts of rows by label (first index) and predicted class (second). ArgumentException for a class outside
    /// 0 .. classes − 1.
    static member Confusion(predicted: int[], labels: int[], classes: int) : int[,] =
        Accuracy.Checked(predicted, labels)
        Check.labels (nameof labels) classes labels.Length labels
        Check.labels (nameof predicted) classes labels.Length predicted
        let counts = Array2D.zeroCreate classes classes
        Array.iter2 (fun p y -> counts[y, p] <- counts[y, p] + 1) predicted labels
        counts
