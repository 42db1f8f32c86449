/// `bench matrix [--data FILE]`: every method under every rule in every way of giving them, against its definition.
module Sama.Benchmarks.Matrix.Bench

open System.Diagnostics

/// Prints the table, or puts it between the markers of a file; 1 if a cell is neither right nor refused.
let run (path: string option) : int =
    let watch = Stopwatch.StartNew()

    let cells =
        [ for rule in Rules.all do
              for way in Subject.ways do
                  yield! Table.row rule way ]

    match path with
    | Some path -> Table.write path cells
    | None -> Table.markdown cells |> List.iter (printfn "%s")

    let wrong = Table.wrong cells
    wrong |> List.iter (eprintfn "%s")

    eprintfn
        $"{cells.Length} cells, {Table.right cells} right, {Table.refused cells} refused, {wrong.Length} else, {watch.Elapsed.TotalSeconds:F0} s"

    if wrong.IsEmpty then 0 else 1
