module ContinuedPretraining.Program

open System
open System.IO
open Argu
open ScottPlot
open Sama
open Sama.Functional
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
                "a folder: train, dev and test.jsonl of the end task, its domain's *.txt, each may be .gz (default: generated)"
            | Model _ -> "a Hugging Face folder, BERT or RoBERTa (default: a tiny one, generated)"
            | Other _ -> "a folder of another domain's texts, *.txt or WRENCH (default: generated)"
            | Frozen _ -> "layers that stay as they are (default: all but one)"
            | Steps _ -> "steps of a training (default 300, of what is generated 20)"
            | Rate _ -> "rate of Adam at the first step, from where it falls to 0 (default 1e-3)"
            | Meta_Rate _ -> "rate of Adam for weights (default 0.1)"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Report _ -> "a file of one JSON object a training; what is in it is not run again"
            | Picture _ -> "an SVG file for the weights that were learned"

/// A row a way; then what the tasks weighed in the mean over the last tenth of the steps.
let private table (rows: Row seq) : unit =
    let rows = List.ofSeq rows
    let byWay = rows |> List.groupBy _.Way

    let mean (own: Row list) (format: string) part =
        Shown.Interval(format, [| for row in own -> part row |])

    // points over another way at the same seeds
    let over other (part: Row -> float) (own: Row list) =
        let others =
            Map
                [ for row in rows do
                      if row.Way = other then
                          row.Seed, part row ]

        let own =
            own |> List.filter (fun row -> row.Way <> other && others.ContainsKey row.Seed)

        if own.IsEmpty then
            ""
        else
            mean own "+0.0;-0.0;0.0" (fun row -> 100.0 * (part row - others[row.Seed]))

    Shown.Table(
        [ "way"
          "seeds"
          "macro-F1, test"
          $"- {alone}"
          $"- {equal}"
          "held-out"
          $"- {alone}"
          "seconds"
          "MB" ],
        [ for name, own in byWay ->
              [ name
                string own.Length
                mean own "F3" _.Test
                over alone _.Test own
                over equal _.Test own
                mean own "F3" _.HeldOut
                over alone _.HeldOut own
                $"{own |> List.averageBy _.Seconds:F0}"
                $"{own |> List.map _.PeakMegabytes |> List.max}" ] ]
    )

    let last task (row: Row) =
        row.Weights[row.Weights.Length * 9 / 10 ..] |> Array.averageBy (Array.item task)

    Shown.Table(
        "weights, last tenth of the steps" :: Tasks.names,
        [ for name, own in byWay do
              if own.Head.Weights.Length > 0 then
                  name :: [ for task in 0 .. Tasks.names.Length - 1 -> mean own "F2" (last task) ] ]
    )

/// Weights over steps, the mean over seeds: a colour a task, dashes for the second way.
let private picture (path: string) (rows: Row seq) : unit =
    use plot = new Plot()

    let learned =
        rows |> Seq.filter (fun row -> row.Weights.Length > 0) |> Seq.groupBy _.Way

    for number, (way, own) in Seq.indexed learned do
        for task, name in List.indexed Tasks.names do
            let steps = [| for step in 1 .. (Seq.head own).Weights.Length -> float step |]

            let mean =
                [| for step in 0 .. steps.Length - 1 -> own |> Seq.averageBy _.Weights.[step].[task] |]

            let line = plot.Add.ScatterLine(steps, mean, Palettes.Category10().GetColor task)
            line.LegendText <- $"{name}; {way}"
            line.LinePattern <- if number = 0 then LinePattern.Solid else LinePattern.Dashed

    plot.XLabel "step"
    plot.YLabel "weight"
    plot.ShowLegend Edge.Right |> ignore
    plot.SaveSvg(path, 1000, 420) |> ignore

/// What is asked for and not in the report yet is trained; what there is, shown.
let private run (parsed: ParseResults<Arguments>) folders (data: string) steps token : unit =
    let settings =
        { Steps = parsed.GetResult(Steps, steps) |> Numbers.atLeast 1 "--steps"
          Rate = parsed.GetResult(Rate, 1e-3)
          MetaRate = parsed.GetResult(Meta_Rate, 0.1) }

    let frozen = parsed.TryGetResult Frozen
    let kept = frozen |> Option.map string |> Option.defaultValue "all but one"
    let drawn = parsed.TryGetResult Picture
    Pictures.Require(Option.toObj drawn)
    let world = lazy Tasks.read token folders frozen

    Results.Complete(
        Option.toObj (parsed.TryGetResult Report),
        $"{data}, layers frozen: {kept}, {settings.Steps} steps, rates {settings.Rate} and {settings.MetaRate}",
        [| for seed in parsed.GetResult(Seeds, "0") |> Numbers.parse "--seeds" do
               for (name, _, _, _) as way in ways do
                   let make watch =
                       Training.run token watch (world.Force()) settings seed way

                   struct ($"{name}, seed {seed}", Func<_, _> make) |],
        fun rows ->
            table rows
            drawn |> Option.iter (fun path -> picture path rows)
    )

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
            run parsed (data, model, other) (String.Join(", ", names)) 300 token
        | [] ->
            let folder = Directory.CreateTempSubdirectory "sama-texts"

            try
                Generator.write folder.FullName
                let at name = Path.Combine(folder.FullName, name)
                run parsed (folder.FullName, at "model", at "other") "generated" 20 token
            finally
                folder.Delete true
        | _ -> raise (ArgumentException "--data, --model and --other are given together, or none of them")

        0)
