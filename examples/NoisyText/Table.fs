/// Runs as tables.
module NoisyText.Table

open System
open System.IO
open Spectre.Console
open Sama
open Sama.DataOptimization
open NoisyText.Cell

let private spread (values: float list) : string = Shown.Spread("F3", Array.ofList values)

let private points (share: float) =
    (100.0 * share).ToString "+0.0;-0.0;0.0"

let private way (name: string) (cell: CellResult) =
    let name = if name = "chosen" then cell.Chosen else name
    cell.Ways |> Array.find (fun way -> way.Name = name)

/// The gain of a way over the control in points, with its 95 % interval by paired bootstrap over seeds and rows.
let private gain (cells: CellResult list) (name: string) : Interval =
    let of' name =
        [| for cell in cells -> (way name cell).Scores |]

    Uncertainty.PairedBootstrap(of' name, of' (cells.Head.Ways[0].Name))

let private setting (cells: CellResult list) : unit =
    let first = cells.Head
    let table = Table()

    table.Title <-
        TableTitle
            $"{first.Data}: {first.PerClass} clean rows a class ({first.CleanRows}), {100.0 * first.LabelsRight:F1} %% of the labels right, seeds {cells.Length}"

    for column in
        [ "method"
          "accuracy"
          "gain over the control"
          "held-out"
          "chosen"
          "seconds" ] do
        table.AddColumn column |> ignore

    for name in Seq.append (first.Ways |> Seq.map _.Name) [ "chosen" ] do
        let ways = cells |> List.map (way name)
        let gain = gain cells name

        table.AddRow(
            name,
            spread (ways |> List.map (fun way -> Array.average way.Scores)),
            $"{points gain.Mean} ({points gain.Low} to {points gain.High})",
            spread (ways |> List.map _.HeldOut),
            string (cells |> List.filter (fun cell -> cell.Chosen = name) |> List.length),
            spread (ways |> List.map _.Seconds)
        )
        |> ignore

    AnsiConsole.Write table
    let of' part = spread (cells |> List.map part)

    printfn
        $"labels right {of' _.LabelsRight}, after correction {of' _.CorrectedRight}; AUROC of quality {of' _.QualityAuroc}, of weights {of' _.WeightAuroc}; {of' _.Seconds} s, {cells |> List.map _.PeakMegabytes |> List.max} MB"

/// A table a setting; then the mean gain over the control of every way over settings, whose interval is Student's over
/// their means.
let print (cells: CellResult list) : unit =
    let settings = cells |> List.groupBy (fun cell -> cell.Data, cell.PerClass)

    for _, cells in settings do
        setting cells

    if settings.Length > 1 then
        let table = Table()
        table.Title <- TableTitle $"over {settings.Length} settings"

        for column in [ "method"; "gain over the control"; "worst setting" ] do
            table.AddColumn column |> ignore

        let names =
            settings
            |> List.map (fun (_, cells) -> cells.Head.Ways |> Seq.map _.Name |> Set.ofSeq)
            |> Set.intersectMany

        for name in Set.add "chosen" names do
            let gains = [| for _, cells in settings -> (gain cells name).Mean |]
            let over = Uncertainty.OverSeeds gains

            table.AddRow(
                name,
                $"{points over.Mean} ({points over.Low} to {points over.High})",
                points (Array.min gains)
            )
            |> ignore

        AnsiConsole.Write table
