module NoisyText.Program

open System
open System.Diagnostics
open System.IO
open Argu
open TorchSharp
open Sama.Functional
open NoisyText.Dataset
open NoisyText.Model
open NoisyText.Training
open NoisyText.Report

type Arguments =
    | Data of folder: string
    | Seeds of seeds: string
    | Report of file: string
    | Epochs of count: int
    | Quickstart

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Data _ -> "WRENCH folder: train, valid, test and label, .json or .json.gz"
            | Seeds _ -> "a list 0,2 or a range 0-4 (default 0)"
            | Report _ -> "json file for the results"
            | Epochs _ -> "epochs a method (default 15)"
            | Quickstart -> "a generated data set instead of --data"

let private seedsOf (text: string) : int list =
    try
        match text.Split '-' with
        | [| first; last |] -> [ int first .. int last ]
        | _ -> [ for part in text.Split ',' -> int part ]
    with :? FormatException ->
        raise (ArgumentException $"--seeds {text}: a list like 0,2 or a range like 0-4 is expected")

/// One seed's data, as every method sees it.
type private Split =
    { Weak: Examples
      Right: bool[]
      Meta: Examples
      HeldOut: Examples
      Test: Examples
      Words: int }

let private split seed (data: Dataset) : Split =
    let weak = weaklyLabelled seed data
    let vocabulary = vocabulary (weak |> Seq.map _.Row.Text)

    let clean rows =
        examples vocabulary data.Classes (rows |> Seq.map (fun row -> row, row.Label))

    let valid = Array.copy data.Valid
    Random(seed).Shuffle valid
    let half = valid.Length / 2

    { Weak = examples vocabulary data.Classes (weak |> Seq.map (fun w -> w.Row, w.WeakLabel))
      Right = weak |> Array.map (fun w -> w.WeakLabel = w.Row.Label)
      Meta = clean valid[.. half - 1]
      HeldOut = clean valid[half..]
      Test = clean data.Test
      Words = vocabulary.Count }

let private run (data: Dataset) (seeds: int list) (hyper: Hyperparameters) (report: string option) =
    let live = not Console.IsErrorRedirected

    let progress label (line: string) =
        if live then
            eprintf "\r%-78s" $"{label}  {line}"

    let splits = seeds |> List.map (fun seed -> seed, split seed data)

    /// Trains one method on every seed; `train seed split start` starts from a new classifier.
    let measure name (train: int -> Split -> (string * Sama.Tensor) list -> (string -> unit) -> Trained) =
        let clock = Stopwatch.StartNew()

        let trained =
            [ for seed, split in splits do
                  use generator = new torch.Generator(uint64 (1000 + seed))
                  let start = classifier generator split.Words data.Classes
                  train seed split start (progress $"{name}, seed {seed}:") ]

        let result =
            { Method = name
              Accuracy = [ for (_, split), t in List.zip splits trained -> accuracyOf t split.Test ]
              Auroc = []
              Seconds = clock.Elapsed.TotalSeconds
              PeakResidentBytes = peakResidentBytes () }

        trained, result

    let sama name correct =
        let train seed (split: Split) start progress =
            use generator = new torch.Generator(uint64 (2000 + seed))
            let learner = metaLearner generator data.Classes data.Rules
            bySama hyper correct (int64 seed) start learner split.Weak split.Meta split.HeldOut progress

        let trained, result = measure name train

        let aurocs =
            [ for (_, split), t in List.zip splits trained -> auroc (weights t split.Weak) split.Right ]

        trained, { result with Auroc = aurocs }

    let onNoisy, noisy =
        measure "noisy" (fun seed s start p ->
            plain hyper hyper.Rate (int64 seed) start (stepsOf hyper s.Weak) s.Weak s.HeldOut p)

    // the meta set is small: as many steps as on the weak labels
    let onMeta rate seed (s: Split) start p =
        plain hyper rate (int64 seed) start (stepsOf hyper s.Weak) s.Meta s.HeldOut p

    let _, metaOnly = measure "metaOnly" (onMeta hyper.Rate)
    let weighed, reweight = sama "reweight" false
    let corrected, correct = sama "correct" true
    let reached (trained: Trained list) = trained |> List.averageBy _.HeldOut

    let best, cleaned =
        if reached corrected > reached weighed then
            "correct", corrected
        else
            "reweight", weighed

    let tuned name (from: Trained list) =
        let table = dict (List.zip seeds from)

        measure name (fun seed s _ p -> onMeta hyper.TuningRate seed s table[seed].Theta p)
        |> snd

    let thenMeta = tuned "thenMeta" cleaned
    let noisyThenMeta = tuned "noisyThenMeta" onNoisy
    let results = [ noisy; metaOnly; reweight; correct; thenMeta; noisyThenMeta ]

    if live then
        eprintf "\r%-78s\r" ""

    let _, first = splits.Head
    let right = first.Right |> Array.averageBy (fun right -> if right then 1.0 else 0.0)

    print
        $"{data.Name}: {first.Right.Length} weak labels, {100.0 * right:F1} %% right; {first.Meta.Labels.shape[0]} clean rows; chosen: {best}"
        results

    report |> Option.iter (fun path -> write path data.Name seeds best results)

[<EntryPoint>]
let main args =
    try
        let parser = ArgumentParser.Create<Arguments>(programName = "NoisyText")
        let parsed = parser.Parse args
        Native.initialize ()

        let data =
            match parsed.TryGetResult Data with
            | Some folder -> read folder
            | None when parsed.Contains Quickstart -> Generator.generate 0
            | None -> raise (ArgumentException "--data FOLDER or --quickstart is needed")

        let hyper =
            { Epochs = parsed.GetResult(Epochs, 15)
              Batch = 64L
              Rate = 1e-3
              TuningRate = 3e-4
              MetaRate = 3e-2
              Alpha = 1e-2 }

        if hyper.Epochs < 1 then
            raise (ArgumentException $"--epochs is at least 1, not {hyper.Epochs}")

        run data (seedsOf (parsed.GetResult(Seeds, "0"))) hyper (parsed.TryGetResult Report)
        0
    with
    | :? ArguParseException as e ->
        eprintfn $"{e.Message}"
        if e.ErrorCode = ErrorCode.HelpText then 0 else 2
    | :? IOException
    | :? ArgumentException
    | :? InvalidOperationException
    | :? InvalidDataException as e ->
        eprintfn $"NoisyText: {e.Message}"
        1
