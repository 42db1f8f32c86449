/// Curves of a run, from its lines of JSON.
module Sama.Benchmarks.Telemetry.Curves

open System.IO
open System.Text.Json
open ScottPlot
open Sama.Benchmarks.Exactness

let private numbers (path: string list) (lines: JsonElement list) : (float * float) list =
    let rec at (json: JsonElement) (path: string list) =
        match path with
        | [] when json.ValueKind = JsonValueKind.Number -> Some(json.GetDouble())
        | name :: rest when json.ValueKind = JsonValueKind.Object ->
            match json.TryGetProperty name with
            | true, inner -> at inner rest
            | _ -> None
        | name :: rest when json.ValueKind = JsonValueKind.Array && json.GetArrayLength() > int name ->
            at json[int name] rest
        | _ -> None

    [ for line in lines do
          match at line path with
          | Some value -> line.GetProperty("step").GetDouble(), value
          | None -> () ]

/// The mean of the values around each.
let private smooth (width: int) (points: (float * float) list) =
    let values = points |> List.map snd |> Array.ofList

    points
    |> List.mapi (fun i (step, _) ->
        let from, until = max 0 (i - width), min (values.Length - 1) (i + width)
        step, Array.average values[from..until])

let private panel (title: string) (curves: (string * (float * float) list) list) : Plot =
    let plot = new Plot()

    for name, points in curves do
        if not points.IsEmpty then
            let line =
                plot.Add.ScatterLine(points |> List.map fst |> Array.ofList, points |> List.map snd |> Array.ofList)

            line.LegendText <- name
            line.LineWidth <- 1.5f

    plot.Title title
    plot.XLabel "base step"

    plot.ShowLegend Alignment.UpperRight |> ignore
    plot

/// Draws losses, the hypergradient, the difference and the time by phase of a run as a PNG.
let write (path: string) (jsonLines: string) : unit =
    let lines =
        [ for line in File.ReadLines jsonLines do
              let json = JsonDocument.Parse(line).RootElement

              if json.GetProperty("kind").GetString() = "step" then
                  json ]

    let smoothed name = smooth 10 (numbers name lines)

    let milliseconds phase =
        [ for step, s in smoothed [ "phases"; phase ] -> step, 1000.0 * s ]

    Sama.Pictures.Require path
    let multi = Multiplot()
    multi.RemovePlot(multi.GetPlot 0)

    multi.AddPlot(panel "losses" [ "base", smoothed [ "baseLoss" ]; "meta", smoothed [ "metas"; "0"; "loss" ] ])

    multi.AddPlot(
        panel
            "hypergradient"
            [ "length, log10", [ for step, h in smoothed [ "metas"; "0"; "hypergradientNorm" ] -> step, log10 h ]
              "cosine to the one before", smoothed [ "metas"; "0"; "cosine" ] ]
    )

    multi.AddPlot(
        panel
            "milliseconds of a step"
            [ for phase in [ "base"; "meta"; "perturbed"; "rule"; "data" ] -> phase, milliseconds phase ]
    )

    multi.AddPlot(panel "examples a second" [ "rows of the base level", smoothed [ "examplesPerSecond" ] ])
    multi.Layout <- MultiplotLayouts.Grid(2, 2)
    multi.SavePng(path, 1200, 800) |> ignore
