/// A picture of searches, as SVG: what is reached against what it has cost.
module Curves

open System
open System.IO

/// A way: its name, colour, whether its end is filled, and its points (cost, share), in the order of their cost.
type Curve =
    { Name: string
      Colour: string
      Filled: bool
      Points: (float * float) list }

/// Writes the curves, costs on a logarithmic axis from `least` to `most`. IOException if that cannot be.
let write (path: string) (title: string) (least: float) (most: float) (curves: Curve list) : unit =
    let shares = curves |> List.collect _.Points |> List.map snd
    let low, high = List.min shares * 0.9, List.max shares * 1.1

    let x cost =
        60.0 + 540.0 * Math.Clamp(log (cost / least) / log (most / least), 0.0, 1.0)

    let y (share: float) =
        330.0 - 300.0 * (share - low) / (high - low)

    let text (x: float) (y: float) (what: string) =
        $"""<text x="{x:F1}" y="{y:F1}">{Net.WebUtility.HtmlEncode what}</text>"""

    let mark (curve: Curve) (x: float) (y: float) =
        let fill = if curve.Filled then curve.Colour else "white"
        $"""<circle cx="{x:F1}" cy="{y:F1}" r="5" fill="{fill}" stroke="{curve.Colour}"/>"""

    let lines =
        [ text 60.0 16.0 title
          for number, curve in List.indexed curves do
              let points =
                  String.Join(' ', [ for cost, share in curve.Points -> $"{x cost:F1},{y share:F1}" ])

              let cost, share = List.last curve.Points
              let row = 30.0 + 20.0 * float number
              $"""<polyline points="{points}" fill="none" stroke="{curve.Colour}" stroke-width="2"/>"""
              mark curve (x cost) (y share)
              mark curve 620.0 row
              text 632.0 (row + 4.0) curve.Name
          for share in [ low; (low + high) / 2.0; high ] do
              text 8.0 (y share + 4.0) $"{share:P1}"
          for cost in [ 1; 3; 10; 30; 100; 300 ] do
              if float cost <= most then
                  text (x (float cost)) 350.0 $"{cost}" ]

    let body = String.concat "\n" lines

    File.WriteAllText(
        path,
        $"""<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{max 360 (40 + 20 * curves.Length)}" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="white"/>
{body}
</svg>"""
    )
