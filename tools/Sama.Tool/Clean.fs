/// `sama clean`: from files of labelled texts to cleaned ones.
module Sama.Tool.Clean

open System
open Argu
open Spectre.Console
open Sama
open Sama.DataOptimization
open Sama.TextCleaning

type Arguments =
    | Train of path: string
    | Clean of file: string
    | Test of file: string
    | Model of folder: string
    | Out of folder: string
    | Text of column: string
    | Label of column: string
    | Id of column: string
    | Separator of characters: string
    | Truth of column: string
    | Votes of column: string
    | Vote_Columns of columns: string
    | No_Clean_Votes
    | Classes of names: string
    | Tokens of count: int
    | Frozen of layers: int
    | Steps of count: int
    | Folds of count: int
    | Rate of rate: float
    | Seed of seed: int
    | Resume

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Train _ -> "rows to clean: .jsonl, .csv or .tsv (also .gz), or a WRENCH folder"
            | Clean _ -> "clean rows, with labels (default: the valid split of a WRENCH folder)"
            | Test _ -> "rows to predict; labels, where they have some, judge"
            | Model _ -> "a Hugging Face folder, BERT or RoBERTa, to fine-tune (default: a small encoder)"
            | Out _ -> "the folder that is written"
            | Text _ -> "column of the text (default text); of JSON also data.text"
            | Label _ -> "column of the label (default label)"
            | Separator _ ->
                "what separates the columns of a CSV file, tab for a tabulator (default: a comma, of .tsv a tab)"
            | Id _ -> "column that names rows (default: their number from 0)"
            | Truth _ -> "column of right labels among the rows to clean, which judges"
            | Votes _ -> "column of a JSON list of votes, one a rule, -1 or null where it abstains"
            | Vote_Columns _ -> "columns of one rule's votes each, with commas between"
            | No_Clean_Votes -> "the clean file has no votes"
            | Classes _ -> "names of the classes, with commas between (default: the labels that occur)"
            | Tokens _ -> "tokens of a text that are read (default 64)"
            | Frozen _ -> "layers of the model that stay as they are (default: all)"
            | Steps _ -> "steps of a training (default: six times through the rows, 300 to 1000)"
            | Folds _ -> "folds of the clean rows, for the choice (default 2)"
            | Rate _ -> "rate of Adam (default: the model's)"
            | Seed _ -> "fixes folds, batches and starting values (default 0)"
            | Resume -> "go on from what an interrupted run left in --out"

let private optionsOf (parsed: ParseResults<Arguments>) : TextCleaningOptions =
    let columns =
        ReadOptions(
            TextColumn = parsed.GetResult(Text, "text"),
            LabelColumn = parsed.GetResult(Label, "label"),
            IdColumn = Option.toObj (parsed.TryGetResult Id),
            Separator = Option.toObj (parsed.TryGetResult Separator),
            TruthColumn = Option.toObj (parsed.TryGetResult Truth),
            VotesColumn = Option.toObj (parsed.TryGetResult Votes),
            VoteColumns = (parsed.TryGetResult Vote_Columns |> Option.map Entries.parse |> Option.toObj),
            Classes = (parsed.TryGetResult Classes |> Option.map Entries.parse |> Option.toObj)
        )

    let options =
        TextCleaningOptions(
            Train = Option.toObj (parsed.TryGetResult Train),
            Clean = Option.toObj (parsed.TryGetResult Clean),
            Test = Option.toObj (parsed.TryGetResult Test),
            Model = Option.toObj (parsed.TryGetResult Model),
            Out = Option.toObj (parsed.TryGetResult Out),
            Tokens = parsed.GetResult(Tokens, 64),
            FrozenLayers = Option.toNullable (parsed.TryGetResult Frozen),
            Columns = columns,
            CleanVotes = not (parsed.Contains No_Clean_Votes),
            Resume = parsed.Contains Resume
        )

    options.Cleaning <-
        CleaningOptions(
            Seed = parsed.GetResult(Seed, 0),
            Steps = Option.toNullable (parsed.TryGetResult Steps),
            Rate = Option.toNullable (parsed.TryGetResult Rate),
            Folds = parsed.GetResult(Folds, CleaningOptions().Folds)
        )

    options

let private table (result: TextCleaningResult) : unit =
    let table = Table()

    for column in [ "way of training"; "held-out accuracy"; "log-loss"; "seconds"; "why" ] do
        table.AddColumn column |> ignore

    for way, score in Seq.zip result.Cleaning.Candidates result.Cleaning.Choice.Table do
        table.AddRow(
            Markup.Escape way.Name,
            $"{score.Accuracy:F3}",
            $"{score.LogLoss.Value:F3}",
            $"{way.Seconds:F1}",
            Markup.Escape score.Reason
        )
        |> ignore

    AnsiConsole.Write table

let private told (result: TextCleaningResult) : unit =
    table result
    let wrong = result.Cleaning.Wrong.Length
    printfn $"chosen: {result.Cleaning.Choice.Name}; {wrong} of {result.Cleaning.Rows.Length} labels are likely wrong"

    if result.QualityAuroc.HasValue then
        printfn $"AUROC of quality over rows of known truth: {result.QualityAuroc.Value:F3}"

    if result.TestAccuracy.HasValue then
        printfn $"test accuracy: {result.TestAccuracy.Value:F3}"

    for note in result.Notes do
        printfn $"note: {note}"

    for path in result.Written do
        printfn $"  {path}"

/// Exit codes as `Ending.run`.
let run (args: string list) : int =
    Ending.run "sama clean" "the same command with --resume goes on" (fun token ->
        let parser = ArgumentParser.Create<Arguments>(programName = "sama clean")
        let options = optionsOf (parser.Parse(Array.ofList args))
        options.Cleaning.Cancellation <- token

        OnRanks.run
            (fun ranks progress ->
                options.Cleaning.Ranks <- ranks
                options.Cleaning.Progress <- progress
                TextCleaning.Run options)
            told

        0)
