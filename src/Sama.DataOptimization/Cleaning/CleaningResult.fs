namespace Sama.DataOptimization

open System
open System.Collections.Generic
open Sama

/// What cleaning says of one row.
[<NoComparison>]
type RowVerdict =
    {
        /// its number among the rows to clean
        Row: int
        /// the label it had
        Label: int
        /// how likely that is right, 0 .. 1: what sorts the rows
        Quality: float
        /// the weight it should have in training, 0 .. 1
        Weight: float
        /// the label it should have
        Corrected: int
        /// how likely the corrected label is right, 0 .. 1
        Confidence: float
        /// in words
        Why: string
    }

/// What one way of training reached.
[<NoComparison; NoEquality>]
type CandidateResult =
    {
        /// its name
        Name: string
        /// on clean rows that it was not trained on
        HeldOut: Candidate
        /// probabilities for the rows to predict, after training on all clean rows, [row][class]; null if it was not trained
        Predictions: float[][]
        /// seconds of its own trainings
        Seconds: float
    }

/// A cleaned data set.
[<NoComparison; NoEquality>]
type CleaningResult =
    {
        /// the chosen way, and the table that justifies it
        Choice: Choice
        /// all ways, in order of preference
        Candidates: CandidateResult[]
        /// every row to clean, in its order
        Rows: RowVerdict[]
        /// the chosen model's parameters
        Layout: Layout
        /// their values, flat
        Theta: float32[]
        /// probabilities of the chosen model for the rows to predict, [row][class]
        Predictions: float[][]
    }

    /// The rows whose label is likely wrong, the likeliest first: those whose corrected label is another.
    member result.Wrong: RowVerdict[] =
        result.Rows
        |> Array.filter (fun row -> row.Corrected <> row.Label)
        |> Array.sortBy (fun row -> struct (row.Quality, row.Row))

    /// The values as a fresh tensor, which the caller disposes.
    member result.Vector() : Tensor =
        (TorchSharp.torch.tensor result.Theta).DetachFromDisposeScope()
