module NoisyText.Program

open System
open System.IO
open Argu
open TorchSharp
open Sama.Functional
open NoisyText.Dataset
open NoisyText.Training

type Arguments =
    | Data of folder: string
    | Seeds of seeds: string
    | Vectors of file: string
    | Report of file: string
    | Picture of file: string
    | Epochs of count: int
    | Rate of rate: float
    | Tuning_Rate of rate: float
    | Meta_Rate of rate: float
    | Alpha of alpha: float
    | Held_Out
    | Device of name: string
    | Quickstart

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ -> "WRENCH folder: train, valid, test and label, .json or .json.gz"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Vectors _ -> "word vectors to start from, in GloVe's text format, plain or .gz"
            | Report _ -> "json file for the results"
            | Picture _ -> "png file for training curves and weights of the first seed"
            | Epochs _ -> "epochs a method (default 15)"
            | Rate _ -> "rate of the classifier (default 1e-3)"
            | Tuning_Rate _ -> "its rate in the fine-tuning on clean rows (default 3e-4)"
            | Meta_Rate _ -> "rate of the meta learner (default 5e-3)"
            | Alpha _ -> "size of SAMA's perturbation (default 1e-2)"
            | Held_Out -> "accuracy on the held-out rows instead of the test rows, for tuning"
            | Device _ -> "cpu (the default) or cuda"
            | Quickstart -> "a generated data set instead of --data"

/// Seeds of a list 0,2 or a range 0-4. ArgumentException for anything else.
let seedsOf (text: string) : int list =
    let number (part: string) =
        match Int32.TryParse part with
        | true, seed when seed >= 0 -> seed
        | _ -> raise (ArgumentException $"--seeds {text}: a list like 0,2 or a range like 0-4 is expected")

    let seeds =
        match text.Split '-' with
        | [| first; last |] -> [ number first .. number last ]
        | _ -> [ for part in text.Split ',' -> number part ]

    if seeds.IsEmpty || List.distinct seeds <> seeds then
        raise (ArgumentException $"--seeds {text}: at least one seed is expected, and none twice")

    seeds

/// An output's folder must be there before hours are spent on what is written to it.
let private output (path: string option) =
    path
    |> Option.iter (fun path ->
        let folder = Path.GetDirectoryName(Path.GetFullPath path)

        if not (Directory.Exists folder) then
            raise (DirectoryNotFoundException $"the folder {folder} does not exist"))

    path

[<EntryPoint>]
let main args =
    try
        let parser = ArgumentParser.Create<Arguments>(programName = "NoisyText")
        let parsed = parser.Parse args
        Native.initialize ()

        let positive name (rate: float) =
            if not (rate > 0.0 && Double.IsFinite rate) then
                raise (ArgumentException $"--{name} is a positive number, not {rate}")

            rate

        let hyper =
            { Epochs = parsed.GetResult(Epochs, 15)
              Batch = 64
              MetaBatch = 200
              Rate = positive "rate" (parsed.GetResult(Rate, 1e-3))
              TuningRate = positive "tuning-rate" (parsed.GetResult(Tuning_Rate, 3e-4))
              MetaRate = positive "meta-rate" (parsed.GetResult(Meta_Rate, 5e-3))
              Alpha = positive "alpha" (parsed.GetResult(Alpha, 1e-2)) }

        let device =
            match parsed.GetResult(Device, "cpu") with
            | "cpu" -> torch.CPU
            | "cuda" when torch.cuda.is_available () -> torch.CUDA
            | "cuda" -> raise (ArgumentException "--device cuda: this libtorch sees no CUDA device")
            | other -> raise (ArgumentException $"--device {other}: cpu or cuda is expected")

        if hyper.Epochs < 1 then
            raise (ArgumentException $"--epochs is at least 1, not {hyper.Epochs}")

        let options: Experiment.Options =
            { Seeds = seedsOf (parsed.GetResult(Seeds, "0"))
              Hyper = hyper
              Device = device
              Vectors = parsed.TryGetResult Vectors
              Report = output (parsed.TryGetResult Report)
              Picture = output (parsed.TryGetResult Picture)
              HeldOut = parsed.Contains Held_Out }

        let data =
            match parsed.TryGetResult Data with
            | Some folder -> read folder
            | None when parsed.Contains Quickstart -> Generator.generate 0
            | None -> raise (ArgumentException "--data FOLDER or --quickstart is needed")

        Experiment.run data options
        0
    with
    | :? ArguParseException as e ->
        eprintfn $"{e.Message}"
        if e.ErrorCode = ErrorCode.HelpText then 0 else 2
    | :? IOException
    | :? ArgumentException
    | :? InvalidOperationException
    | :? UnauthorizedAccessException
    | :? InvalidDataException as e ->
        eprintfn $"NoisyText: {e.Message}"
        1
