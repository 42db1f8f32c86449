module Sama.DataOptimization.Tests.ReportTests

open System
open System.IO
open System.Xml.Linq
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private row (values: obj list) =
    Array.ofList values :> Collections.Generic.IReadOnlyList<obj>

let private full () =
    let random = Random 1

    let values shift =
        Array.init 200 (fun _ -> shift + normal random)

    let choice =
        Selection.Choose
            [| Candidate.FromCorrect("control & <co>", Array.init 40 (fun row -> row < 20))
               Candidate.FromCorrect("other", Array.init 40 (fun row -> row < 38)) |]

    HtmlReport("A <report> & \"more\"")
        .Section("Data")
        .Paragraph("x < y & z")
        .Table([| "text"; "weight" |], [ row [ "<script>alert(1)</script>"; 0.12345 ]; row [ null; 3 ] ], 1)
        .Section("Charts")
        .Bars("bars", [| "a<"; "b" |], [| 0.5; -0.25 |], [| 0.1; 0.05 |])
        .Histogram(
            "histogram",
            "weight",
            [| { Name = "right"
                 X = values 0.0
                 Y = null }
               { Name = "wrong"
                 X = Array.append (values 2.0) [| nan |]
                 Y = null } |]
        )
        .Lines(
            "lines",
            "epoch",
            "accuracy",
            [| { Name = "one"
                 X = [| 1.0; 2.0; 3.0; 4.0 |]
                 Y = [| 0.5; nan; 0.7; 0.8 |] }
               { Name = "two"
                 X = [| 1.0; 2.0 |]
                 Y = [| 0.4; 0.4 |] } |]
        )
        .Choice(choice)

let private parse (report: HtmlReport) =
    let html = report.ToHtml()
    // the void elements that are not closed
    let xml =
        html
            .Replace("<!doctype html>", "")
            .Replace("<meta charset=\"utf-8\">", "")
            .Replace("content=\"width=device-width,initial-scale=1\">", "content=\"\"/>")

    html, XDocument.Parse xml

let tests =
    testList
        "report"
        [ testCase "one file that is well formed, its text escaped, its numbers finite"
          <| fun _ ->
              let html, document = parse (full ())
              Expect.isFalse (html.Contains "<script") "escaped"
              Expect.isFalse (html.Contains "NaN" || html.Contains "∞") "finite"
              Expect.isFalse (html.Contains "src=\"http" || html.Contains "href=") "needs no other file"

              let named name =
                  document.Descendants()
                  |> Seq.filter (fun e -> e.Name.LocalName = name)
                  |> Array.ofSeq

              let titles = named "title"
              Expect.equal titles[0].Value "A <report> & \"more\"" "title"
              Expect.equal (named "h2" |> Array.map _.Value) [| "Data"; "Charts" |] "sections"
              Expect.equal (named "table").Length 2 "tables"
              Expect.equal (named "svg").Length 3 "charts"
              Expect.stringContains html "1 values that are not finite" "left out"

          testCase "bars are as long as their values, the histogram holds every row"
          <| fun _ ->
              let _, document =
                  parse (HtmlReport("x").Bars("bars", [| "a"; "b" |], [| 1.0; 0.25 |]))

              let bars =
                  document.Descendants()
                  |> Seq.filter (fun e -> e.Name.LocalName = "rect")
                  |> Seq.map (fun e -> float (e.Attribute(XName.Get "width").Value))
                  |> Array.ofSeq

              Expect.isLessThan (abs (bars[1] / bars[0] - 0.25)) 0.01 "ratio"
              let values = [| 0.0; 0.1; 0.1; 1.0 |]

              let _, document =
                  parse (HtmlReport("x").Histogram("h", "v", [| { Name = "a"; X = values; Y = null } |], 4))

              let heights =
                  document.Descendants()
                  |> Seq.filter (fun e -> e.Name.LocalName = "rect")
                  |> Seq.map (fun e -> float (e.Attribute(XName.Get "height").Value))
                  |> Array.ofSeq

              Expect.equal
                  (heights |> Array.map (fun h -> int (round (h / Array.max heights * 3.0))))
                  [| 3; 0; 0; 1 |]
                  "counts"

          testCase "constant and empty series are drawn"
          <| fun _ ->
              let report =
                  HtmlReport("x")
                      .Histogram(
                          "h",
                          "v",
                          [| { Name = "a"
                               X = Array.create 5 2.0
                               Y = null } |]
                      )
                      .Histogram("h", "v", [| { Name = "a"; X = [||]; Y = null } |])
                      .Lines(
                          "l",
                          "x",
                          "y",
                          [| { Name = "a"
                               X = [| 1.0 |]
                               Y = [| 1.0 |] } |]
                      )

              Expect.isFalse ((fst (parse report)).Contains "NaN") "finite"

          testCase "a file appears whole; misuse is named"
          <| fun _ ->
              let path = Path.Combine(Path.GetTempPath(), $"sama-report-{Guid.NewGuid()}.html")

              try
                  (full ()).Write path
                  Expect.equal (File.ReadAllText path) ((full ()).ToHtml()) "whole"
              finally
                  File.Delete path

              refused<ArgumentException> [ "PNG" ] (fun () -> HtmlReport("x").Png("p", Array.zeroCreate 20) |> ignore)

              refused<ArgumentException> [ "row 0" ] (fun () ->
                  HtmlReport("x").Table([| "a" |], [ row [ 1; 2 ] ]) |> ignore) ]
