/// Runs as tables.
module NoisyText.Table

open Sama
open Sama.DataOptimization
open NoisyText.Cell

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

    let spread part =
        Shown.Spread("F3", [| for cell in cells -> part cell |])

    printfn
        $"\n{first.Data}: {first.PerClass} clean rows a class ({first.CleanRows}), {100.0 * first.LabelsRight:F1} %% of the labels right, seeds {cells.Length}"

    Shown.Table(
        [ "method"
          "accuracy"
          "gain over the control"
          "held-out"
          "chosen"
          "seconds" ],
        [ for name in [ yield! first.Ways |> Seq.map _.Name; "chosen" ] do
              let gain = gain cells name

              [ name
                spread (fun cell -> Array.average (way name cell).Scores)
                $"{points gain.Mean} ({points gain.Low} to {points gain.High})"
                spread (fun cell -> (way name cell).HeldOut)
                $"{cells |> List.filter (fun cell -> cell.Chosen = name) |> List.length}"
                spread (fun cell -> (way name cell).Seconds) ] ]
    )

    printfn
        $"labels right {spread _.LabelsRight}, after correction {spread _.CorrectedRight}; AUROC of quality {spread _.QualityAuroc}, of weights {spread _.WeightAuroc}; {spread _.Seconds} s, {cells |> List.map _.PeakMegabytes |> List.max} MB"

/// A table a setting; then the mean gain over the control of every way over settings, whose interval is Student's over
/// their means.
let print (cells: CellResult list) : unit =
    let settings =
        cells |> List.groupBy (fun cell -> cell.Data, cell.PerClass) |> List.map snd

    List.iter setting settings

    if settings.Length > 1 then
        let names =
            settings
            |> List.map (fun cells -> cells.Head.Ways |> Seq.map _.Name |> Set.ofSeq)
            |> Set.intersectMany

        printfn $"\nover {settings.Length} settings"

        Shown.Table(
            [ "method"; "gain over the control"; "worst setting" ],
            [ for name in Set.add "chosen" names do
                  let gains = [| for cells in settings -> (gain cells name).Mean |]
                  let over = Uncertainty.OverSeeds gains

                  [ name
                    $"{points over.Mean} ({points over.Low} to {points over.High})"
                    points (Array.min gains) ] ]
        )
