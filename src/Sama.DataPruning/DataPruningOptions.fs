namespace Sama.DataPruning

open System.Collections.Generic
open Sama.DataOptimization

/// What is pruned, how far, by which scores, and where it is written.
[<Sealed; AllowNullLiteral>]
type DataPruningOptions() =
    /// Images: a folder that `ImageReader.Read` takes. Texts: a file of JSON lines, CSV or TSV, gzipped or not, or a WRENCH
    /// folder.
    member val Data: string = null with get, set

    /// Rows to judge by, of the same kind; null: the data's own test files, else a fifth of the rows, drawn by the seed.
    member val Test: string = null with get, set

    /// Clean rows, of the same kind, that SAMA's meta loss is taken on and that `judged-` methods judge by; null: the rows
    /// themselves. Only methods of SAMA take them.
    member val Clean: string = null with get, set

    /// The folder that is written.
    member val Out: string = null with get, set

    /// The share of rows to keep.
    member val Keep = 0.7 with get, set

    /// The method: a name of `PruningMethod.Known`.
    member val Scores = "judged-sama" with get, set

    /// The share of hardest rows that coverage-centric selection (`ccs-METHOD`) cuts off.
    member val HardCutoff = 0.0 with get, set

    /// Whether each class keeps its share of all rows; coverage-centric selection does not look at classes.
    member val Balanced = true with get, set

    /// `lenet` or `resnet` for images; of texts a Hugging Face folder. Null: lenet, or the small encoder of texts.
    member val Model: string = null with get, set

    /// Pixels of a side that pictures of folders are brought to; 0: they are of one size.
    member val Size = 0 with get, set

    /// Tokens of a text that are read; words of the small encoder.
    member val Tokens = 64 with get, set

    /// The columns of texts.
    member val Columns = ReadOptions() with get, set

    /// Shares at which the report compares accuracy after training on what is kept, by the scores and at random; `Keep` is
    /// always one, all rows too. Empty: no training but the search.
    member val Curve: IReadOnlyList<float> = [| 0.9; 0.7; 0.5; 0.3 |] with get, set

    /// `cpu`, or `cuda`.
    member val Device = "cpu" with get, set

    /// Go on from what an interrupted run left in `Out`.
    member val Resume = false with get, set

    /// How it trains; its state folder and identity are set here.
    member val Pruning = PruningOptions() with get, set

/// Accuracy after training on a share of the rows.
[<NoComparison>]
type SharePoint =
    {
        /// the share
        Share: float
        /// of the rows that the scores keep
        Accuracy: float
        /// of as many at random
        Random: float
    }

/// A pruned data set.
[<NoComparison; NoEquality>]
type DataPruningResult =
    {
        /// numbers of the kept rows, sorted
        Kept: int[]
        /// scores of all rows, and what they cost
        Score: PruningScore
        /// labels of the rows, by class
        Labels: int[]
        /// names of the classes
        Classes: string[]
        /// accuracy against share, by falling share, all rows first; empty if it was not asked for
        Curve: SharePoint[]
        /// seconds of a training on all rows that are not judged by; not a number without a curve
        FullSeconds: float
        /// rows that judged; 0 without a curve
        Judged: int
        /// the share kept
        Share: float
        /// what the rows lack, a sentence each: test rows that do not judge, for they are rows to train on as well
        Notes: string[]
        /// the files that were written
        Written: string[]
    }

    /// Whether at the share kept as many rows at random gave an accuracy that is higher by more than a standard error of the
    /// difference (of two independent shares, which is more than that of paired ones).
    member result.RandomIsAhead: bool =
        result.Curve
        |> Array.exists (fun point ->
            let variance p = p * (1.0 - p) / float result.Judged

            point.Share = result.Share
            && point.Random - point.Accuracy > sqrt (variance point.Random + variance point.Accuracy))
