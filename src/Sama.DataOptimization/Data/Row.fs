namespace Sama.DataOptimization

open System

/// Data that cannot be read; the message names the file, the line and the column as far as they are known.
[<Sealed>]
type DataException(file: string, line: Nullable<int>, column: string, reason: string, inner: exn) =
    inherit
        Exception(
            String.concat
                ", "
                [ file
                  if line.HasValue then
                      $"line {line.Value}"
                  if not (isNull column) then
                      $"column {column}" ]
            + $": {reason}",
            inner
        )

    /// The file as it was named.
    member _.File = file
    /// The line in it, from 1, where the row starts; null where the file as a whole is meant.
    member _.Line = line
    /// What is wrong, without the place.
    member _.Reason = reason
    /// The column, or field of a JSON object; null where the row as a whole is meant.
    member _.Column = column

/// One text with what is known of its class.
[<NoComparison>]
type Row =
    {
        /// what the file calls it; its number from 0 where the file has no such column
        Id: string
        /// the text
        Text: string
        /// class of the given label, an index into the data set's classes; -1 where there is none
        Label: int
        /// class of a label that is known to be right, for judgement; -1 where there is none
        Truth: int
        /// one vote a rule, -1 where the rule abstains; empty where there are no rules
        Votes: int[]
        /// the line of the file where it starts, from 1; the number of the row in a WRENCH file
        Line: int
    }

/// Rows and what their numbers mean.
[<NoComparison>]
type Dataset =
    {
        /// the file or folder
        Name: string
        /// names of the classes, by number
        Classes: string[]
        /// names of the rules, by place among the votes
        Rules: string[]
        /// the rows, in the file's order
        Rows: Row[]
    }

    /// The given labels, -1 where there is none.
    member data.Labels = data.Rows |> Array.map _.Label
    /// The labels known to be right, -1 where there is none.
    member data.Truths = data.Rows |> Array.map _.Truth
    /// The texts.
    member data.Texts = data.Rows |> Array.map _.Text
    /// The votes, [row][rule].
    member data.Votes = data.Rows |> Array.map _.Votes

/// A WRENCH folder's three splits, which share classes and rules.
[<NoComparison>]
type WrenchSplits =
    {
        /// train.json
        Train: Dataset
        /// valid.json
        Valid: Dataset
        /// test.json
        Test: Dataset
    }
