namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open MathNet.Numerics.Distributions
open MathNet.Numerics.Statistics

/// A mean and an interval around it.
[<NoComparison>]
type Interval =
    {
        /// the mean
        Mean: float
        /// lower end
        Low: float
        /// upper end
        High: float
    }

/// Results over several seeds.
[<NoComparison>]
type SeedSummary =
    {
        /// number of seeds
        Count: int
        /// mean over seeds
        Mean: float
        /// standard deviation over seeds, of n − 1; not a number for one seed
        StandardDeviation: float
        /// lower end of the t-interval of the mean; not a number for one seed
        Low: float
        /// upper end of the t-interval of the mean; not a number for one seed
        High: float
    }

/// How far a figure can be trusted.
[<AbstractClass; Sealed>]
type Uncertainty =

    /// Kish's effective sample size (Σw)² / Σw² (Kish, 1965): as many rows of equal weight would tell as much. 0 where
    /// all weights are 0. ArgumentException for a weight that is negative or not finite.
    static member EffectiveSampleSize(weights: float[]) : float =
        Check.notNull (nameof weights) weights
        Check.finite (nameof weights) weights
        Check.that (nameof weights) (weights |> Array.forall (fun w -> w >= 0.0)) (fun () -> "a weight is negative")
        // scaled, for squares of small weights would underflow
        let most = if weights.Length = 0 then 0.0 else Array.max weights

        if most = 0.0 then
            0.0
        else
            let scaled = weights |> Array.map (fun w -> w / most)
            pown (Array.sum scaled) 2 / Array.sumBy (fun w -> w * w) scaled

    /// Mean difference `first − second` of scores `[seed][row]` and its central percentile bootstrap interval (Efron
    /// and Tibshirani, 1993). Paired: seeds and rows are drawn again with replacement, the same for both. The same
    /// seed gives the same interval. ArgumentException for shapes that differ, no rows, a score that is not finite or
    /// a level outside (0, 1).
    static member PairedBootstrap
        (
            first: IReadOnlyList<float[]>,
            second: IReadOnlyList<float[]>,
            [<Optional; DefaultParameterValue(0.95)>] level: float,
            [<Optional; DefaultParameterValue(2000)>] resamples: int,
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : Interval =
        Check.nonEmpty (nameof first) first
        Check.length (nameof second) first.Count second
        Check.nonEmpty "first[0]" first[0]
        Check.that (nameof level) (level > 0.0 && level < 1.0) (fun () -> $"{level} is not in (0, 1)")
        Check.that (nameof resamples) (resamples > 0) (fun () -> $"{resamples} resamples")
        let rows = first[0].Length

        let differences =
            Array.init first.Count (fun s ->
                Check.length $"first[{s}]" rows first[s]
                Check.length $"second[{s}]" rows second[s]
                Array.map2 (-) first[s] second[s])

        Array.iteri (fun s row -> Check.finite $"seed {s}: first or second" row) differences
        let random = Seeded.random seed 0

        let again _ =
            let drawn = Array.init rows (fun _ -> random.Next rows)

            Seq.init differences.Length (fun _ -> differences[random.Next differences.Length])
            |> Seq.averageBy (fun seed -> drawn |> Array.averageBy (fun row -> seed[row]))

        let means = Array.init resamples again
        let tail = (1.0 - level) / 2.0

        { Mean = differences |> Array.averageBy Array.average
          Low = Statistics.Quantile(means, tail)
          High = Statistics.Quantile(means, 1.0 - tail) }

    /// The same for one run: scores by row.
    static member PairedBootstrap
        (
            first: float[],
            second: float[],
            [<Optional; DefaultParameterValue(0.95)>] level: float,
            [<Optional; DefaultParameterValue(2000)>] resamples: int,
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : Interval =
        Check.notNull (nameof first) first
        Check.notNull (nameof second) second
        Uncertainty.PairedBootstrap([| first |], [| second |], level, resamples, seed)

    /// Mean, standard deviation and Student's t-interval of the mean, mean ± t · s / √n with n − 1 degrees of freedom.
    /// ArgumentException for no values, a value that is not finite or a level outside (0, 1).
    static member OverSeeds
        (values: IReadOnlyList<float>, [<Optional; DefaultParameterValue(0.95)>] level: float)
        : SeedSummary =
        Check.nonEmpty (nameof values) values
        let values = Array.ofSeq values
        Check.finite (nameof values) values
        Check.that (nameof level) (level > 0.0 && level < 1.0) (fun () -> $"{level} is not in (0, 1)")
        let mean = Array.average values

        let deviation =
            if values.Length < 2 then
                nan
            else
                Statistics.StandardDeviation values

        let reach =
            if values.Length < 2 then
                nan
            else
                let t = StudentT.InvCDF(0.0, 1.0, float (values.Length - 1), (1.0 + level) / 2.0)
                t * deviation / sqrt (float values.Length)

        { Count = values.Length
          Mean = mean
          StandardDeviation = deviation
          Low = mean - reach
          High = mean + reach }
