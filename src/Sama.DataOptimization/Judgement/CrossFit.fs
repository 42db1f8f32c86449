namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// Predictions for every row by a model that has not seen it.
[<AbstractClass; Sealed>]
type CrossFit =

    /// The fold, 0 .. folds − 1, of every row. Stratified: each class's rows, in an order drawn by the seed, are dealt
    /// to the folds in turn, so that folds differ by at most one row, and by at most one row of each class.
    /// ArgumentException for fewer than two folds or fewer rows than folds.
    static member Folds(labels: int[], folds: int, [<Optional; DefaultParameterValue(0)>] seed: int) : int[] =
        Check.notNull (nameof labels) labels
        Check.that (nameof folds) (folds > 1) (fun () -> $"{folds} folds: at least two are needed")

        Check.that (nameof labels) (labels.Length >= folds) (fun () -> $"{labels.Length} rows for {folds} folds")

        let fold = Array.zeroCreate labels.Length
        // stable: rows of a class stay in the drawn order
        let dealt =
            Seeded.order seed labels.Length
            |> Array.toList
            |> List.sortBy (fun row -> labels[row])

        dealt |> List.iteri (fun turn row -> fold[row] <- turn % folds)
        fold

    /// Out-of-fold probabilities: for each fold `trainPredict trainRows predictRows` trains on the other folds' rows
    /// and gives one row of probabilities for each row to predict, in their order. The result is in the order of the
    /// labels. Row numbers are sorted; a class all of whose rows are in one fold is missing from that fold's training
    /// rows. ArgumentException as for `Folds`; InvalidOperationException if the delegate gives a wrong number of rows
    /// or no probabilities.
    static member OutOfFold
        (
            labels: int[],
            folds: int,
            trainPredict: Func<int[], int[], float[][]>,
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : float[][] =
        Check.notNull (nameof trainPredict) trainPredict
        let fold = CrossFit.Folds(labels, folds, seed)
        let result = Array.zeroCreate<float[]> labels.Length

        for held in 0 .. folds - 1 do
            let predict, train =
                Array.init labels.Length id |> Array.partition (fun row -> fold[row] = held)

            let probabilities = trainPredict.Invoke(train, predict)

            if isNull probabilities || probabilities.Length <> predict.Length then
                let count = if isNull probabilities then 0 else probabilities.Length

                raise (
                    InvalidOperationException
                        $"trainPredict gave {count} rows of probabilities for fold {held}, which has {predict.Length}"
                )

            try
                Check.probabilities (nameof probabilities) probabilities |> ignore
            with :? ArgumentException as e ->
                raise (InvalidOperationException($"trainPredict, fold {held}: {e.Message}", e))

            Array.iter2 (fun row p -> result[row] <- p) predict probabilities

        let widths = result |> Array.map _.Length |> Array.distinct

        if widths.Length > 1 then
            raise (InvalidOperationException "trainPredict gave probabilities of different numbers of classes")

        result
