namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// The rows of a cleaning, in the order in which the model knows them: those to clean, then the clean ones, then those to
/// predict.
[<Sealed; AllowNullLiteral>]
type CleaningData
    (
        classes: int,
        trainLabels: int[],
        cleanLabels: int[],
        [<Optional; DefaultParameterValue(null: int[][])>] trainVotes: int[][],
        [<Optional; DefaultParameterValue(null: int[][])>] cleanVotes: int[][],
        [<Optional; DefaultParameterValue(0)>] others: int,
        [<Optional; DefaultParameterValue(null: int[][])>] terms: int[][],
        [<Optional; DefaultParameterValue(0)>] seed: int
    ) =
    do
        Check.that (nameof classes) (classes > 1) (fun () -> $"{classes} classes: at least two are expected")
        Check.nonEmpty (nameof trainLabels) trainLabels
        Check.nonEmpty (nameof cleanLabels) cleanLabels
        Check.labels (nameof cleanLabels) classes cleanLabels.Length cleanLabels
        Check.known (nameof trainLabels) classes trainLabels.Length trainLabels
        Check.that (nameof others) (others >= 0) (fun () -> $"{others} rows to predict")

        if not (isNull trainVotes) then
            Check.length (nameof trainVotes) trainLabels.Length trainVotes
            let rules = Check.votes (nameof trainVotes) classes trainVotes

            if not (isNull cleanVotes) then
                Check.length (nameof cleanVotes) cleanLabels.Length cleanVotes

                Check.that (nameof cleanVotes) (Check.votes (nameof cleanVotes) classes cleanVotes = rules) (fun () ->
                    $"{cleanVotes[0].Length} votes a row, the rows to clean have {rules}")
        else
            Check.that (nameof cleanVotes) (isNull cleanVotes) (fun () -> "the rows to clean have no votes")

        if not (isNull terms) then
            Check.length (nameof terms) (trainLabels.Length + cleanLabels.Length + others) terms

        Check.that (nameof cleanLabels) (Array.length (Array.distinct cleanLabels) > 1) (fun () ->
            "all clean rows are of one class")

        Check.that (nameof cleanLabels) (cleanLabels.Length >= 4) (fun () ->
            $"{cleanLabels.Length} clean rows: at least 4 are needed to train on some and to judge by others")

    let labels =
        if isNull trainVotes then
            trainLabels
        else
            Array.map2
                (fun label majority -> if label >= 0 then label else majority)
                trainLabels
                (MajorityVote.Labels(trainVotes, classes, seed))

    do
        labels
        |> Array.iteri (fun row label ->
            Check.that (nameof trainLabels) (label >= 0) (fun () ->
                $"row {row} has neither a label nor a vote: leave it out"))

    /// How many classes there are.
    member _.Classes = classes

    /// The labels to be cleaned; where a row has none, the majority of its votes, ties drawn by the seed.
    member _.Labels = labels

    /// The clean rows' labels.
    member _.CleanLabels = cleanLabels

    /// The votes of the rows to clean, [row][rule]; null without rules.
    member _.Votes = trainVotes

    /// Those of the clean rows; null where none are told.
    member _.CleanVotes = cleanVotes

    /// The terms of all rows, or null.
    member _.Terms = terms

    /// Number of rows to clean.
    member _.Train = labels.Length

    /// Number of clean rows.
    member _.Clean = cleanLabels.Length

    /// Number of rows to predict.
    member _.Others = others

    /// Number of rules.
    member _.Rules = if isNull trainVotes then 0 else trainVotes[0].Length

    /// The model's numbers of the rows to predict.
    member data.OtherRows = Array.init others (fun i -> data.Train + data.Clean + i)

    /// Votes of all rows that have a label, abstentions where none are told, [row][rule]; null without rules.
    member internal data.AllVotes: int[][] =
        if isNull trainVotes then
            null
        elif isNull cleanVotes then
            Array.append trainVotes (Array.init cleanLabels.Length (fun _ -> Array.create data.Rules -1))
        else
            Array.append trainVotes cleanVotes

    /// Votes that a label model can be fitted on: the rules' where the clean rows have them too, else the given labels as
    /// those of one rule, with none for clean rows.
    member internal data.ModelVotes: int[][] =
        if isNull trainVotes then
            labels |> Array.map Array.singleton
        else
            trainVotes
