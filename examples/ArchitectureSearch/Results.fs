/// Results as a table and as a picture.
module ArchitectureSearch.Results

open System
open System.IO
open MathNet.Numerics.Statistics
open Sama
open ArchitectureSearch.Search

/// What every network reached alone, in the order of `Space.networks`: the mean over its trainings of one part.
let private truth (rows: Row list) (part: Row -> float) : float[] =
    let means =
        Map [ for name, own in rows |> List.groupBy _.Network -> name, List.averageBy part own ]

    [| for network in Space.networks -> means[Space.name network] |]

/// The softmax of each edge's logits.
let private shares (row: Row) : float[][] =
    [| for logits in Array.chunkBySize Space.operations.Length row.Alpha ->
           let e = logits |> Array.map exp
           e |> Array.map (fun x -> x / Array.sum e) |]

/// Each network's score under a search: the log of the product of its operations' shares.
let private scores (row: Row) : float[] =
    let shares = shares row
    [| for network in Space.networks -> network |> Seq.mapi (fun edge op -> log (shares[edge].[op])) |> Seq.sum |]

let private skips (network: string) : float =
    network.Split '|'
    |> Array.averageBy (fun op -> if op = "skip" then 1.0 else 0.0)

/// A row a method, and one of random search at equal cost. A search is judged by all networks trained alone.
let table (rows: Row list) : unit =
    let trained, searches = rows |> List.partition (fun row -> row.Method = alone)
    let accuracy = truth trained _.Test
    let accuracyOf = Map(Array.zip (Array.map Space.name Space.networks) accuracy)
    let cost = trained |> List.averageBy _.Seconds
    let best = accuracyOf |> Seq.maxBy _.Value

    /// 1 for the best, and 1 more for each that is better.
    let rank network =
        1
        + (accuracy
           |> Array.filter (fun other -> other > accuracyOf[network])
           |> Array.length)
        |> float

    printfn
        $"best alone: {best.Key} {best.Value:F3}, median {Statistics.Median accuracy:F3}, worst {Array.min accuracy:F3}"

    let bySeed =
        [ for _, own in trained |> List.groupBy _.Seed do
              if own.Length = Space.networks.Length then
                  own ]

    match [ for own in bySeed -> truth own _.Test ] |> List.pairwise with
    | [] -> ()
    | pairs ->
        let agreement =
            Shown.Spread("F2", [| for a, b in pairs -> Correlation.Spearman(a, b) |])

        printfn $"Spearman between one training of every network and the next: {agreement}"

    /// The best by validation rows, of one training each as a searcher would have, of so many networks drawn without
    /// replacement, 2,000 times.
    let randomly count =
        let random = Random 0
        let valid = Map [ for row in bySeed.Head -> row.Network, row.Valid ]
        let order = Array.map Space.name Space.networks

        [| for _ in 1..2000 ->
               random.Shuffle order
               order[.. count - 1] |> Array.maxBy (fun network -> valid[network]) |]

    Shown.Table(
        [ "search"
          "seeds"
          "rank of 64"
          "test accuracy alone"
          "Spearman"
          "skip edges"
          "trainings" ],
        [ for name, own in searches |> List.groupBy _.Method do
              let spread (format: string) (part: Row -> float) =
                  Shown.Spread(format, [| for row in own -> part row |])

              let trainings = own |> List.averageBy (fun row -> row.Seconds / cost)

              [ name
                string own.Length
                spread "F1" (fun row -> rank row.Network)
                spread "F3" (fun row -> accuracyOf[row.Network])
                spread "F2" (fun row -> Correlation.Spearman(scores row, accuracy))
                $"{own |> List.averageBy (fun row -> skips row.Network):P0}"
                spread "F1" (fun row -> row.Seconds / cost) ]

              let count = trainings |> round |> int |> max 1 |> min 64
              let found = randomly count

              [ $"  random, {count} trainings"
                ""
                $"{found |> Array.averageBy rank:F1}"
                $"{found |> Array.averageBy (fun network -> accuracyOf[network]):F3}"
                ""
                $"{found |> Array.averageBy skips:P0}"
                string count ] ]
    )

/// The cells that were found, as SVG: a panel for the first search of each method, on each edge its strongest operation and
/// that one's share.
let picture (path: string) (rows: Row list) : unit =
    let searches =
        rows |> List.filter (fun row -> row.Method <> alone) |> List.distinctBy _.Method

    let panel number (row: Row) =
        let label edge (x: int) (y: int) =
            $"""<text x="{x}" y="{y}">{row.Network.Split('|')[edge]} {Array.max (shares row).[edge]:F2}</text>"""

        let node (x: int) text =
            $"""<circle cx="{x}" cy="90" r="14" fill="#dce6f2" stroke="black"/><text x="{x}" y="95">{text}</text>"""

        String.concat
            "\n"
            [ $"""<g transform="translate({number % 3 * 320},{number / 3 * 170})">"""
              $"""<text x="160" y="16">{Net.WebUtility.HtmlEncode row.Method}, seed {row.Seed}</text>"""
              """<path d="M54 90H146M174 90H266M44 80Q160 0 276 80" fill="none" stroke="black"/>"""
              label 0 100 112 + label 1 160 36 + label 2 220 112
              node 40 "in" + node 160 "1" + node 280 "out"
              "</g>" ]

    let height = (searches.Length + 2) / 3 * 170

    File.WriteAllText(
        path,
        String.concat
            "\n"
            [ $"""<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{height}" font-family="sans-serif" font-size="13" text-anchor="middle"><rect width="100%%" height="100%%" fill="white"/>"""
              yield! List.mapi panel searches
              "</svg>" ]
    )
