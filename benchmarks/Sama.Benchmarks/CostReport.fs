/// Rows of `bench cost` as tables and a picture, with the cost model beside them.
module Sama.Benchmarks.CostReport

open System
open ScottPlot
open Sama.Benchmarks.Cost

/// Plain steps that a plain step's time should become, counted in forward passes F of the model; a gradient costs 3F.
/// Base and meta pass 3F each, SAMA's perturbed passes F each: λ enters after the model's output, which stores no graph.
/// One-sided at the pre-update point, the base pass stands for one of them. Concatenated, base and meta batch share a
/// forward pass that each of two backward passes goes through whole. A Hessian product goes back through the graph of
/// a gradient, 6F. Rules, differences and norms are not in it.
let predicted (r: Row) : float option =
    // forward passes of a meta step besides its base steps
    let meta =
        match r.Algorithm with
        | "plain" -> Some 0.0
        | "sama"
        | "samaNa" -> Some(3.0 + 2.0)
        | "sama(oneSided)" -> Some(3.0 + 1.0)
        | "sama(microBatches=1of4)" -> Some(3.0 + 2.0 / 4.0)
        | "sama(concatenated)" -> Some(2.0 + 2.0 * 4.0 + 2.0 - 3.0)
        | "t1t2" -> Some(3.0 + 3.0 + 6.0)
        | "neumann(5)"
        | "conjugateGradient(5)" -> Some(3.0 + 3.0 + 6.0 * 6.0)
        | _ -> None

    meta |> Option.map (fun forwards -> 1.0 + forwards / (3.0 * float r.K))

let private groups (rows: Row list) =
    rows |> List.groupBy (fun r -> r.Model, r.Batch, r.K)

let private table (rows: Row list) =
    printfn
        "| model | batch | K | algorithm | time in plain steps | cost model | samples/s | peak tensor MB | resident MB | cosine |"

    printfn "|---|---|---|---|---|---|---|---|---|---|"

    for _, group in groups rows do
        for r in List.distinctBy _.Algorithm group do
            let model = predicted r |> Option.map (sprintf "%.2f") |> Option.defaultValue ""
            let cosine = if r.Cosine.HasValue then $"{r.Cosine.Value:F4}" else ""

            printfn
                $"| {r.Model} | {r.Batch} | {r.K} | {r.Algorithm} | {r.TimePerPlainStep:F2} | {model} | {r.SamplesPerSecond:F1} | {float r.PeakTensorBytes / 1e6:F0} | {float r.PeakResidentBytes / 1e6:F0} | {cosine} |"

let private growth (rows: Row list) =
    printfn "| parameters | time in plain steps | plain: tensor bytes a parameter | SAMA: tensor bytes a parameter |"
    printfn "|---|---|---|---|"

    for _, group in groups rows do
        let each name =
            group |> List.find (fun r -> r.Algorithm = name)

        let bytes (r: Row) =
            float r.PeakTensorBytes / float r.Parameters

        let plain, sama = each "plain", each "sama"
        printfn $"| {sama.Parameters} | {sama.TimePerPlainStep:F2} | {bytes plain:F1} | {bytes sama:F1} |"

let private colours =
    dict
        [ "plain", Colors.Gray
          "sama", Colors.SteelBlue
          "neumann(5)", Colors.Orange
          "conjugateGradient(5)", Colors.IndianRed ]

/// Bars of the algorithms in `names`, a group a label, and a mark where the model expects them.
let private panel
    (title: string)
    names
    (labelled: (string * Row list) list)
    (value: Row -> float)
    (mark: Row -> float option)
    (legend: Alignment)
    =
    let plot = new Plot()
    let width = float (List.length names) + 1.0

    let rowsOf i name =
        [ for g, (_, rows) in List.indexed labelled do
              match rows |> List.tryFind (fun row -> row.Algorithm = name) with
              | Some row -> float g * width + float i, row
              | None -> () ]

    for i, name in List.indexed names do
        let bars =
            [| for x, row in rowsOf i name -> Bar(Position = x, Value = value row, FillColor = colours[name]) |]

        plot.Add.Bars(bars).LegendText <- name

    for i, name in List.indexed names do
        for x, row in rowsOf i name do
            match mark row with
            | Some y ->
                let line = plot.Add.Line(x - 0.45, y, x + 0.45, y)
                line.LineWidth <- 2f
                line.Color <- Colors.Black
            | None -> ()

    let ticks = TickGenerators.NumericManual()

    for g, (label, _) in List.indexed labelled do
        ticks.AddMajor(float g * width + (width - 2.0) / 2.0, label)

    plot.Axes.Bottom.TickGenerator <- ticks
    plot.Title title
    plot.Axes.Margins(bottom = 0.0)
    plot.ShowLegend legend |> ignore
    plot

let private picture (path: string) (rows: Row list) =
    Sama.Pictures.Require path
    let encoder = rows |> List.filter (fun r -> r.Model = "encoder")
    let names = List.ofSeq colours.Keys

    let labelled (key: Row -> string) =
        encoder
        |> List.filter (fun r -> r.K = 1 || r.K = 10)
        |> List.groupBy key
        |> List.filter (fun (_, group) -> group |> List.exists (fun r -> r.Algorithm = "neumann(5)"))

    let multi = Multiplot()
    multi.RemovePlot(multi.GetPlot 0)

    multi.AddPlot(
        panel
            "time in plain steps; lines: cost model"
            names.Tail
            (labelled (fun (r: Row) -> $"{r.Batch}, K = {r.K}"))
            (fun r -> r.TimePerPlainStep)
            predicted
            Alignment.UpperRight
    )

    multi.AddPlot(
        panel
            "peak tensor MB, K = 1"
            names
            (labelled (fun (r: Row) -> r.Batch))
            (fun r -> float r.PeakTensorBytes / 1e6)
            (fun _ -> None)
            Alignment.UpperLeft
    )

    multi.Layout <- MultiplotLayouts.Grid(1, 2)
    multi.SavePng(path, 1200, 450) |> ignore

/// Prints the rows of the files as tables; with a path, draws the encoder's.
let run (files: string list) (path: string option) : int =
    if files.IsEmpty then
        raise (ArgumentException "--data FILE is needed, once for each json file of `bench cost`")

    let rows = files |> List.collect Rows.read<Row>
    let grown, others = rows |> List.partition (fun r -> r.Model = "growth")
    table others

    if not grown.IsEmpty then
        printfn ""
        growth grown

    path |> Option.iter (fun path -> picture path others)
    0
