namespace Sama

open System
open System.Collections.Generic

/// Trainings without some of their rows, and the meta losses that they ended with: what scores of rows are to predict.
[<Sealed>]
type Counterfactuals internal (rows: int, dropped: int[][], losses: float[]) =

    /// Ranks from 0, equal values share the mean of theirs.
    static let ranks (values: float[]) : float[] =
        let order = Array.init values.Length id |> Array.sortBy (fun i -> values[i])
        let ranks = Array.zeroCreate<float> values.Length
        let mutable first = 0

        while first < order.Length do
            let mutable last = first

            while last + 1 < order.Length && values[order[last + 1]] = values[order[first]] do
                last <- last + 1

            for i in first..last do
                ranks[order[i]] <- float (first + last) / 2.0

            first <- last + 1

        ranks

    /// Pearson's correlation; NaN where one side is constant.
    static let correlation (a: float[]) (b: float[]) : float =
        let centred (x: float[]) =
            let mean = Array.average x
            x |> Array.map (fun v -> v - mean)

        let a, b = centred a, centred b

        let dot (x: float[]) (y: float[]) =
            Array.fold2 (fun sum u v -> sum + u * v) 0.0 x y

        dot a b / sqrt (dot a a * dot b b)

    /// Rows that each training left out, from 0.
    member _.Dropped: IReadOnlyList<IReadOnlyList<int>> =
        [| for own in dropped -> own :> IReadOnlyList<int> |]

    /// The meta loss of each.
    member _.Losses: IReadOnlyList<float> = losses

    /// LDS, the linear datamodelling score (S. M. Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023):
    /// Spearman's correlation of the losses and of what scores predict of them. The score of a row is the derivative of the
    /// meta loss by its weight (up to a positive factor): a training without some rows is predicted to lose the sum of
    /// theirs. NaN where all predictions, or all losses, are equal. ArgumentException for another number of scores than rows,
    /// or one that is not finite.
    member _.Lds(scores: IReadOnlyList<float>) : float =
        if isNull scores then
            nullArg (nameof scores)

        if scores.Count <> rows then
            invalidArg (nameof scores) $"there are {scores.Count} scores for {rows} rows"

        match Seq.tryFindIndex (Double.IsFinite >> not) scores with
        | Some i -> invalidArg (nameof scores) $"the score of row {i} is {scores[i]}"
        | None -> ()

        let predicted =
            [| for own in dropped -> -(own |> Array.sumBy (fun i -> scores[i])) |]

        correlation (ranks predicted) (ranks losses)

namespace Sama.Functional

open System
open Sama

/// Trainings without random parts of the rows.
module internal Retraining =

    let private shuffled (random: Random) (rows: int) : int[] =
        let all = Array.init rows id
        random.Shuffle all
        all

    let without (rows: int) (fraction: float) (subsets: int) (seed: int) (retrain: bool[] -> float) : Counterfactuals =
        Method.atLeast 2 (nameof rows) rows
        Method.atLeast 2 (nameof subsets) subsets

        if not (fraction > 0.0 && fraction < 1.0) then
            invalidArg (nameof fraction) $"fraction is between 0 and 1, not {fraction}"

        let random = Random seed
        let count = max 1 (min (rows - 1) (int (Math.Round(fraction * float rows))))

        let dropped =
            [| for _ in 1..subsets -> shuffled random rows |> Array.take count |> Array.sort |]

        let losses =
            [| for i, own in Array.indexed dropped do
                   let keep = Array.create rows true

                   for row in own do
                       keep[row] <- false

                   let loss = retrain keep

                   if not (Double.IsFinite loss) then
                       invalidOp $"the training without subset {i} ended with a meta loss of {loss}"

                   loss |]

        Counterfactuals(rows, dropped, losses)
