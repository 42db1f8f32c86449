namespace Sama.TextCleaning

open System
open Sama.DataOptimization

/// From which files a cleaning reads, to which folder it writes, and with which model.
[<Sealed; AllowNullLiteral>]
type TextCleaningOptions() =
    /// Rows to clean: JSON lines, CSV or TSV, gzipped or not, or a WRENCH folder, whose votes are cleaned then, whose valid
    /// split is clean and whose test split is predicted unless other files are named.
    member val Train: string = null with get, set

    /// Clean rows, with labels.
    member val Clean: string = null with get, set

    /// Rows to predict; null: none. With labels, they judge.
    member val Test: string = null with get, set

    /// The folder that is written.
    member val Out: string = null with get, set

    /// A Hugging Face folder (BERT or RoBERTa) to fine-tune; null: the small encoder.
    member val Model: string = null with get, set

    /// Layers of that model that stay as they are; null: all of them, the head alone is trained.
    member val FrozenLayers = Nullable<int>() with get, set

    /// Tokens of a text that are read; words of the small encoder.
    member val Tokens = 64 with get, set

    /// The columns, the same in every file; `TruthColumn`, of the rows to clean, judges.
    member val Columns = ReadOptions() with get, set

    /// Whether the clean file has the votes too.
    member val CleanVotes = true with get, set

    /// Go on from what an interrupted run left in `Out`.
    member val Resume = false with get, set

    /// How it trains and chooses; its state folder is set here.
    member val Cleaning = CleaningOptions() with get, set

/// A cleaned data set, its rows and what was written.
[<NoComparison; NoEquality>]
type TextCleaningResult =
    {
        /// what was found
        Cleaning: CleaningResult
        /// names of the classes
        Classes: string[]
        /// the rows that were read, those without label and vote included
        Train: Dataset
        /// the rows to predict, or null
        Test: Dataset
        /// share of the rows to predict that the chosen model gets right, of those with a label whose text is no clean row's;
        /// null without any
        TestAccuracy: Nullable<float>
        /// area under the ROC curve of `Quality` over rows whose truth is told; null without
        QualityAuroc: Nullable<float>
        /// what the rows lack, a sentence each: rows left out, test rows that do not judge, classes without clean rows
        Notes: string[]
        /// the files and folders that were written
        Written: string[]
    }
