/// Results as a table and as a picture.
module ArchitectureSearch.Results

open System
open System.IO
open MathNet.Numerics.Statistics
open Spectre.Console
open ArchitectureSearch.Search

/// What every network reached alone, in the order of `Space.networks`: the mean over its trainings of one part.
let private truth (rows: Row list) (part: Row -> float) : float[] =
    let means =
        rows
        |> List.groupBy _.Network
        |> List.map (fun (name, own) -> name, List.averageBy part own)
        |> Map.ofList

    Space.networks |> Array.map (fun network -> means[Space.name network])

/// 1 for the best, and 1 more for each that is better.
let private rank (values: float[]) (network: int) : float =
    1.0
    + float (values |> Array.filter (fun v -> v > values[network]) |> Array.length)

let private indexOf (name: string) =
    Space.networks |> Array.findIndex (fun network -> Space.name network = name)

/// Each network's score under a search: the log of the product of its operations' shares.
let private scores (row: Row) : float[] =
    let shares = shares row.Alpha
    [| for network in Space.networks -> network |> Seq.mapi (fun edge op -> log (shares[edge].[op])) |> Seq.sum |]

let private skips (name: string) : float =
    name.Split '|' |> Array.averageBy (fun op -> if op = "skip" then 1.0 else 0.0)

/// Random search: the best by validation rows of so many networks drawn without replacement, 2,000 times.
let private randomly (alone: Row list) (accuracy: float[]) (count: int) : float * float * float =
    let random = Random 0
    // one training each, as a searcher would have
    let valid =
        truth (alone |> List.filter (fun row -> row.Seed = alone.Head.Seed)) _.Valid

    let order = Array.init Space.networks.Length id

    let found =
        [| for _ in 1..2000 ->
               random.Shuffle order
               order[.. count - 1] |> Array.maxBy (fun network -> valid[network]) |]

    found |> Array.averageBy (rank accuracy),
    found |> Array.averageBy (fun network -> accuracy[network]),
    found
    |> Array.averageBy (fun network -> skips (Space.name Space.networks[network]))

let private spread (format: string) (values: float list) : string =
    if values.Length = 1 then
        values.Head.ToString format
    else
        $"{(Statistics.Mean values).ToString format} ± {(Statistics.StandardDeviation values).ToString format}"

/// Lines of the report: the space, how well trainings alone agree, then a row a method.
let table (rows: Row list) : unit =
    let trained, searches = rows |> List.partition (fun row -> row.Method = alone)
    let accuracy = truth trained _.Test
    let cost = trained |> List.averageBy _.Seconds
    let best = Array.findIndex ((=) (Array.max accuracy)) accuracy

    let between values =
        values
        |> Seq.pairwise
        |> Seq.map (fun (a: float[], b) -> Correlation.Spearman(a, b))
        |> List.ofSeq

    printfn
        $"best alone: {Space.name Space.networks[best]} {accuracy[best]:F3}, median {Statistics.Median accuracy:F3}, worst {Array.min accuracy:F3}"

    // a program that was stopped may have trained some of them
    let whole =
        trained
        |> List.groupBy _.Seed
        |> List.filter (fun (_, own) -> own.Length = Space.networks.Length)

    match [ for _, own in whole -> truth own _.Test ] with
    | [ _ ] -> ()
    | seeds ->
        let agreement = spread "F2" (between seeds)
        printfn $"Spearman between one training of every network and the next: {agreement}"

    let table = Table()

    for column in
        [ "search"
          "seeds"
          "rank of 64"
          "test accuracy alone"
          "Spearman"
          "skip edges"
          "trainings" ] do
        table.AddColumn column |> ignore

    let add (cells: string list) =
        table.AddRow(cells |> List.map Markup.Escape |> Array.ofList) |> ignore

    for name, own in searches |> List.groupBy _.Method do
        let picked = own |> List.map (fun row -> indexOf row.Network)

        add
            [ name
              string own.Length
              spread "F1" (picked |> List.map (rank accuracy))
              spread "F3" (picked |> List.map (fun network -> accuracy[network]))
              spread "F2" (own |> List.map (fun row -> Correlation.Spearman(scores row, accuracy)))
              $"{own |> List.averageBy (fun row -> skips row.Network):P0}"
              spread "F1" (own |> List.map (fun row -> row.Seconds / cost)) ]

        let count =
            own
            |> List.averageBy (fun row -> row.Seconds / cost)
            |> round
            |> int
            |> max 1
            |> min 64

        let rank, reached, skip = randomly trained accuracy count

        add
            [ $"  random, {count} trainings"
              ""
              $"{rank:F1}"
              $"{reached:F3}"
              ""
              $"{skip:P0}"
              string count ]

    AnsiConsole.Profile.Width <- max AnsiConsole.Profile.Width 120
    AnsiConsole.Write table

/// The cells that were found, as SVG: a panel for the first search of each method, on each edge its strongest operation and
/// that one's share.
let picture (path: string) (rows: Row list) : unit =
    let searches =
        rows |> List.filter (fun row -> row.Method <> alone) |> List.distinctBy _.Method

    let panel number (row: Row) =
        let ops, shares = row.Network.Split '|', shares row.Alpha

        let label edge (x: int) (y: int) =
            $"""<text x="{x}" y="{y}">{ops[edge]} {Array.max shares[edge]:F2}</text>"""

        let node (x: int) text =
            $"""<circle cx="{x}" cy="90" r="14" fill="#dce6f2" stroke="black"/><text x="{x}" y="95">{text}</text>"""

        String.concat
            "\n"
            [ $"""<g transform="translate({number % 3 * 320},{number / 3 * 170})">"""
              $"""<text x="160" y="16">{Net.WebUtility.HtmlEncode row.Method}, seed {row.Seed}</text>"""
              """<path d="M54 90H146M174 90H266M44 80Q160 0 276 80" fill="none" stroke="black"/>"""
              label 0 100 112
              label 1 160 36
              label 2 220 112
              node 40 "in"
              node 160 "1"
              node 280 "out"
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
