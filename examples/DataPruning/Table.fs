/// Cells as tables.
module DataPruning.Table

open Sama
open DataPruning.Cell

let private spread (values: float list) : string =
    if values.IsEmpty then
        ""
    else
        Shown.Spread("F3", Array.ofList values)

/// Relative search time of Choe et al., 2023 (CIFAR-10, ResNet-18).
let private published =
    Map
        [ "el2n-1", "0.16"
          "el2n-10", "1.65"
          "grand-10", "1.65"
          "dynams", "0.16"
          "sama", "0.46" ]

/// A line a method, a column a share; costs are means over seeds.
let private one (cells: Cell list) : unit =
    let first = cells.Head
    let outcomes = cells |> List.collect (fun cell -> List.ofArray cell.Outcomes)
    let shares = outcomes |> List.map _.Share |> List.distinct

    printfn
        $"\n{first.Table}, {first.Data}: {first.Rows} rows, {cells.Length} seeds; full training {spread (cells |> List.map _.FullAccuracy)}, {spread (cells |> List.map _.FullSeconds)} s"

    Shown.Table(
        [ "method"
          if first.Table = "flipped" then
              "flipped among the pruned 20 %"
          else
              for share in shares do
                  $"{100.0 * share:F0} %% kept"
          "search"
          "published"
          "total" ],
        [ for name, own in outcomes |> List.groupBy _.Method do
              let at share =
                  own |> List.filter (fun outcome -> outcome.Share = share)

              [ name
                for share in shares do
                    at share |> List.map _.Value |> spread
                $"{own |> List.averageBy _.Search:F2}"
                published |> Map.tryFind name |> Option.defaultValue ""
                if first.Table = "methods" then
                    String.concat ", " [ for share in shares -> $"{at share |> List.averageBy _.Total:F2}" ]
                else
                    "" ] ]
    )

/// A table a kind and a data set.
let print (cells: Cell list) : unit =
    for _, cells in cells |> List.groupBy (fun cell -> cell.Table, cell.Data) do
        one cells
