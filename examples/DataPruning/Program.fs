module DataPruning.Program

open System
open System.IO
open Argu
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.DataPruning
open DataPruning.Cell

type Arguments =
    | Data of sets: string list
    | Tables of names: string
    | Seeds of seeds: string
    | Rows of count: int
    | Shares of percents: string
    | Methods of names: string
    | Epochs of count: int
    | Report of file: string
    | Held_Out
    | Device of name: string
    | Quick

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ -> "folders of images with names, NAME=FOLDER (default: generated images)"
            | Tables _ -> "of methods, transfer, flipped, with commas between (default: all)"
            | Seeds _ -> "a list 0,2 or a range 0-2 (default 0)"
            | Rows _ -> "images of a set, the first ones; half of them judges (default 10000)"
            | Shares _ -> "percents kept (default 90,70,50,30)"
            | Methods _ -> "of the first table, with commas between (default: all)"
            | Epochs _ -> "epochs of a full training (default 20)"
            | Report _ -> "a file of one JSON object a cell; what is in it is not run again, beside it FILE.state"
            | Held_Out -> "judge by a fifth of the training half, for tuning"
            | Device _ -> "cpu (the default) or cuda"
            | Quick -> "600 images and 4 epochs"

let private imagesOf (rows: int) (text: string) : string * ImageSet =
    match text.Split('=', 2) with
    | [| name; folder |] when name <> "" ->
        let all = (ImageReader.Read folder).Train
        name, all.At [| 0 .. min rows all.Count - 1 |]
    | _ -> raise (ArgumentException $"--data {text}: NAME=FOLDER is expected")

/// Names of a list, each of those that are known.
let private among (option: string) (known: string list) (text: string) : string list =
    let names = List.ofArray (Entries.parse text)

    for name in names |> List.except known do
        let all = String.Join(", ", known)
        raise (ArgumentException $"{option} {name}: there are {all}")

    names

let private run (parsed: ParseResults<Arguments>) token (ranks: Communicator) progress : Cell list =
    let quick, heldOut = parsed.Contains Quick, parsed.Contains Held_Out
    let report = parsed.TryGetResult Report

    let settings =
        { Device = torch.device (parsed.GetResult(Device, "cpu"))
          Shares =
            [ for percent in Numbers.parse "--shares" (parsed.GetResult(Shares, "90,70,50,30")) -> float percent / 100.0 ]
          Methods = parsed.GetResult(Methods, String.Join(',', all)) |> among "--methods" all
          Options =
            fun title seed ->
                PruningOptions(
                    Seed = seed,
                    Epochs = parsed.GetResult(Epochs, (if quick then 4 else 20)),
                    Identity = $"held out {heldOut}, rows {parsed.TryGetResult Rows}",
                    Stages = 70,
                    StateFolder =
                        (match report with
                         | Some path -> Path.Combine(path + ".state", title.Replace(' ', '-'))
                         | None -> null),
                    Ranks = ranks,
                    Cancellation = token,
                    Progress = progress
                ) }

    let rows = parsed.GetResult(Rows, (if quick then 600 else 10000))

    let tasks =
        match parsed.TryGetResult Data with
        | Some sets -> sets |> List.map (imagesOf rows)
        | None -> [ for seed in 0..1 -> $"generated{seed}", Generator.images (min rows 2000) seed ]
        |> List.map ((<||) (taskOf heldOut))

    let kinds =
        [ "methods", methods settings
          "transfer", (fun task -> transfer settings (tasks |> List.filter (fun from -> from.Name <> task.Name)) task)
          "flipped", flipped settings ]

    let names = List.map fst kinds

    let asked =
        parsed.GetResult(Tables, String.Join(',', names)) |> among "--tables" names

    let mutable cells = report |> Option.map Report.read |> Option.defaultValue []

    for seed in Numbers.parse "--seeds" (parsed.GetResult(Seeds, "0")) do
        for name, cell in kinds |> List.filter (fun (name, _) -> List.contains name asked) do
            for task in tasks do
                let isThis (cell: Cell) =
                    (cell.Table, cell.Data, cell.Seed) = (name, task.Name, seed)

                if not (List.exists isThis cells) then
                    cells <- cells @ [ cell task seed ]

                    if ranks.Rank = 0 then
                        report |> Option.iter (fun path -> Report.write path cells)

    cells

[<EntryPoint>]
let main args =
    Ending.run "DataPruning" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "DataPruning").Parse args

        Sama.Functional.Native.initialize ()
        OnRanks.run (run parsed token) Table.print
        0)
