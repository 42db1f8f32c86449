module NoisyText.Program

open System
open System.IO
open System.Threading
open Argu
open Sama
open Sama.Functional
open Sama.DataOptimization
open NoisyText.Cell

type Arguments =
    | Data of folders: string list
    | Clean of counts: string
    | Seeds of seeds: string
    | Model of folder: string
    | Frozen of layers: int
    | Vectors of file: string
    | Ways of names: string
    | Steps of count: int
    | Tuning_Steps of count: int
    | Batch of rows: int
    | Rate of rate: float
    | Report of file: string
    | Held_Out
    | Device of name: string
    | Quickstart

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ -> "WRENCH folders: train, valid, test and label, .json or .json.gz"
            | Clean _ -> "clean rows a class, a list 5,10,30 (default 30)"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Model _ -> "a Hugging Face folder, BERT or RoBERTa, to fine-tune (default: a small encoder)"
            | Frozen _ -> "layers of it that stay as they are (default: all)"
            | Vectors _ -> "word vectors for the small encoder, in GloVe's text format, plain or .gz"
            | Ways _ -> "the ways to train besides the control, by name, with ; between (default: all)"
            | Steps _ -> "steps of a training on weak labels (default: six times through, 300 to 1000)"
            | Tuning_Steps _ -> "steps of the longest fine-tuning (default 150)"
            | Batch _ -> "rows a step (default 64)"
            | Rate _ -> "rate of Adam (default: the model's)"
            | Report _ -> "a file of one JSON object a run; runs that are in it are not run again"
            | Held_Out -> "accuracy on clean rows that are left over instead of the test rows, for tuning"
            | Device _ -> "cpu (the default) or cuda"
            | Quickstart -> "a generated data set instead of --data"

let private settingsOf (ranks: Communicator) token (parsed: ParseResults<Arguments>) : Settings =
    { Device = Native.device (parsed.GetResult(Device, "cpu"))
      Model = Option.toObj (parsed.TryGetResult Model)
      Frozen = parsed.GetResult(Frozen, -1)
      Vectors = Option.toObj (parsed.TryGetResult Vectors)
      HeldOut = parsed.Contains Held_Out
      Options =
        fun progress seed ->
            CleaningOptions(
                Seed = seed,
                TrainAll = true,
                Steps = Option.toNullable (parsed.TryGetResult Steps),
                TuningSteps = parsed.GetResult(Tuning_Steps, CleaningOptions().TuningSteps),
                Rate = Option.toNullable (parsed.TryGetResult Rate),
                Batch = parsed.GetResult(Batch, CleaningOptions().Batch),
                Ranks = ranks,
                Cancellation = token,
                Ways = (parsed.TryGetResult Ways |> Option.map _.Split(';') |> Option.toObj),
                Progress = progress
            ) }

/// What runs of one report have in common.
let private settingOf (parsed: ParseResults<Arguments>) : string =
    let told =
        [ for argument in parsed.GetAllResults() do
              match argument with
              | Data _
              | Clean _
              | Seeds _
              | Report _
              | Device _
              | Quickstart -> ()
              | Model path
              | Vectors path -> Path.GetFileName(Path.TrimEndingDirectorySeparator path)
              | other -> $"%A{other}" ]

    if told.IsEmpty then
        "defaults"
    else
        String.Join(", ", List.sort told)

let private run (parsed: ParseResults<Arguments>) (token: CancellationToken) : unit =
    let sets =
        match parsed.TryGetResult Data with
        | Some folders -> [ for folder in folders -> DirectoryInfo(folder).Name, lazy DataReader.ReadWrench folder ]
        | None when parsed.Contains Quickstart -> [ "generated", lazy Generator.generate 0 ]
        | None -> raise (ArgumentException "--data FOLDER or --quickstart is needed")

    // a rank alone without a launcher; several share every batch
    use ranks = Ranks.start RankOptions.Default
    let settings = settingsOf ranks token parsed
    use encoders = new Encoders(settings)

    Results.Complete(
        Option.toObj (parsed.TryGetResult Report),
        settingOf parsed,
        [| for name, splits in sets do
               for perClass in Numbers.parse "--clean" (parsed.GetResult(Clean, "30")) do
                   for seed in Numbers.parse "--seeds" (parsed.GetResult(Seeds, "0")) do
                       let make watch =
                           let splits = splits.Force()
                           let encoder = encoders.Of(name, splits)
                           Cell.run settings encoder name splits perClass seed (Results.Watched watch)

                       struct ($"{name}, {perClass} clean rows a class, seed {seed}", Func<_, _> make) |],
        (fun cells -> Table.print (List.ofSeq cells)),
        ranks.Rank
    )

[<EntryPoint>]
let main args =
    Ending.run "NoisyText" "with --report the same command goes on from here" (fun token ->
        let parsed = ArgumentParser.Create<Arguments>(programName = "NoisyText").Parse args
        Native.initialize ()
        run parsed token
        0)
