module ContinuedPretraining.Program

open System
open System.IO
open Argu
open ScottPlot
open Spectre.Console
open Sama
open Sama.Functional
open Sama.DataOptimization
open ContinuedPretraining.Training

type Arguments =
    | Data of folder: string
    | Model of folder: string
    | Other of folder: string
    | Frozen of layers: int
    | Tokens of count: int
    | Steps of count: int
    | Rate of rate: float
    | Meta_Rate of rate: float
    | Seeds of seeds: string
    | Ways of numbers: string
    | Held_Out
    | Report of file: string
    | Picture of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ ->
                "a folder: train, dev and test.jsonl of the end task, domain*.txt, each may be .gz (default: generated)"
            | Model _ -> "a Hugging Face folder, BERT or RoBERTa (default: a tiny one, generated)"
            | Other _ -> "a folder of another domain's texts, *.txt or WRENCH (default: generated)"
            | Frozen _ -> "layers that stay as they are (default: all but one)"
            | Tokens _ -> "tokens of a row (default 48)"
            | Steps _ -> "steps of a training (default 200, of what is generated 20)"
            | Rate _ -> "rate of Adam (default 1e-3)"
            | Meta_Rate _ -> "rate of Adam for weights (default 0.1)"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Ways _ -> $"a list or range of 0-{Training.ways.Length - 1}, as the table has them (default: all)"
            | Held_Out -> "the table is of training rows that were left out, to choose on"
            | Report _ -> "a file of one JSON object a training; what is in it is not run again"
            | Picture _ -> "an SVG file for the weights that were learned"

let private spread (scale: float) (format: string) (values: float list) : string =
    let over = Uncertainty.OverSeeds(values |> List.map ((*) scale))
    let shown (value: float) = value.ToString format

    if over.Count = 1 then
        shown over.Mean
    else
        $"{shown over.Mean} ({shown over.Low} to {shown over.High})"

/// A row a way; then what the tasks weighed in the mean over the last tenth of the steps.
let private table (score: Row -> float) (rows: Row list) : unit =
    let table columns (cells: string list list) =
        let table = Table()
        columns |> List.iter (fun (column: string) -> table.AddColumn column |> ignore)
        cells |> List.iter (fun cells -> table.AddRow(Array.ofList cells) |> ignore)
        AnsiConsole.Write table

    AnsiConsole.Profile.Width <- max AnsiConsole.Profile.Width 140

    let against name (own: Row list) =
        let paired =
            [ for row in own do
                  for other in rows do
                      if other.Way = name && row.Way <> name && other.Seed = row.Seed then
                          score row - score other ]

        if paired.IsEmpty then
            ""
        else
            spread 100.0 "+0.0;-0.0;0.0" paired

    let byWay = rows |> List.groupBy _.Way

    table
        [ "way"
          "seeds"
          "macro-F1"
          $"- {alone}"
          $"- {equal}"
          "accuracy"
          "seconds"
          "MB" ]
        [ for name, own in byWay ->
              [ name
                string own.Length
                spread 1.0 "F3" (own |> List.map score)
                against alone own
                against equal own
                spread 1.0 "F3" (own |> List.map _.Accuracy)
                $"{own |> List.averageBy _.Seconds:F0}"
                string (own |> List.map _.PeakMegabytes |> List.max) ] ]

    let last (row: Row) task =
        Array.average [| for step in row.Weights[row.Weights.Length * 9 / 10 ..] -> step[task] |]

    match byWay |> List.filter (fun (_, own) -> own.Head.Weights.Length > 0) with
    | [] -> ()
    | learned ->
        table
            ("weights, last tenth of steps" :: Tasks.names)
            [ for name, own in learned ->
                  name
                  :: [ for task in 0 .. Tasks.names.Length - 1 -> spread 1.0 "F2" [ for row in own -> last row task ] ] ]

/// Weights over steps, the mean over seeds: a colour a task, dashes for the second way.
let private picture (path: string) (rows: Row list) : unit =
    use plot = new Plot()
    let colours = Palettes.Category10()

    let learned =
        rows |> List.filter (fun row -> row.Weights.Length > 0) |> List.groupBy _.Way

    for number, (way, own) in List.indexed learned do
        for task, name in List.indexed Tasks.names do
            let mean =
                [| for step in 0 .. own.Head.Weights.Length - 1 ->
                       own |> List.averageBy (fun row -> row.Weights[step].[task]) |]

            let line = plot.Add.Signal(mean, color = colours.GetColor task)
            line.LegendText <- $"{name}; {way}"
            line.LinePattern <- if number = 0 then LinePattern.Solid else LinePattern.Dashed

    plot.XLabel "step"
    plot.YLabel "weight"
    plot.ShowLegend Edge.Right |> ignore
    plot.SaveSvg(path, 1000, 420) |> ignore

let private run (parsed: ParseResults<Arguments>) (token: Threading.CancellationToken) : unit =
    let report, drawn = parsed.TryGetResult Report, parsed.TryGetResult Picture
    Option.iter Report.requireFolder report
    Option.iter Report.requireFolder drawn
    let generated = Directory.CreateTempSubdirectory "sama-texts"

    try
        let own =
            [ parsed.TryGetResult Data
              parsed.TryGetResult Model
              parsed.TryGetResult Other ]

        let folders =
            match List.choose id own with
            | [ data; model; other ] -> data, model, other
            | [] ->
                Generator.write generated.FullName
                generated.FullName, generated.FullName, Path.Combine(generated.FullName, "other")
            | _ -> raise (ArgumentException "--data, --model and --other are given together, or none of them")

        let positive option value =
            if value > 0 then
                value
            else
                raise (ArgumentException $"{option} {value}: at least 1 is expected")

        let name path =
            if own.Head.IsSome then
                DirectoryInfo(path).Name
            else
                "generated"

        let data, model, other = folders

        let settings =
            { Steps =
                parsed.GetResult(Steps, (if own.Head.IsSome then 200 else 20))
                |> positive "--steps"
              Rate = parsed.GetResult(Rate, 1e-3)
              MetaRate = parsed.GetResult(Meta_Rate, 0.1) }

        let tokens = parsed.GetResult(Tokens, 48) |> positive "--tokens"

        let setting =
            $"{name data}, {name model}, {name other}, frozen {parsed.TryGetResult Frozen}, {tokens} tokens, {settings}"

        let mutable rows = report |> Option.map Report.read |> Option.defaultValue []

        match rows |> List.tryFind (fun row -> row.Setting <> setting) with
        | Some row ->
            raise (
                ArgumentException
                    $"--report {report.Value} is of '{row.Setting}', not of '{setting}': name another file"
            )
        | None -> ()

        let ways =
            parsed.GetResult(Ways, $"0-{Training.ways.Length - 1}")
            |> Numbers.parse "--ways"

        if List.max ways >= Training.ways.Length then
            raise (ArgumentException $"--ways {List.max ways}: there are 0 to {Training.ways.Length - 1}")

        let asked =
            [ for seed in parsed.GetResult(Seeds, "0") |> Numbers.parse "--seeds" do
                  for way in ways -> Training.ways[way].Name, seed ]

        let own () =
            rows |> List.filter (fun row -> List.contains (row.Way, row.Seed) asked)

        let fill () =
            use line = new LiveLine "reading"

            let world =
                lazy
                    Tasks.read
                        token
                        (fun share what -> line.At(share, what))
                        folders
                        (parsed.TryGetResult Frozen)
                        tokens

            for number, (way, seed) in List.indexed asked do
                if not (rows |> List.exists (fun row -> (row.Way, row.Seed) = (way, seed))) then
                    let watch share =
                        line.At((float number + share) / float asked.Length, $"{way}, seed {seed}")

                    rows <- rows @ [ Training.run token watch (world.Force()) settings setting seed way ]
                    report |> Option.iter (fun path -> Report.write path rows)

        try
            fill ()
        finally
            if not (own ()).IsEmpty then
                table (if parsed.Contains Held_Out then _.HeldOut else _.Test) (own ())
                drawn |> Option.iter (fun path -> picture path (own ()))
    finally
        generated.Delete true

[<EntryPoint>]
let main args =
    Ending.run "ContinuedPretraining" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "ContinuedPretraining").Parse args

        Native.initialize ()
        run parsed token
        0)
