/// Error against work, one panel a problem.
module Sama.Benchmarks.Exactness.Picture

open System
open System.IO
open ScottPlot
open Sama.Benchmarks.Exactness.Subject

let private markers =
    [ "neumann", MarkerShape.FilledCircle
      "conjugateGradient", MarkerShape.FilledSquare
      "unrolled", MarkerShape.OpenCircle
      "t1t2", MarkerShape.OpenDiamond
      "sama", MarkerShape.Cross
      "exact", MarkerShape.FilledTriangleUp ]

/// Title and axes of a plot of logarithms to base 10.
let logarithmic (plot: Plot) (title: string) (x: string) (y: string) : unit =
    let powers () =
        let ticks = TickGenerators.NumericAutomatic()
        ticks.LabelFormatter <- fun x -> $"1e{x:F0}"
        ticks.IntegerTicksOnly <- true
        ticks

    plot.Axes.Bottom.TickGenerator <- powers ()
    plot.Axes.Left.TickGenerator <- powers ()
    plot.Title title
    plot.XLabel x
    plot.YLabel y

let private panel (rows: Row list) (problem: string) : Plot =
    let plot = new Plot()

    for algorithm, marker in markers do
        let points =
            rows
            |> List.filter (fun r -> r.Problem = problem && r.Algorithm = algorithm && r.Rule = "sgd")
            |> List.sortBy _.Products

        if not points.IsEmpty then
            let xs = [| for r in points -> log10 (float r.Products) |]
            let ys = [| for r in points -> log10 (max r.RelativeError 1e-16) |]
            let line = plot.Add.Scatter(xs, ys)
            line.LegendText <- algorithm
            line.MarkerSize <- 8f
            line.MarkerShape <- marker
            line.LineWidth <- (if points.Length > 3 then 1.5f else 0f)

    logarithmic plot problem "matrix-vector products" "relative error of h"
    plot.Axes.SetLimitsY(-16.5, 3.0)
    plot.ShowLegend Alignment.LowerLeft |> ignore
    plot

/// Writes P1 to P4 side by side as a PNG.
let write (path: string) (rows: Row list) : unit =
    Sama.Pictures.Require path
    let multi = Multiplot()
    let problems = [ "P1"; "P2"; "P3"; "P4" ]
    multi.RemovePlot(multi.GetPlot 0)

    for problem in problems do
        multi.AddPlot(panel rows problem)

    multi.Layout <- MultiplotLayouts.Grid(2, 2)
    multi.SavePng(path, 1200, 900) |> ignore
