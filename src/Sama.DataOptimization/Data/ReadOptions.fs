namespace Sama.DataOptimization

open System.Collections.Generic

/// Which columns, or fields of JSON objects, are what. A name with dots looks inside: `data.text`.
[<Sealed; AllowNullLiteral>]
type ReadOptions() =
    /// The text's column.
    member val TextColumn = "text" with get, set
    /// The given label's column; null if there is none.
    member val LabelColumn = "label" with get, set
    /// The column of labels known to be right; null, as it is made, if there is none.
    member val TruthColumn: string = null with get, set
    /// The column that names rows; null, as it is made, numbers them from 0.
    member val IdColumn: string = null with get, set

    /// A column of JSON lists of votes, one a rule; null, as it is made, if there is none.
    member val VotesColumn: string = null with get, set

    /// Columns of one rule's votes each; null, as it is made, if there are none. A vote is a class, or -1, null or
    /// nothing where the rule abstains; where -1 is a class, a vote of -1 is an error.
    member val VoteColumns: IReadOnlyList<string> = null with get, set

    /// Names of the classes, in order: every other label is an error. Null, as it is made, takes the labels that
    /// occur, in order, whole numbers by value (1.0 is 1); labels that differ alone by case, by spaces around them or by how accented letters
    /// are composed are an error then. Give a second file the classes of the first.
    member val Classes: IReadOnlyList<string> = null with get, set

    /// Whether every row has to have a label; true as it is made. Otherwise an empty or missing one is -1.
    member val LabelRequired = true with get, set

    /// Whether a single class in the whole file is an error; true as it is made.
    member val SeveralClasses = true with get, set

    /// The separator of a CSV file, `tab` for a tab; null, as it is made, is a comma, or a tab where the name ends in .tsv.
    member val Separator: string = null with get, set
