/// Cells as tables.
module DataPruning.Table

open System
open System.IO
open Spectre.Console
open Sama.DataOptimization
open DataPruning.Cell

let private spread (values: float list) : string =
    match values with
    | [] -> ""
    | [ one ] -> $"{one:F3}"
    | many ->
        let over = Uncertainty.OverSeeds(Array.ofList many)
        $"{over.Mean:F3} ± {over.StandardDeviation:F3}"

let private mean (values: float list) : string = $"{List.average values:F2}"

/// Relative search time of Choe et al., 2023 (CIFAR-10, ResNet-18).
let private published =
    Map
        [ "el2n-1", "0.16"
          "el2n-10", "1.65"
          "grand-10", "1.65"
          "dynams", "0.16"
          "sama", "0.46" ]

/// A table of a data set: a line a method, a column a share.
let private one (cells: Cell list) : unit =
    let first = cells.Head
    let outcomes = cells |> List.collect (fun cell -> List.ofArray cell.Outcomes)
    let shares = outcomes |> List.map _.Share |> List.distinct
    let costs = first.Table = "methods"
    let table = Table()

    table.Title <-
        TableTitle
            $"{first.Table}, {first.Data}: {first.Rows} rows, {cells.Length} seeds; full training {spread (cells |> List.map _.FullAccuracy)}, {spread (cells |> List.map _.FullSeconds)} s"

    table.AddColumn "method" |> ignore

    for share in shares do
        table.AddColumn(
            if first.Table = "flipped" then
                "flipped among the pruned 20 %"
            else
                $"{100.0 * share:F0} %% kept"
        )
        |> ignore

    table.AddColumn "search" |> ignore

    if costs then
        table.AddColumn "published" |> ignore

        for share in shares do
            table.AddColumn $"cost at {100.0 * share:F0} %%" |> ignore

    for name, own in outcomes |> List.groupBy _.Method do
        let at share part =
            own
            |> List.filter (fun outcome -> outcome.Share = share)
            |> List.map part
            |> spread

        table.AddRow(
            [| name
               for share in shares do
                   at share _.Value
               own |> List.map _.Search |> mean
               if costs then
                   published |> Map.tryFind name |> Option.defaultValue ""

                   for share in shares do
                       own
                       |> List.filter (fun outcome -> outcome.Share = share)
                       |> List.map _.Total
                       |> mean |]
        )
        |> ignore

    AnsiConsole.Write table

/// A table a kind and a data set.
let print (cells: Cell list) : unit =
    for _, cells in cells |> List.groupBy (fun cell -> cell.Table, cell.Data) do
        one cells
