module NoisyText.Program

open System
open System.IO
open Argu
open TorchSharp
open Sama.Functional
open Sama.DataOptimization
open NoisyText.Cell

type Arguments =
    | Data of folders: string list
    | Clean of counts: string
    | Seeds of seeds: string
    | Vectors of file: string
    | Model of folder: string
    | Frozen of layers: int
    | Batch of rows: int
    | Report of file: string
    | Steps of count: int
    | Rate of rate: float
    | Tuning_Rate of rate: float
    | Tuning_Steps of count: int
    | Meta_Rate of rate: float
    | Strength of precision: float
    | Clean_Share of share: float
    | Unroll of steps: int
    | Terms_From of rows: int
    | Ways of names: string
    | Held_Out
    | Device of name: string
    | Quickstart

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ -> "WRENCH folders: train, valid, test and label, .json or .json.gz"
            | Clean _ -> "clean rows a class, a list 5,10,30 (default 30)"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Vectors _ -> "word vectors to start from, in GloVe's text format, plain or .gz"
            | Model _ -> "a Hugging Face folder, BERT or RoBERTa, to fine-tune (default: a small encoder)"
            | Frozen _ -> "layers of it that stay as they are (default: three quarters)"
            | Batch _ -> "rows a step (default 64)"
            | Report _ -> "a file of one JSON object a run; runs that are in it are not run again"
            | Steps _ -> "steps of a training on weak labels (default: six times through, 300 to 1000)"
            | Rate _ -> "rate of the classifier (default 1e-3)"
            | Tuning_Rate _ -> "its rate in the fine-tuning on clean rows (default 3e-4)"
            | Tuning_Steps _ -> "steps of the fine-tuning (default 300)"
            | Meta_Rate _ -> "rate of the meta learner (default 5e-3)"
            | Strength _ -> "precision of the belief in the label model's start (default 3)"
            | Clean_Share _ -> "share of a base batch that is clean rows, under SAMA (default 0.1)"
            | Unroll _ -> "base steps a meta step (default 2)"
            | Terms_From _ -> "clean rows from which a table of words is learned (default 200)"
            | Ways _ -> "the ways to train besides the control, by name, with ; between (default: all)"
            | Held_Out -> "accuracy on clean rows that are left over instead of the test rows, for tuning"
            | Device _ -> "cpu (the default) or cuda"
            | Quickstart -> "a generated data set instead of --data"

/// Numbers of a list 0,2 or a range 0-4. ArgumentException for anything else.
let numbersOf (option: string) (text: string) : int list =
    let number (part: string) =
        match Int32.TryParse part with
        | true, value when value >= 0 -> value
        | _ -> raise (ArgumentException $"{option} {text}: a list like 0,2 or a range like 0-4 is expected")

    let numbers =
        match text.Split '-' with
        | [| first; last |] -> [ number first .. number last ]
        | _ -> [ for part in text.Split ',' -> number part ]

    if numbers.IsEmpty || List.distinct numbers <> numbers then
        raise (ArgumentException $"{option} {text}: at least one number is expected, and none twice")

    numbers

/// One line that is written over, where somebody looks on.
type private Line(title: string) =
    let live = not Console.IsErrorRedirected

    interface IProgress<CleaningProgress> with
        member _.Report at =
            if live then
                eprintf "\r%-78s" $"{title}: {at.Done + 1}/{at.Stages} {at.Stage} {100 * at.Step / at.Steps} %%"

let private nullable (value: 'a option) = Option.toNullable value

let private optionsOf (parsed: ParseResults<Arguments>) (title: string) (seed: int) : CleaningOptions =
    CleaningOptions(
        Seed = seed,
        TrainAll = true,
        Steps = nullable (parsed.TryGetResult Steps),
        Rate = nullable (parsed.TryGetResult Rate),
        TuningRate = nullable (parsed.TryGetResult Tuning_Rate),
        Batch = parsed.GetResult(Batch, CleaningOptions().Batch),
        TuningSteps = parsed.GetResult(Tuning_Steps, CleaningOptions().TuningSteps),
        MetaRate = parsed.GetResult(Meta_Rate, CleaningOptions().MetaRate),
        Strength = parsed.GetResult(Strength, CleaningOptions().Strength),
        CleanShare = parsed.GetResult(Clean_Share, CleaningOptions().CleanShare),
        Unroll = parsed.GetResult(Unroll, CleaningOptions().Unroll),
        TermsFrom = parsed.GetResult(Terms_From, CleaningOptions().TermsFrom),
        Ways = (parsed.TryGetResult Ways |> Option.map _.Split(';') |> Option.toObj),
        Progress = Line $"{title}, seed {seed}"
    )

let private deviceOf (name: string) : torch.Device =
    match name with
    | "cpu" -> torch.CPU
    | "cuda" when torch.cuda.is_available () -> torch.CUDA
    | "cuda" -> raise (ArgumentException "--device cuda: this libtorch sees no CUDA device")
    | other -> raise (ArgumentException $"--device {other}: cpu or cuda is expected")

let private run (parsed: ParseResults<Arguments>) : unit =
    let sets =
        match parsed.TryGetResult Data with
        | Some folders -> [ for folder in folders -> DirectoryInfo(folder).Name, lazy DataReader.ReadWrench folder ]
        | None when parsed.Contains Quickstart -> [ "generated", lazy Generator.generate 0 ]
        | None -> raise (ArgumentException "--data FOLDER or --quickstart is needed")

    let report = parsed.TryGetResult Report

    report
    |> Option.iter (fun path ->
        let folder = Path.GetDirectoryName(Path.GetFullPath path)

        if not (Directory.Exists folder) then
            raise (DirectoryNotFoundException $"the folder {folder} does not exist"))

    let device = deviceOf (parsed.GetResult(Device, "cpu"))
    let known = report |> Option.map Table.read |> Option.defaultValue []

    let cells =
        [ for name, _ in sets do
              for clean in numbersOf "--clean" (parsed.GetResult(Clean, "30")) do
                  for seed in numbersOf "--seeds" (parsed.GetResult(Seeds, "0")) -> name, clean, seed ]

    let mutable all = known

    for name, clean, seed in cells do
        let same (cell: CellResult) =
            cell.Data = name && cell.PerClass = clean && cell.Seed = seed

        if not (List.exists same all) then
            let settings =
                { Device = device
                  Model = Option.toObj (parsed.TryGetResult Model)
                  Frozen = nullable (parsed.TryGetResult Frozen)
                  Vectors = Option.toObj (parsed.TryGetResult Vectors)
                  Options = optionsOf parsed $"{name}, {clean} a class"
                  HeldOut = parsed.Contains Held_Out }

            let splits = sets |> List.find (fst >> (=) name) |> snd
            let cell = Cell.run settings name (splits.Force()) clean seed
            all <- all @ [ cell ]
            report |> Option.iter (fun path -> Table.write path all)

    if not Console.IsErrorRedirected then
        eprintf "\r%-78s\r" ""

    Table.print (
        all
        |> List.filter (fun cell -> List.contains (cell.Data, cell.PerClass, cell.Seed) cells)
    )

[<EntryPoint>]
let main args =
    try
        let parsed = ArgumentParser.Create<Arguments>(programName = "NoisyText").Parse args
        Native.initialize ()
        run parsed
        0
    with
    | :? ArguParseException as e ->
        eprintfn $"{e.Message}"
        if e.ErrorCode = ErrorCode.HelpText then 0 else 2
    | :? IOException
    | :? ArgumentException
    | :? InvalidOperationException
    | :? UnauthorizedAccessException
    | :? DataException
    | :? InvalidDataException as e ->
        eprintfn $"NoisyText: {e.Message}"
        1
