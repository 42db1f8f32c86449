namespace Sama.DataOptimization

open System
open System.Globalization
open System.Net
open System.Text

/// Charts as SVG, 640 wide, drawn by rectangles, lines and text alone.
module internal Svg =

    let width, height = 640.0, 300.0
    let left, right, top, bottom = 64.0, 16.0, 16.0, 46.0

    /// Told apart by people who see colours differently (Okabe and Ito, 2008).
    let colours =
        [| "#0072B2"
           "#D55E00"
           "#009E73"
           "#CC79A7"
           "#E69F00"
           "#56B4E9"
           "#7f7f7f"
           "#000000" |]

    let colour index = colours[index % colours.Length]
    let escape (text: string) = WebUtility.HtmlEncode text

    /// Coordinates to a tenth.
    let at (value: float) =
        value.ToString("0.#", CultureInfo.InvariantCulture)

    /// Four significant digits.
    let number (value: float) =
        value.ToString("G4", CultureInfo.InvariantCulture)

    /// Round numbers at about five places from low to high (steps of 1, 2 or 5 times a power of ten).
    let ticks low high : float list =
        let rough = (high - low) / 5.0
        let power = Math.Pow(10.0, floor (log10 rough))

        let step =
            [ 1.0; 2.0; 5.0; 10.0 ]
            |> List.map ((*) power)
            |> List.find (fun s -> s >= rough * 0.999)

        [ for i in ceil (low / step - 1e-9) .. floor (high / step + 1e-9) -> i * step ]

    /// A range that is not empty, with a little air.
    let range (values: float seq) : float * float =
        let values = values |> Seq.filter Double.IsFinite |> Array.ofSeq

        if values.Length = 0 then
            0.0, 1.0
        else
            let low, high = Array.min values, Array.max values

            if high > low then
                low, high
            else
                low - max 0.5 (abs low * 0.1), high + max 0.5 (abs high * 0.1)

    let text x y anchor size content =
        $"""<text x="{at x}" y="{at y}" text-anchor="{anchor}" font-size="{size}">{escape content}</text>"""

    let line x1 y1 x2 y2 stroke =
        $"""<line x1="{at x1}" y1="{at y1}" x2="{at x2}" y2="{at y2}" stroke="{stroke}"/>"""

    let rectangle x y w h fill opacity =
        $"""<rect x="{at x}" y="{at y}" width="{at (max 0.0 w)}" height="{at (max 0.0 h)}" fill="{fill}" fill-opacity="{at opacity}"/>"""

    /// From values to places in the frame.
    type Axes =
        { X: float -> float
          Y: float -> float
          Frame: string }

    let axes (xs: float * float) (ys: float * float) (xTicks: (float * string) list) xLabel yLabel : Axes =
        let scale (low, high) first last value =
            first + (value - low) / (high - low) * (last - first)

        let x = scale xs left (width - right)
        let y = scale ys (height - bottom) top
        let built = StringBuilder()
        let add (part: string) = built.Append part |> ignore

        for tick in ticks (fst ys) (snd ys) do
            add (line left (y tick) (width - right) (y tick) "#ddd")
            add (text (left - 6.0) (y tick + 4.0) "end" 11 (number tick))

        for place, label in xTicks do
            add (line (x place) (height - bottom) (x place) (height - bottom + 4.0) "#555")
            add (text (x place) (height - bottom + 17.0) "middle" 11 label)

        add (line left (height - bottom) (width - right) (height - bottom) "#555")
        add (text ((left + width - right) / 2.0) (height - 8.0) "middle" 12 xLabel)

        let middle = (top + height - bottom) / 2.0

        add $"""<g transform="translate(14,{at middle}) rotate(-90)">{text 0.0 0.0 "middle" 12 yLabel}</g>"""

        { X = x
          Y = y
          Frame = built.ToString() }

    /// The names of series with their colours, in a row above the frame of the chart.
    let legend (names: string[]) : string =
        if names.Length < 2 then
            ""
        else
            let entries =
                names
                |> Array.mapi (fun index name ->
                    $"""<span class="key"><i style="background:{colour index}"></i>{escape name}</span>""")

            $"""<div class="legend">{String.Concat entries}</div>"""

    /// What a screen reader says of it is its title.
    let whole (title: string) (height: float) (parts: string seq) : string =
        $"""<svg viewBox="0 0 {at width} {at height}" role="img" aria-label="{escape title}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">{String.Concat parts}</svg>"""

    /// Horizontal bars with values, and whiskers where intervals are given.
    let bars title (names: string[]) (values: float[]) (errors: float[]) : string =
        let step = 26.0
        let labels = 190.0
        let ends = Array.mapi (fun i v -> if isNull errors then v else v + errors[i]) values

        let starts =
            Array.mapi (fun i v -> if isNull errors then v else v - errors[i]) values

        let low, high = range (Seq.append [ 0.0 ] (Seq.append starts ends))

        let x value =
            labels + (value - low) / (high - low) * (width - labels - 70.0)

        let bar index =
            let y = 8.0 + step * float index
            let value = values[index]

            String.concat
                ""
                [ text (labels - 8.0) (y + 14.0) "end" 12 names[index]
                  rectangle (min (x 0.0) (x value)) y (abs (x value - x 0.0)) (step - 8.0) (colour 0) 0.85
                  if not (isNull errors) then
                      line (x starts[index]) (y + 9.0) (x ends[index]) (y + 9.0) "#222"
                  text (max (x value) (x ends[index]) + 6.0) (y + 14.0) "start" 12 (number value) ]

        whole
            title
            (step * float values.Length + 16.0)
            [ yield! Seq.init values.Length bar
              line (x 0.0) 4.0 (x 0.0) (step * float values.Length + 8.0) "#555" ]

    /// Counts of each series' finite values in bins of equal width, one series behind the other.
    let histogram title xLabel (names: string[]) (series: float[][]) bins : string =
        let finite = series |> Array.map (Array.filter Double.IsFinite)
        let low, high = range (Seq.concat finite)
        let wide = (high - low) / float bins

        let counts =
            finite
            |> Array.map (fun values ->
                let counts = Array.zeroCreate<float> bins

                for value in values do
                    let bin = max 0 (min (bins - 1) (int ((value - low) / wide)))
                    counts[bin] <- counts[bin] + 1.0

                counts)

        let most = counts |> Seq.concat |> Seq.fold max 1.0
        let xTicks = ticks low high |> List.map (fun tick -> tick, number tick)
        let axes = axes (low, high) (0.0, most) xTicks xLabel "rows"

        let drawn index =
            counts[index]
            |> Array.mapi (fun bin count ->
                let x = axes.X(low + float bin * wide)
                let y = axes.Y count
                rectangle x y (axes.X(low + wide) - axes.X low - 0.5) (axes.Y 0.0 - y) (colour index) 0.55)
            |> String.Concat

        legend names
        + whole title height [ axes.Frame; yield! Seq.init series.Length drawn ]

    /// One line a series of points (x, y); points that are not finite break it.
    let lines title xLabel yLabel (names: string[]) (xs: float[][]) (ys: float[][]) : string =
        let xRange = range (Seq.concat xs)

        let xTicks =
            ticks (fst xRange) (snd xRange) |> List.map (fun tick -> tick, number tick)

        let axes = axes xRange (range (Seq.concat ys)) xTicks xLabel yLabel

        let drawn index =
            let path = StringBuilder()
            let mutable pen = "M"

            Array.iter2
                (fun x y ->
                    if Double.IsFinite x && Double.IsFinite y then
                        path.Append $"{pen}{at (axes.X x)} {at (axes.Y y)} " |> ignore
                        pen <- "L"
                    else
                        pen <- "M")
                xs[index]
                ys[index]

            let dots =
                Array.map2
                    (fun x y ->
                        if Double.IsFinite x && Double.IsFinite y then
                            $"""<circle cx="{at (axes.X x)}" cy="{at (axes.Y y)}" r="2.5" fill="{colour index}"/>"""
                        else
                            "")
                    xs[index]
                    ys[index]

            $"""<path d="{path}" fill="none" stroke="{colour index}" stroke-width="2"/>{String.Concat dots}"""

        legend names
        + whole title height [ axes.Frame; yield! Seq.init ys.Length drawn ]
