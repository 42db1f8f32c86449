module DataPruning.Program

open System
open System.IO
open Argu
open TorchSharp
open Sama
open Sama.Functional
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

let private run (parsed: ParseResults<Arguments>) token : unit =
    let quick, heldOut = parsed.Contains Quick, parsed.Contains Held_Out
    let report = Option.toObj (parsed.TryGetResult Report)
    let epochs = parsed.GetResult(Epochs, (if quick then 4 else 20))
    let rows = parsed.GetResult(Rows, (if quick then 600 else 10000))
    let shares = Numbers.parse "--shares" (parsed.GetResult(Shares, "90,70,50,30"))

    let methods =
        parsed.GetResult(Methods, String.Join(',', all)) |> among "--methods" all

    use ranks = Ranks.start RankOptions.Default

    let settings watch =
        { Device = Native.device (parsed.GetResult(Device, "cpu"))
          Shares = [ for percent in shares -> float percent / 100.0 ]
          Methods = methods
          Options =
            fun title seed ->
                PruningOptions(
                    Seed = seed,
                    Epochs = epochs,
                    Identity = $"held out {heldOut}, rows {rows}",
                    Stages = 70,
                    StateFolder =
                        (if isNull report then
                             null
                         else
                             Path.Combine(report + ".state", title.Replace(' ', '-'))),
                    Ranks = ranks,
                    Cancellation = token,
                    Progress = Results.Watched watch
                ) }

    let tasks =
        match parsed.TryGetResult Data with
        | Some sets -> sets |> List.map (imagesOf rows)
        | None -> [ for seed in 0..1 -> $"generated{seed}", Generator.images (min rows 2000) seed ]
        |> List.map ((<||) (taskOf heldOut))

    let others task =
        tasks |> List.filter (fun from -> from.Name <> task.Name)

    let tables =
        [ "methods", Cell.methods
          "transfer", (fun settings task -> transfer settings (others task) task)
          "flipped", flipped ]

    let names = List.map fst tables

    let asked =
        parsed.GetResult(Tables, String.Join(',', names)) |> among "--tables" names

    let held = if heldOut then ", held out" else ""
    let percents = String.Join(", ", shares)

    Results.Complete(
        report,
        $"{rows} rows{held}, {epochs} epochs, {percents} %% kept, methods {String.Join(' ', methods)}",
        [| for seed in Numbers.parse "--seeds" (parsed.GetResult(Seeds, "0")) do
               for name, cell in tables |> List.filter (fun (name, _) -> List.contains name asked) do
                   for task in tasks do
                       let make watch = cell (settings watch) task seed
                       struct ($"{name}, {task.Name}, seed {seed}", Func<_, _> make) |],
        (fun cells -> Table.print (List.ofSeq cells)),
        ranks.Rank
    )

[<EntryPoint>]
let main args =
    Ending.run "DataPruning" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "DataPruning").Parse args

        Native.initialize ()
        run parsed token
        0)
