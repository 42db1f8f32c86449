module DataPruning.Program

open System
open System.Threading
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
    | Train_Rows of count: int
    | Batch of rows: int
    | Shares of percents: string
    | Methods of names: string
    | Epochs of count: int
    | Search_Share of share: float
    | Model of name: string
    | Other of name: string
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
            | Train_Rows _ -> "of these, so many are trained on at most (default: half)"
            | Batch _ -> "rows a step (default 64)"
            | Shares _ -> "percents kept (default 90,70,50,30)"
            | Methods _ -> "of the first table, with commas between (default: all)"
            | Epochs _ -> "epochs of a full training (default 20)"
            | Search_Share _ -> "share of a full training's steps that early searches take (default 0.15)"
            | Model _ -> "lenet (the default) or resnet: what is searched and trained with"
            | Other _ -> "what scores are carried to (default resnet)"
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

let private watching (line: LiveLine) (title: string) =
    { new IProgress<StageProgress> with
        member _.Report at =
            line.At(float at.Done / float at.Stages |> min 1.0, $"{title}: {at.Stage}") }

let private settingsOf (ranks: Communicator) token (line: LiveLine) (parsed: ParseResults<Arguments>) : Settings =
    let device = torch.device (parsed.GetResult(Device, "cpu"))

    if device.``type`` <> DeviceType.CPU && not (torch.cuda.is_available ()) then
        raise (ArgumentException $"--device {device}: this libtorch sees no CUDA device")

    let methods =
        match parsed.TryGetResult Methods with
        | Some names -> List.ofArray (names.Split ',')
        | None -> Cell.all

    for name in methods do
        if not (List.contains name Cell.all) then
            let known = String.Join(", ", Cell.all)
            raise (ArgumentException $"--methods {name}: there are {known}")

    { Device = device
      Model = parsed.GetResult(Model, "lenet")
      Other = parsed.GetResult(Other, "resnet")
      Shares =
        [| for percent in Numbers.parse "--shares" (parsed.GetResult(Shares, "90,70,50,30")) -> float percent / 100.0 |]
      Methods = methods
      TrainRows = parsed.GetResult(Train_Rows, Int32.MaxValue)
      HeldOut = parsed.Contains Held_Out
      State =
        parsed.TryGetResult Report
        |> Option.map (fun path -> path + ".state")
        |> Option.toObj
      Options =
        fun title seed ->
            PruningOptions(
                Seed = seed,
                Batch = parsed.GetResult(Batch, PruningOptions().Batch),
                Epochs = parsed.GetResult(Epochs, (if parsed.Contains Quick then 4 else 20)),
                SearchShare = parsed.GetResult(Search_Share, PruningOptions().SearchShare),
                Identity = $"held out {parsed.Contains Held_Out}, rows {parsed.TryGetResult Rows}",
                Stages = 70,
                Ranks = ranks,
                Cancellation = token,
                Progress = (if ranks.Rank = 0 then watching line title else null)
            ) }

let private run (parsed: ParseResults<Arguments>) (token: CancellationToken) : unit =
    // a rank alone without a launcher; of several, rank 0 writes and prints
    use ranks = Ranks.start RankOptions.Default
    use line = new LiveLine "reading"
    let settings = settingsOf ranks token line parsed
    let rows = parsed.GetResult(Rows, (if parsed.Contains Quick then 600 else 10000))

    let tasks =
        match parsed.TryGetResult Data with
        | Some sets -> sets |> List.map (imagesOf rows)
        | None -> [ for seed in 0..1 -> $"generated{seed}", Generator.images (min rows 2000) seed ]
        |> List.map (fun (name, images) -> taskOf settings name images)

    let kinds =
        [ "methods", methods settings
          "transfer", (fun task -> transfer settings task (tasks |> List.filter (fun other -> other.Name <> task.Name)))
          "flipped", flipped settings ]

    let asked =
        parsed.GetResult(Tables, "methods,transfer,flipped").Split ',' |> List.ofArray

    for name in asked do
        if not (List.exists (fst >> (=) name) kinds) then
            raise (ArgumentException $"--tables {name}: methods, transfer and flipped are there")

    let report = parsed.TryGetResult Report
    let mutable cells = report |> Option.map Sama.Report.read |> Option.defaultValue []

    for seed in Numbers.parse "--seeds" (parsed.GetResult(Seeds, "0")) do
        for name, cell in kinds |> List.filter (fun (name, _) -> List.contains name asked) do
            for task in tasks do
                let is (cell: Cell) =
                    (cell.Table, cell.Data, cell.Seed) = (name, task.Name, seed)

                if not (List.exists is cells) then
                    cells <- cells @ [ cell task seed ]

                    if ranks.Rank = 0 then
                        report |> Option.iter (fun path -> Sama.Report.write path cells)

    (line :> IDisposable).Dispose()

    if ranks.Rank = 0 then
        Table.print cells

[<EntryPoint>]
let main args =
    Ending.run "DataPruning" "with --report the same command goes on from here" (fun token ->
        let parsed =
            ArgumentParser.Create<Arguments>(programName = "DataPruning").Parse args

        Native.initialize ()
        run parsed token
        0)
