module ArchitectureSearch.Program

open System
open System.IO
open System.Threading
open Argu
open TorchSharp
open Sama
open Sama.Functional
open ArchitectureSearch.Search

type Arguments =
    | Data of folder: string
    | Seeds of seeds: string
    | Alone of trainings: int
    | Rows of count: int
    | Steps of count: int
    | Report of file: string
    | Picture of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ -> "a folder with MNIST's four gzipped files (default: drawn digits, fewer steps)"
            | Seeds _ -> "seeds of searches, a list 0,2 or a range 0-4 (default 0)"
            | Alone _ -> "trainings of every network alone, whose mean is the truth (default 1)"
            | Rows _ -> "rows, half to train on and half to choose on (default 1000)"
            | Steps _ -> "steps of a training and of a search (default 300, of drawn digits 60)"
            | Report _ -> "a file of one JSON object a training or search; what is in it is not run again"
            | Picture _ -> "an SVG file for the cells that were found"

let private atLeast (least: int) (option: string) (value: int) : int =
    if value < least then
        raise (ArgumentException $"{option} {value}: at least {least} is expected")

    value

let private dataOf (parsed: ParseResults<Arguments>) : Data =
    let rows = parsed.GetResult(Rows, 1000) |> atLeast 100 "--rows"
    let half = int64 (rows / 2)
    let folder = parsed.TryGetResult Data

    let steps =
        parsed.GetResult(Steps, (if folder.IsSome then 300 else 60))
        |> atLeast 1 "--steps"

    let own, test =
        match folder with
        | Some folder -> Digits.read folder "train", Digits.read folder "t10k"
        | None -> Digits.drawn 0 rows, Digits.drawn 1 2000

    if (fst own).shape[0] < 2L * half then
        raise (ArgumentException $"--rows {rows}: there are {(fst own).shape[0]} rows to train and choose on")

    let name =
        folder
        |> Option.map (fun f -> DirectoryInfo(f).Name)
        |> Option.defaultValue "drawn"

    { Name = $"{name}, {rows} rows, {steps} steps"
      Train = Digits.take (seq { 0L .. half - 1L }) own
      Valid = Digits.take (seq { half .. 2L * half - 1L }) own
      Test = Digits.take (seq { 0L .. min 2000L (fst test).shape[0] - 1L }) test
      Steps = steps }

let private run (parsed: ParseResults<Arguments>) (token: CancellationToken) : unit =
    let seeds = parsed.GetResult(Seeds, "0") |> Numbers.parse "--seeds"
    let trainings = parsed.GetResult(Alone, 1) |> atLeast 1 "--alone"
    let report = parsed.TryGetResult Report

    for path in Option.toList report @ Option.toList (parsed.TryGetResult Picture) do
        Sama.Report.requireFolder path

    let data = dataOf parsed
    let mutable rows = report |> Option.map Sama.Report.read |> Option.defaultValue []

    match rows |> List.tryFind (fun row -> row.Data <> data.Name) with
    | Some other ->
        raise (
            ArgumentException $"--report {report.Value} is of '{other.Data}', not of '{data.Name}': name another file"
        )
    | None -> ()

    let asked =
        [ for seed in 0 .. trainings - 1 do
              for network in Space.networks ->
                  (alone, seed, Space.name network), fun token watch -> trainAlone token watch data seed network
          for name, _ in methods do
              for seed in seeds -> (name, seed, ""), fun token watch -> search token watch data seed name ]

    let keyOf (row: Row) =
        row.Method, row.Seed, (if row.Method = alone then row.Network else "")

    let fill () =
        use line = new LiveLine "reading"

        for number, (((name, seed, network) as key), make) in List.indexed asked do
            if not (rows |> List.exists (fun row -> keyOf row = key)) then
                let watch share =
                    line.At((float number + share) / float asked.Length, $"{name} {network} seed {seed}")

                rows <- rows @ [ make token watch ]
                report |> Option.iter (fun path -> Sama.Report.write path rows)

    let show () =
        let keys = asked |> List.map fst |> Set.ofList
        let own = rows |> List.filter (fun row -> keys.Contains(keyOf row))

        let trained =
            own |> List.filter (fun row -> row.Method = alone) |> List.distinctBy _.Network

        // a search is judged by all networks
        if trained.Length = Space.networks.Length then
            Results.table own

            parsed.TryGetResult Picture
            |> Option.iter (fun path -> Results.picture path own)

    try
        fill ()
    finally
        show ()

[<EntryPoint>]
let main args =
    Ending.run "ArchitectureSearch" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "ArchitectureSearch").Parse args

        Native.initialize ()
        run parsed token
        0)
