namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// How likely wrong rows are ranked; lower is likelier wrong.
type LabelQuality =
    /// the given label's probability
    | SelfConfidence = 0
    /// the given label's probability less the largest of the others
    | NormalizedMargin = 1

/// Which rows count as wrong.
type WrongRows =
    /// rows counted off the diagonal of the confident joint
    | ConfidentJoint = 0
    /// of every given class, as many as the joint says are wrong, of least self-confidence
    | ByClass = 1
    /// of every pair of given and true class, as many as the joint says, of largest p(true) − p(given)
    | ByNoiseRate = 2
    /// rows that both `ByClass` and `ByNoiseRate` find
    | ByClassAndNoiseRate = 3

/// What confident learning found about labels.
[<Sealed>]
type ConfidentLearningResult
    internal (labels: int[], probabilities: float[][], thresholds: float[], joint: int[,], places: int[]) =
    let classes = thresholds.Length

    // the rows that carry each label
    let carrying =
        let rows = Array.init classes (fun _ -> ResizeArray<int>())
        labels |> Array.iteri (fun row label -> rows[label].Add row)
        rows |> Array.map _.ToArray()

    let given = carrying |> Array.map _.Length

    // each row of counts to the number of rows with that label, then all to 1
    let calibrated =
        let counted = Array.init classes (fun i -> Array.sum joint[i, *])

        Array2D.init classes classes (fun i j ->
            let share =
                if counted[i] > 0 then float joint[i, j] / float counted[i]
                elif i = j then 1.0
                else 0.0

            share * float given[i] / float labels.Length)

    let quality ranking row =
        let p = probabilities[row]
        let own = p[labels[row]]

        match ranking with
        | LabelQuality.SelfConfidence -> own
        | LabelQuality.NormalizedMargin -> own - Simplex.largestOther labels[row] p
        | other -> Check.fail "ranking" $"{other} is no ranking"

    let expected i j =
        int (round (calibrated[i, j] * float labels.Length))

    let byClass () =
        [| for i in 0 .. classes - 1 do
               let wrong =
                   Seq.sum (seq { for j in 0 .. classes - 1 -> if j = i then 0.0 else calibrated[i, j] })

               let count = int (round (wrong * float labels.Length))

               yield!
                   carrying[i]
                   |> Seq.sortBy (fun row -> probabilities[row][i])
                   |> Seq.truncate count |]

    let byNoiseRate () =
        [| for i in 0 .. classes - 1 do
               for j in 0 .. classes - 1 do
                   if i <> j && expected i j > 0 then
                       yield!
                           carrying[i]
                           |> Seq.sortBy (fun row -> probabilities[row][i] - probabilities[row][j])
                           |> Seq.truncate (expected i j) |]
        |> Array.distinct

    /// Per class: the mean probability of the class over the rows that carry its label, above which a row counts as
    /// confidently of the class; infinite for a class that no row carries.
    member _.Thresholds = Array.copy thresholds
    /// Counts of rows by given label (first index) and confident true class (second).
    member _.ConfidentJoint = Array2D.copy joint

    /// Estimated joint distribution of given label (first index) and true class (second); its rows sum to the labels'
    /// shares. A label none of whose rows is confidently of any class is taken to be right.
    member _.Joint = Array2D.copy calibrated

    /// Estimated p(given = i | true = j), first index i; columns sum to 1, a class that no row is confidently of has
    /// the identity's column.
    member _.NoiseMatrix =
        Array2D.init classes classes (fun i j ->
            let total = Array.sum calibrated[*, j]

            if total > 0.0 then calibrated[i, j] / total
            elif i = j then 1.0
            else 0.0)

    /// Estimated share of wrong labels: the joint off its diagonal.
    member _.NoiseRate =
        max 0.0 (1.0 - Seq.sum (seq { for i in 0 .. classes - 1 -> calibrated[i, i] }))

    /// The most probable class of every row: the label it would get.
    member _.Suggested = Array.map Simplex.argmax probabilities

    /// How well every row's label fits, by the ranking; lower is likelier wrong.
    member _.Quality
        ([<Optional; DefaultParameterValue(LabelQuality.NormalizedMargin)>] ranking: LabelQuality)
        : float[] =
        Array.init labels.Length (quality ranking)

    /// The rows whose label is likely wrong, the likeliest first; rows of equal quality in their order.
    member _.Wrong
        (
            [<Optional; DefaultParameterValue(WrongRows.ByClassAndNoiseRate)>] rows: WrongRows,
            [<Optional; DefaultParameterValue(LabelQuality.NormalizedMargin)>] ranking: LabelQuality
        ) : int[] =
        let found =
            match rows with
            | WrongRows.ConfidentJoint ->
                [| for row in 0 .. labels.Length - 1 do
                       if places[row] >= 0 && places[row] <> labels[row] then
                           row |]
            | WrongRows.ByClass -> byClass ()
            | WrongRows.ByNoiseRate -> byNoiseRate ()
            | WrongRows.ByClassAndNoiseRate -> Array.filter (Set.ofArray (byNoiseRate ())).Contains (byClass ())
            | other -> Check.fail (nameof rows) $"{other} is no way to find wrong rows"

        found |> Array.sortBy (fun row -> struct (quality ranking row, row))

/// Confident learning (Northcutt, Jiang and Chuang, JAIR 2021): which labels are wrong, from probabilities of models
/// that have not seen them.
[<AbstractClass; Sealed>]
type ConfidentLearning =

    /// Estimates the joint of given and true labels from out-of-fold probabilities (`CrossFit.OutOfFold`): a row of
    /// label i counts for the class j of largest p_j among those with p_j at or above the threshold of j, the mean of
    /// p_j over the rows labelled j; rows above no threshold are not counted. ArgumentException for no rows,
    /// probabilities that do not sum to 1 or a label outside the classes.
    static member Estimate(probabilities: float[][], labels: int[]) : ConfidentLearningResult =
        let classes = Check.probabilities (nameof probabilities) probabilities
        Check.labels (nameof labels) classes probabilities.Length labels

        let thresholds =
            Array.init classes (fun j ->
                let own =
                    [| for row in 0 .. labels.Length - 1 do
                           if labels[row] = j then
                               probabilities[row][j] |]

                if own.Length = 0 then infinity else Array.average own)

        let place (p: float[]) =
            let above =
                [| for j in 0 .. classes - 1 do
                       // the mean of equal numbers may be the next float above them
                       if p[j] >= thresholds[j] - 1e-9 then
                           j |]

            if above.Length = 0 then
                -1
            else
                Array.maxBy (fun j -> p[j]) above

        let places = Array.map place probabilities
        let joint = Array2D.zeroCreate classes classes

        Array.iter2
            (fun i j ->
                if j >= 0 then
                    joint[i, j] <- joint[i, j] + 1)
            labels
            places

        ConfidentLearningResult(Array.copy labels, Array.map Array.copy probabilities, thresholds, joint, places)
