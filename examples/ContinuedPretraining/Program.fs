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
    | Steps of count: int
    | Rate of rate: float
    | Meta_Rate of rate: float
    | Seeds of seeds: string
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
            | Steps _ -> "steps of a training (default 150, of what is generated 20)"
            | Rate _ -> "rate of Adam (default 1e-3)"
            | Meta_Rate _ -> "rate of Adam for weights (default 0.1)"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Report _ -> "a file of one JSON object a training; what is in it is not run again"
            | Picture _ -> "an SVG file for the weights that were learned"

let private spread (scale: float) (format: string) (values: float list) : string =
    let over = Uncertainty.OverSeeds(values |> List.map ((*) scale))
    let shown (value: float) = value.ToString format

    if over.Count = 1 then
        shown over.Mean
    else
        $"{shown over.Mean} ({shown over.Low} to {shown over.High})"

let private show (columns: string list) (rows: string list list) : unit =
    let table = Table()
    table.AddColumns(Array.ofList columns) |> ignore
    rows |> List.iter (fun row -> table.AddRow(Array.ofList row) |> ignore)
    AnsiConsole.Profile.Width <- max AnsiConsole.Profile.Width 150
    AnsiConsole.Write table

/// A row a way; then what the tasks weighed in the mean over the last tenth of the steps.
let private table (rows: Row list) : unit =
    let against name (own: Row list) =
        match
            [ for row in own do
                  for other in rows do
                      if other.Way = name && row.Way <> name && other.Seed = row.Seed then
                          row.Test - other.Test ]
        with
        | [] -> ""
        | paired -> spread 100.0 "+0.0;-0.0;0.0" paired

    let byWay = rows |> List.groupBy _.Way

    show
        [ "way"
          "seeds"
          "macro-F1, test"
          $"- {alone}"
          $"- {equal}"
          "held-out"
          "seconds"
          "MB" ]
        [ for name, own in byWay ->
              [ name
                string own.Length
                spread 1.0 "F3" (own |> List.map _.Test)
                against alone own
                against equal own
                spread 1.0 "F3" (own |> List.map _.HeldOut)
                $"{own |> List.averageBy _.Seconds:F0}"
                $"{own |> List.map _.PeakMegabytes |> List.max}" ] ]

    let last (row: Row) task =
        row.Weights[row.Weights.Length * 9 / 10 ..] |> Array.averageBy (Array.item task)

    show
        ("weights, last tenth of the steps" :: Tasks.names)
        [ for name, own in byWay do
              if own.Head.Weights.Length > 0 then
                  name
                  :: [ for task in 0 .. Tasks.names.Length - 1 -> spread 1.0 "F2" [ for row in own -> last row task ] ] ]

/// Weights over steps, the mean over seeds: a colour a task, dashes for the second way.
let private picture (path: string) (rows: Row list) : unit =
    use plot = new Plot()

    let learned =
        rows |> List.filter (fun row -> row.Weights.Length > 0) |> List.groupBy _.Way

    for number, (way, own) in List.indexed learned do
        for task, name in List.indexed Tasks.names do
            let mean =
                [| for step in 0 .. own.Head.Weights.Length - 1 ->
                       own |> List.averageBy (fun row -> row.Weights[step].[task]) |]

            let line =
                plot.Add.ScatterLine(
                    Array.init mean.Length (fun step -> float (step + 1)),
                    mean,
                    Palettes.Category10().GetColor task
                )

            line.LegendText <- $"{name}; {way}"
            line.LinePattern <- if number = 0 then LinePattern.Solid else LinePattern.Dashed

    plot.XLabel "step"
    plot.YLabel "weight"
    plot.ShowLegend Edge.Right |> ignore
    plot.SaveSvg(path, 1000, 420) |> ignore

/// What is asked for and not in the report yet is trained; what there is, shown, whatever ends it.
let private run
    (parsed: ParseResults<Arguments>)
    (folders: string * string * string)
    (data: string)
    steps
    token
    : unit =
    let settings =
        { Steps = parsed.GetResult(Steps, steps)
          Rate = parsed.GetResult(Rate, 1e-3)
          MetaRate = parsed.GetResult(Meta_Rate, 0.1) }

    if settings.Steps < 1 then
        raise (ArgumentException $"--steps {settings.Steps}: at least 1 is expected")

    let frozen = parsed.TryGetResult Frozen

    let kept =
        match frozen with
        | Some layers -> $"{layers} layers frozen"
        | None -> "all layers but one frozen"

    let setting = $"{data}, {kept}, {settings}"
    let report, drawn = parsed.TryGetResult Report, parsed.TryGetResult Picture

    Option.toList report @ Option.toList drawn
    |> List.iter Sama.Report.requireFolder

    let mutable rows: Row list =
        report |> Option.map Sama.Report.read |> Option.defaultValue []

    for row in rows do
        if row.Setting <> setting then
            raise (
                ArgumentException
                    $"--report {report.Value} is of '{row.Setting}', not of '{setting}': name another file"
            )

    let asked =
        [ for seed in parsed.GetResult(Seeds, "0") |> Numbers.parse "--seeds" do
              for way in ways -> way.Name, seed ]

    let key (row: Row) = row.Way, row.Seed

    let fill () =
        use line = new LiveLine "reading"

        let world =
            lazy Tasks.read token (fun share what -> line.At(share, what)) folders frozen

        for number, (way, seed) in List.indexed asked do
            if not (rows |> List.exists (fun row -> key row = (way, seed))) then
                let watch share =
                    line.At((float number + share) / float asked.Length, $"{way}, seed {seed}")

                rows <- rows @ [ Training.run token watch (world.Force()) settings setting seed way ]
                report |> Option.iter (fun path -> Sama.Report.write path rows)

    try
        fill ()
    finally
        let own = rows |> List.filter (fun row -> List.contains (key row) asked)
        table own
        drawn |> Option.iter (fun path -> picture path own)

[<EntryPoint>]
let main args =
    Ending.run "ContinuedPretraining" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "ContinuedPretraining").Parse args

        Native.initialize ()

        match
            List.choose
                id
                [ parsed.TryGetResult Data
                  parsed.TryGetResult Model
                  parsed.TryGetResult Other ]
        with
        | [ data; model; other ] ->
            let names = [ for folder in [ data; model; other ] -> DirectoryInfo(folder).Name ]
            run parsed (data, model, other) (String.Join(", ", names)) 150 token
        | [] ->
            let folder = Directory.CreateTempSubdirectory "sama-texts"

            try
                Generator.write folder.FullName

                run
                    parsed
                    (folder.FullName, folder.FullName, Path.Combine(folder.FullName, "other"))
                    "generated"
                    20
                    token
            finally
                folder.Delete true
        | _ -> raise (ArgumentException "--data, --model and --other are given together, or none of them")

        0)
