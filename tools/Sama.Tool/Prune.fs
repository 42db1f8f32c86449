/// `sama prune`: from a data set to the rows worth keeping.
module Sama.Tool.Prune

open System
open System.Globalization
open Argu
open Spectre.Console
open Sama
open Sama.DataOptimization
open Sama.DataPruning

type Arguments =
    | Data of path: string
    | Test of path: string
    | Clean of path: string
    | Keep of share: float
    | Out of folder: string
    | Scores of ``method``: string
    | Cutoff of share: float
    | Any_Class
    | Model of name: string
    | Size of pixels: int
    | Tokens of count: int
    | Text of column: string
    | Label of column: string
    | Id of column: string
    | Separator of characters: string
    | Classes of names: string
    | Epochs of count: int
    | Search_Share of share: float
    | Rate of rate: float
    | Curve of shares: string
    | Device of name: string
    | Seed of seed: int
    | Resume

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ ->
                "images: a folder of CIFAR-10's .bin files, of IDX files, or a folder a class with .png and .jpg; texts: .jsonl, .csv or .tsv (also .gz), or a WRENCH folder"
            | Test _ -> "the same, to judge by (default: the data's own test files, else a fifth of the rows)"
            | Clean _ ->
                "clean rows, the same kind again, that SAMA learns from and judges by (default: the rows themselves)"
            | Keep _ -> "the share to keep (default 0.7)"
            | Out _ -> "the folder that is written"
            | Scores _ ->
                let known =
                    PruningMethod.Known |> Seq.map (fun struct (name, what) -> $"{name}: {what}")

                String.Join("; ", known) + " (default judged-sama)"
            | Cutoff _ -> "share of hardest rows that ccs-METHOD cuts off (default 0)"
            | Any_Class -> "the best rows of all classes together; by default each class keeps its share"
            | Model _ -> "lenet (default) or resnet; of texts a Hugging Face folder (default: a small encoder)"
            | Size _ -> "brings pictures of folders to so many pixels a side (default: they are of one size)"
            | Tokens _ -> "tokens of a text that are read (default 64)"
            | Text _ -> "column of the text (default text)"
            | Label _ -> "column of the label (default label)"
            | Separator _ ->
                "what separates the columns of a CSV file, tab for a tabulator (default: a comma, of .tsv a tab)"
            | Id _ -> "column that names rows (default: their number from 0)"
            | Classes _ -> "names of the classes of texts, with commas between (default: the labels that occur)"
            | Epochs _ -> "epochs of a full training (default 20)"
            | Search_Share _ -> "share of a full training's steps that early searches take (default 0.15)"
            | Rate _ -> "rate of Adam (default: the model's)"
            | Curve _ ->
                "shares at which the report compares accuracy (default 0.9,0.7,0.5,0.3; none: no training but the search)"
            | Device _ -> "cpu (default) or cuda"
            | Seed _ -> "fixes batches, starting values and ties (default 0)"
            | Resume -> "go on from what an interrupted run left in --out"

let private shares (text: string) : float[] =
    if text = "none" then
        [||]
    else
        Entries.parse text
        |> Array.map (fun part ->
            match Double.TryParse(part, CultureInfo.InvariantCulture) with
            | true, share -> share
            | _ -> raise (ArgumentException $"--curve {text}: '{part}' is no number"))

let private optionsOf (parsed: ParseResults<Arguments>) : DataPruningOptions =
    let options =
        DataPruningOptions(
            Data = Option.toObj (parsed.TryGetResult Data),
            Test = Option.toObj (parsed.TryGetResult Test),
            Clean = Option.toObj (parsed.TryGetResult Clean),
            Out = Option.toObj (parsed.TryGetResult Out),
            Keep = parsed.GetResult(Keep, 0.7),
            Scores = parsed.GetResult(Scores, DataPruningOptions().Scores),
            HardCutoff = parsed.GetResult(Cutoff, 0.0),
            Balanced = not (parsed.Contains Any_Class),
            Model = Option.toObj (parsed.TryGetResult Model),
            Size = parsed.GetResult(Size, 0),
            Tokens = parsed.GetResult(Tokens, 64),
            Device = parsed.GetResult(Device, "cpu"),
            Resume = parsed.Contains Resume,
            Columns =
                ReadOptions(
                    TextColumn = parsed.GetResult(Text, "text"),
                    LabelColumn = parsed.GetResult(Label, "label"),
                    IdColumn = Option.toObj (parsed.TryGetResult Id),
                    Separator = Option.toObj (parsed.TryGetResult Separator),
                    Classes = (parsed.TryGetResult Classes |> Option.map Entries.parse |> Option.toObj)
                ),
            Pruning =
                PruningOptions(
                    Seed = parsed.GetResult(Seed, 0),
                    Epochs = parsed.GetResult(Epochs, 20),
                    SearchShare = parsed.GetResult(Search_Share, PruningOptions().SearchShare),
                    Rate = Option.toNullable (parsed.TryGetResult Rate)
                )
        )

    parsed.TryGetResult Curve
    |> Option.iter (fun text -> options.Curve <- shares text)

    options

let private table (result: DataPruningResult) : unit =
    if result.Curve.Length > 0 then
        let table = Table()

        for column in [ "kept"; result.Score.Method; "random" ] do
            table.AddColumn column |> ignore

        for point in result.Curve do
            table.AddRow($"{100.0 * point.Share:F0} %%", $"{point.Accuracy:F3}", $"{point.Random:F3}")
            |> ignore

        AnsiConsole.Write table

let private told (result: DataPruningResult) : unit =
    table result

    printfn
        $"{result.Kept.Length} of {result.Labels.Length} rows are kept by {result.Score.Method}: {result.Score.KeptName}"

    if result.Curve.Length > 0 then
        printfn
            $"the search took {result.Score.Seconds:F1} s, {result.Score.Seconds / result.FullSeconds:F2} of a full training"

    for note in result.Notes do
        printfn $"note: {note}"

    if result.RandomIsAhead then
        printfn $"warning: as many rows at random train a better model here; try another method of --scores, or random"

    for path in result.Written do
        printfn $"  {path}"

/// Exit codes as `Ending.run`.
let run (args: string list) : int =
    Ending.run "sama prune" "the same command with --resume goes on" (fun token ->
        let parser = ArgumentParser.Create<Arguments>(programName = "sama prune")
        let options = optionsOf (parser.Parse(Array.ofList args))
        options.Pruning.Cancellation <- token

        OnRanks.run
            (fun ranks progress ->
                options.Pruning.Ranks <- ranks
                options.Pruning.Progress <- progress
                DataPruning.Run options)
            told

        0)
