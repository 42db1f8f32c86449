/// The descent of λ itself: curves on P2, success on P5.
module Sama.Benchmarks.Descent.Bench

open ScottPlot
open Sama.Benchmarks.Exactness

type Rows =
    { Quadratic: Curves.Row list
      Toy: Toy.Row list }

/// The curves of P2 as a PNG.
let private picture (rows: Curves.Row list) (path: string) =
    Sama.Pictures.Require path
    let plot = new Plot()

    let shapes =
        [| MarkerShape.FilledCircle; MarkerShape.OpenSquare; MarkerShape.Cross |]

    let evaluations = [| for budget in Curves.budgets -> log10 (float budget) |]

    for number, row in List.indexed rows do
        // rounding has no scale
        let squares = [| for square in row.Squares -> log10 (max square 1e-30) |]
        let line = plot.Add.Scatter(evaluations, squares)
        line.LegendText <- row.Method
        // as many colours as the palette has, then with another mark
        line.MarkerShape <- shapes[number / plot.Add.Palette.Colors.Length]
        line.MarkerSize <- 8f

    Picture.logarithmic plot "P2" "gradient evaluations" "squared norm of the exact hypergradient"
    plot.ShowLegend Edge.Right |> ignore
    plot.SavePng(path, 1000, 600) |> ignore

let run (write: Rows list -> unit) (path: string option) : int =
    let rows =
        { Quadratic = Curves.measure ()
          Toy = Toy.measure () }

    write [ rows ]
    path |> Option.iter (picture rows.Quadratic)
    let heads = Curves.budgets |> List.map (sprintf "%d") |> String.concat " | "
    printfn $"| method | K | rate | {heads} |"
    printfn "|---|---|---|%s" (Curves.budgets |> List.map (fun _ -> "---|") |> String.concat "")

    for r in rows.Quadratic do
        let squares = r.Squares |> List.map _.ToString("E1") |> String.concat " | "
        printfn $"| {r.Method} | {r.Unroll} | {r.Rate} | {squares} |"

    printfn "\n| method | success of 1,000 | median \\|x + y\\| | median projected gradient |"
    printfn "|---|---|---|---|"

    for r in rows.Toy do
        printfn $"| {r.Method} | {r.Success} | {r.Gap:E1} | {r.Gradient:E1} |"

    0
