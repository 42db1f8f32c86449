namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Globalization
open System.Runtime.InteropServices
open System.Text

/// A named series of a chart.
[<NoComparison>]
type Series =
    {
        /// its name in the legend
        Name: string
        /// places along the horizontal axis; of a histogram, its values
        X: float[]
        /// values at these places; of a histogram, nothing (null)
        Y: float[]
    }

/// A report in one HTML file that needs no other: style, tables and charts (SVG) are inside. All text is escaped. Parts
/// appear in the order they are added; every method returns the report. ArgumentException for lengths that differ.
[<Sealed>]
type HtmlReport(title: string) =
    do Check.notNull (nameof title) title
    let body = StringBuilder()
    let mutable sections = 0

    let style =
        "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        + "h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid #ccc}"
        + "table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
        + "th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
        + "td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr.mark{background:#fff3c4;font-weight:600}"
        + "figure{margin:1rem 0;max-width:44rem}figcaption{font-weight:600;margin-bottom:.3rem}svg,img{max-width:100%;height:auto}"
        + ".legend{font-size:.85rem}.key{margin-right:1rem}.key i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}"

    let add (part: string) =
        body.Append(part).Append('\n') |> ignore

    let figure caption content =
        add $"<figure><figcaption>{Svg.escape caption}</figcaption>{content}</figure>"

    let cell (value: obj) =
        match value with
        | null -> "<td></td>"
        | :? int
        | :? int64 -> $"""<td class="n">{Svg.escape (Convert.ToString(value, CultureInfo.InvariantCulture))}</td>"""
        | :? float as number -> $"""<td class="n">{Svg.escape (Svg.number number)}</td>"""
        | :? float32 as number -> $"""<td class="n">{Svg.escape (Svg.number (float number))}</td>"""
        | other -> $"<td>{Svg.escape (Convert.ToString(other, CultureInfo.InvariantCulture))}</td>"

    /// A heading; what is added next stands under it.
    member this.Section(heading: string) : HtmlReport =
        Check.notNull (nameof heading) heading
        sections <- sections + 1
        add $"""<h2 id="s{sections}">{Svg.escape heading}</h2>"""
        this

    /// A paragraph.
    member this.Paragraph(text: string) : HtmlReport =
        Check.notNull (nameof text) text
        add $"<p>{Svg.escape text}</p>"
        this

    /// A table; numbers stand right with four digits, null is empty. `marked` is a row to stand out, -1 none.
    member this.Table
        (
            columns: IReadOnlyList<string>,
            rows: IEnumerable<IReadOnlyList<obj>>,
            [<Optional; DefaultParameterValue(-1)>] marked: int
        ) : HtmlReport =
        Check.nonEmpty (nameof columns) columns
        Check.notNull (nameof rows) rows

        let head =
            columns
            |> Seq.map (fun column -> $"<th>{Svg.escape column}</th>")
            |> String.Concat

        let lines =
            rows
            |> Seq.mapi (fun number row ->
                Check.that (nameof rows) (not (isNull row) && row.Count = columns.Count) (fun () ->
                    $"row {number} has not {columns.Count} values")

                let mark = if number = marked then " class=\"mark\"" else ""
                $"<tr{mark}>{row |> Seq.map cell |> String.Concat}</tr>")
            |> Array.ofSeq

        add $"<table><thead><tr>{head}</tr></thead><tbody>{String.Concat lines}</tbody></table>"
        this

    /// A bar a name, with its value; `errors` draw whiskers of value ± error.
    member this.Bars
        (
            caption: string,
            names: IReadOnlyList<string>,
            values: IReadOnlyList<float>,
            [<Optional; DefaultParameterValue(null: IReadOnlyList<float>)>] errors: IReadOnlyList<float>
        ) : HtmlReport =
        Check.nonEmpty (nameof names) names
        Check.length (nameof values) names.Count values

        if not (isNull errors) then
            Check.length (nameof errors) names.Count errors

        let errors = if isNull errors then null else Array.ofSeq errors
        Check.finite (nameof values) (Array.ofSeq values)

        if not (isNull errors) then
            Check.finite "errors" errors

        figure caption (Svg.bars caption (Array.ofSeq names) (Array.ofSeq values) errors)
        this

    /// Histograms of the series' `X` over one another; values that are not finite are left out, and counted in the
    /// caption.
    member this.Histogram
        (
            caption: string,
            xLabel: string,
            series: IReadOnlyList<Series>,
            [<Optional; DefaultParameterValue(30)>] bins: int
        ) : HtmlReport =
        Check.nonEmpty (nameof series) series
        Check.that (nameof bins) (bins > 0) (fun () -> $"{bins} bins")

        for s in series do
            Check.notNull (nameof series) s
            Check.notNull "series.X" s.X

        let values = series |> Seq.map _.X |> Array.ofSeq
        let names = series |> Seq.map _.Name |> Array.ofSeq

        let left =
            values |> Array.sumBy (Array.filter (Double.IsFinite >> not) >> Array.length)

        let shown =
            if left = 0 then
                caption
            else
                $"{caption} ({left} values that are not finite are left out)"

        figure shown (Svg.histogram caption xLabel names values bins)
        this

    /// A line a series through its points; values that are not finite leave a gap.
    member this.Lines(caption: string, xLabel: string, yLabel: string, series: IReadOnlyList<Series>) : HtmlReport =
        Check.nonEmpty (nameof series) series

        for s in series do
            Check.notNull (nameof series) s
            Check.notNull "series.X" s.X
            Check.length $"series.Y of {s.Name}" s.X.Length s.Y

        let part f = series |> Seq.map f |> Array.ofSeq
        figure caption (Svg.lines caption xLabel yLabel (part _.Name) (part _.X) (part _.Y))
        this

    /// A picture in PNG format, kept inside the file. ArgumentException for bytes that are no PNG.
    member this.Png(caption: string, png: byte[]) : HtmlReport =
        Check.notNull (nameof png) png
        let signature = [| 0x89uy; 0x50uy; 0x4Euy; 0x47uy |]

        Check.that (nameof png) (png.Length > 8 && png[..3] = signature) (fun () -> "these bytes are no PNG")

        figure caption $"""<img alt="{Svg.escape caption}" src="data:image/png;base64,{Convert.ToBase64String png}">"""

        this

    /// The table of a choice: held-out scores, paired differences, errors and reasons, the chosen one marked.
    member this.Choice(choice: Choice) : HtmlReport =
        Check.notNull (nameof choice) choice

        let percent (value: float) =
            box ((100.0 * value).ToString("F1", CultureInfo.InvariantCulture) + " %")

        let short (value: float) = box (Math.Round(value, 3))

        let rows =
            choice.Table
            |> Array.map (fun line ->
                [| box line.Name
                   percent line.Accuracy
                   (if line.LogLoss.HasValue then
                        short line.LogLoss.Value
                    else
                        null)
                   short line.Gain
                   short line.GainError
                   short line.ExpectedGain
                   short line.Behind
                   short line.BehindError
                   box line.Reason |]
                :> IReadOnlyList<obj>)

        this.Table(
            [| "candidate"
               "accuracy"
               "log-loss"
               "gain over first"
               "± error"
               "expected gain"
               "behind best"
               "± error"
               "why" |],
            rows,
            choice.Index
        )

    /// The whole file.
    member _.ToHtml() : string =
        $"<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{Svg.escape title}</title><style>{style}</style></head>\n<body><h1>{Svg.escape title}</h1>\n{body}</body></html>\n"

    /// Writes it; a file appears whole or not at all. IOException.
    member this.Write(path: string) : unit =
        Check.notNull (nameof path) path
        TextFile.write path (fun writer -> writer.Write(this.ToHtml()))
