/// One picture of one seed: held-out accuracy by epoch, and the weights of right and wrong weak labels.
module NoisyText.Picture

open System
open System.IO
open ScottPlot
open NoisyText.Training

/// The native library brings no font and does not look for the system's.
let private useFont () =
    let folders =
        [ "/usr/share/fonts"; "/usr/local/share/fonts" ] |> List.filter Directory.Exists

    let found =
        folders
        |> Seq.collect (fun folder -> Directory.EnumerateFiles(folder, "*.ttf", SearchOption.AllDirectories))
        |> Seq.filter (fun file -> Path.GetFileName file = "DejaVuSans.ttf" || file.EndsWith "Sans-Regular.ttf")
        |> Seq.tryHead

    match found with
    | Some file ->
        for bold in [ false; true ] do
            Fonts.AddFontFile("picture", file, bold)

        Fonts.Default <- "picture"
    | None when OperatingSystem.IsLinux() ->
        eprintfn
            "NoisyText: no sans-serif font in /usr/share/fonts, the picture has no text (install fonts-dejavu-core)"
    | None -> ()

let private curves (trained: (string * Trained) list) =
    let plot = new Plot()
    plot.Title "Held-out accuracy"
    plot.XLabel "epoch"

    for name, t in trained do
        let line =
            plot.Add.Scatter([| for i in 1 .. t.Curve.Length -> float i |], [| for epoch in t.Curve -> epoch.HeldOut |])

        line.LegendText <- name
        line.MarkerSize <- 0f
        line.LineWidth <- 2f

    plot.ShowLegend Alignment.LowerRight |> ignore
    plot

let private histogram (name: string) (weights: float[]) (right: bool[]) =
    let bins = 25
    let plot = new Plot()
    plot.Title $"{name}: weights of weak labels"
    plot.XLabel "weight"
    plot.YLabel "labels"

    for wanted, label, colour in [ true, "right", Colors.SeaGreen; false, "wrong", Colors.IndianRed ] do
        let counts = Array.zeroCreate<float> bins

        Array.iter2
            (fun weight right ->
                if right = wanted then
                    let bin = min (bins - 1) (int (weight * float bins))
                    counts[bin] <- counts[bin] + 1.0)
            weights
            right

        let bars =
            plot.Add.Bars([| for i in 0 .. bins - 1 -> (float i + 0.5) / float bins |], counts)

        for bar in bars.Bars do
            bar.Size <- 1.0 / float bins
            bar.FillColor <- colour.WithAlpha 0.5
            bar.LineWidth <- 0f

        bars.LegendText <- label

    plot.ShowLegend Alignment.UpperCenter |> ignore
    plot.Axes.Margins(bottom = 0.0)
    plot

/// A PNG; written beside its place and moved there.
let write (path: string) (trained: (string * Trained) list) (weights: (string * float[]) list) (right: bool[]) : unit =
    useFont ()
    let figure = new Multiplot()
    figure.RemovePlot(figure.GetPlot 0)
    figure.AddPlot(curves trained)

    for name, weights in weights do
        figure.AddPlot(histogram name weights right)

    figure.Layout <- MultiplotLayouts.Columns()
    let temporary = path + ".part"
    figure.SavePng(temporary, 500 * (1 + weights.Length), 400) |> ignore
    File.Move(temporary, path, true)
