/// Every method on every seed, and the choices between them, all made on held-out rows.
module NoisyText.Experiment

open System
open System.Collections.Generic
open System.Diagnostics
open TorchSharp
open Sama
open NoisyText.Dataset
open NoisyText.Text
open NoisyText.Model
open NoisyText.Training
open NoisyText.Statistics
open NoisyText.Report

/// One seed's data, as every method sees it.
type private Split =
    { Weak: Examples
      Right: bool[]
      Meta: Examples
      HeldOut: Examples
      Test: Examples
      Words: int
      Vectors: Dictionary<int, float32[]> option }

let private split (device: torch.Device) (vectors: string option) (data: Dataset) seed : Split =
    let weak = weaklyLabelled seed data
    let vocabulary = vocabulary (weak |> Seq.map _.Row.Text)

    let clean rows =
        (examples vocabulary data.Classes (rows |> Seq.map (fun row -> row, row.Label))).To device

    let valid = Array.copy data.Valid
    Random(seed).Shuffle valid
    let half = valid.Length / 2

    { Weak = (examples vocabulary data.Classes (weak |> Seq.map (fun w -> w.Row, w.WeakLabel))).To device
      Right = weak |> Array.map (fun w -> w.WeakLabel = w.Row.Label)
      Meta = clean valid[.. half - 1]
      HeldOut = clean valid[half..]
      Test = clean data.Test
      Words = vocabulary.Count
      Vectors = vectors |> Option.map (fun path -> readVectors path vocabulary) }

type Options =
    {
        Seeds: int list
        Hyper: Hyperparameters
        Device: torch.Device
        Vectors: string option
        Report: string option
        Picture: string option
        /// accuracy on the held-out rows instead of the test rows, for tuning
        HeldOut: bool
    }

let run (data: Dataset) (options: Options) : unit =
    if data.Valid.Length < 2 then
        raise (IO.InvalidDataException $"{data.Name}: valid needs two rows, a clean one and a held-out one")

    let hyper = options.Hyper
    let live = not Console.IsErrorRedirected

    let progress label (line: string) =
        if live then
            eprintf "\r%-78s" $"{label}  {line}"

    let splits =
        [ for seed in options.Seeds -> int64 seed, split options.Device options.Vectors data seed ]

    let moved (parameters: (string * Tensor) list) =
        [ for name, value in parameters -> name, value.``to`` options.Device ]

    let judged (split: Split) =
        if options.HeldOut then split.HeldOut else split.Test

    /// Trains one method on every seed; `train seed split start` starts from a new classifier.
    let measure name (train: int64 -> Split -> (string * Tensor) list -> (string -> unit) -> Trained) =
        let clock = Stopwatch.StartNew()

        let trained =
            [ for seed, split in splits do
                  use generator = new torch.Generator(uint64 (1000L + seed))
                  let start = moved (classifier generator split.Words split.Vectors data.Classes)
                  train seed split start (progress $"{name}, seed {seed}:") ]

        trained,
        { Method = name
          Accuracy = [ for (_, split), t in List.zip splits trained -> share (right t (judged split)) ]
          Auroc = []
          Seconds = clock.Elapsed.TotalSeconds
          PeakResidentBytes = peakResidentBytes () }

    let bySama name correct loss =
        let trained, result =
            measure name (fun seed split start progress ->
                use generator = new torch.Generator(uint64 (2000L + seed))
                let learner = moved (metaLearner generator correct data.Classes data.Rules)
                bySama hyper (loss split) seed start learner split.Weak split.Meta split.HeldOut progress)

        let aurocs =
            List.zip splits trained
            |> List.choose (fun ((_, split), t) -> auroc (weights t split.Weak) split.Right)

        trained, { result with Auroc = aurocs }

    let onNoisy, noisy =
        measure "noisy" (fun seed split start progress ->
            plain hyper hyper.Rate seed start (stepsOf hyper split.Weak) split.Weak split.HeldOut progress)

    // the meta set is small: as many steps as on the weak labels
    let onMeta rate seed split start progress =
        plain hyper rate seed start (stepsOf hyper split.Weak) split.Meta split.HeldOut progress

    let onClean, metaOnly = measure "metaOnly" (onMeta hyper.Rate)
    let weighed, reweight = bySama "reweight" false (fun _ -> weighedLoss)

    let corrected, correct =
        bySama "correct" true (fun split -> correctedLoss (prior split.Meta))

    let reached (trained: Trained list) = trained |> List.averageBy _.HeldOut

    let chosen, cleaned =
        if reached corrected > reached weighed then
            "correct", corrected
        else
            "reweight", weighed

    let tuned name (from: Trained list) =
        let table = dict (List.zip (List.map fst splits) from)

        measure name (fun seed split _ progress -> onMeta hyper.TuningRate seed split table[seed].Theta progress)

    let shipped, thenMeta = tuned "thenMeta" cleaned
    let control, noisyThenMeta = tuned "noisyThenMeta" onNoisy

    if live then
        eprintf "\r%-78s\r" ""

    let answers (trained: Trained list) =
        [ for (_, split), t in List.zip splits trained -> right t (judged split) ]

    let gain = pairedGain (answers shipped) (answers control)
    let results = [ noisy; metaOnly; reweight; correct; thenMeta; noisyThenMeta ]
    let _, first = splits.Head

    print
        $"{data.Name}: {first.Right.Length} weak labels, {100.0 * share first.Right:F1} %% right; {first.Meta.Count} clean rows; chosen: {chosen}"
        (if options.HeldOut then
             "held-out accuracy"
         else
             "test accuracy")
        results
        gain

    options.Report
    |> Option.iter (fun path -> Report.write path data.Name options.Seeds chosen results gain)

    options.Picture
    |> Option.iter (fun path ->
        let curves =
            List.zip (results |> List.map _.Method) [ onNoisy; onClean; weighed; corrected; shipped; control ]

        Picture.write
            path
            [ for name, trained in curves -> name, trained.Head ]
            [ for name, trained in [ "reweight", weighed; "correct", corrected ] ->
                  name, weights trained.Head first.Weak ]
            first.Right)
