module ArchitectureSearch.Program

open System
open System.IO
open Argu
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

/// What is asked for and not in the report yet is trained or searched; what there is, shown.
let private run (parsed: ParseResults<Arguments>) token : unit =
    let folder = parsed.TryGetResult Data
    let seeds = parsed.GetResult(Seeds, "0") |> Numbers.parse "--seeds"
    let trainings = parsed.GetResult(Alone, 1) |> Numbers.atLeast 1 "--alone"
    let rows = parsed.GetResult(Rows, 1000) |> Numbers.atLeast 100 "--rows"

    let steps =
        parsed.GetResult(Steps, (if folder.IsSome then 300 else 60))
        |> Numbers.atLeast 1 "--steps"

    Sama.Results.RequireFolder(Option.toObj (parsed.TryGetResult Picture))

    let name, own, test =
        match folder with
        | Some folder -> DirectoryInfo(folder).Name, Digits.read folder "train", Digits.read folder "t10k"
        | None -> "drawn", Digits.drawn 0 rows, Digits.drawn 1 2000

    if (fst own).shape[0] < int64 rows then
        raise (ArgumentException $"--rows {rows}: there are {(fst own).shape[0]} rows to train and choose on")

    let half = int64 (rows / 2)

    let data =
        { Train = own |> Digits.take [ 0L .. half - 1L ]
          Valid = own |> Digits.take [ half .. 2L * half - 1L ]
          Test = test |> Digits.take [ 0L .. min 2000L (fst test).shape[0] - 1L ]
          Steps = steps }

    let show found =
        let found = List.ofSeq found

        let networks =
            found
            |> List.filter (fun row -> row.Method = alone)
            |> List.distinctBy _.Network

        if networks.Length = Space.networks.Length then
            Results.table found

            parsed.TryGetResult Picture
            |> Option.iter (fun path -> Results.picture path found)

    Sama.Results.Complete(
        Option.toObj (parsed.TryGetResult Report),
        $"{name}, {rows} rows, {steps} steps",
        [| for seed in 0 .. trainings - 1 do
               for network in Space.networks do
                   let make watch =
                       trainAlone token watch data seed network

                   struct ($"{Space.name network} alone, seed {seed}", Func<_, _> make)
           for name, _ in methods do
               for seed in seeds do
                   let make watch = search token watch data seed name
                   struct ($"{name}, seed {seed}", Func<_, _> make) |],
        show
    )

[<EntryPoint>]
let main args =
    Ending.run "ArchitectureSearch" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "ArchitectureSearch").Parse args

        Native.initialize ()
        run parsed token
        0)
