/// One run: a data set, a number of clean rows a class, a seed; what every way of training reached.
module NoisyText.Cell

open System
open System.Collections.Generic
open System.IO
open TorchSharp
open Sama.DataOptimization
open Sama.TextCleaning

[<NoComparison>]
type Settings =
    {
        Device: torch.Device
        Vectors: string
        /// a Hugging Face folder, or null for the small encoder
        Model: string
        /// its frozen layers; null for three quarters
        Frozen: Nullable<int>
        Options: int -> CleaningOptions
        /// judge on clean rows that are left over, not on the test rows: for tuning
        HeldOut: bool
    }

/// What one way reached: right rows as a text of 0 and 1, so that runs are compared row by row.
type WayResult =
    { Name: string
      HeldOut: float
      Right: string
      Seconds: float }

    member way.Accuracy =
        float (way.Right |> Seq.filter ((=) '1') |> Seq.length) / float way.Right.Length

type CellResult =
    {
        Data: string
        PerClass: int
        Seed: int
        CleanRows: int
        /// share of the labels that are right before, and after correction
        LabelsRight: float
        CorrectedRight: float
        /// how well quality and learned weights separate right from wrong labels
        QualityAuroc: float
        WeightAuroc: float
        Chosen: string
        Seconds: float
        PeakMegabytes: int64
        Ways: WayResult[]
    }

/// `perClass` rows of each class, all of a rarer one, and the rows that are left, in an order drawn by the seed.
let private drawn (seed: int) (perClass: int) (rows: Row[]) : Row[] * Row[] =
    let rows = Array.copy rows
    Random(seed).Shuffle rows
    let taken = Dictionary<int, int>()

    rows
    |> Array.partition (fun row ->
        taken[row.Label] <- taken.GetValueOrDefault row.Label + 1
        taken[row.Label] <= perClass)

let private nullable (value: Nullable<float>) =
    if value.HasValue then value.Value else nan

/// The process's high-water mark so far.
let private peakMegabytes () : int64 =
    match
        (if File.Exists "/proc/self/status" then
             File.ReadLines "/proc/self/status" |> Seq.tryFind _.StartsWith("VmHWM:")
         else
             None)
    with
    | Some line ->
        int64 (line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries)[1])
        / 1000L
    | None -> Diagnostics.Process.GetCurrentProcess().PeakWorkingSet64 / 1_000_000L

let run (settings: Settings) (name: string) (splits: WrenchSplits) (perClass: int) (seed: int) : CellResult =
    let clock = Diagnostics.Stopwatch.StartNew()

    let held = HashSet(Seq.append splits.Valid.Rows splits.Test.Rows |> Seq.map _.Text)

    let train =
        splits.Train.Rows
        |> Array.filter (fun row -> Array.exists (fun vote -> vote >= 0) row.Votes && not (held.Contains row.Text))

    if train.Length = 0 then
        raise (InvalidDataException $"{name}: no training row has a vote")

    let clean, left = drawn seed perClass splits.Valid.Rows
    let judged = if settings.HeldOut then left else splits.Test.Rows

    if judged.Length = 0 then
        raise (InvalidDataException $"{name}: no clean row is left to judge by")

    let texts = Array.concat [ train; clean; judged ] |> Array.map _.Text
    let classes = splits.Train.Classes.Length

    let data =
        CleaningData(
            classes,
            train |> Array.map (fun _ -> -1),
            clean |> Array.map _.Label,
            train |> Array.map _.Votes,
            clean |> Array.map _.Votes,
            judged.Length,
            HashedTerms.FromTexts(texts, 32768, 32),
            seed
        )

    use model: IRowClassifier =
        if isNull settings.Model then
            new WordClassifier(texts, classes, train.Length + clean.Length, 32, settings.Vectors, settings.Device)
        else
            new EncoderClassifier(
                settings.Model,
                texts,
                splits.Train.Classes,
                (if settings.Frozen.HasValue then settings.Frozen.Value else -1),
                seed = int64 seed,
                device = settings.Device
            )

    let result =
        DataCleaning.Run(model, data, settings.Options seed, splits.Train.Classes)

    let right = Array.map2 (fun (row: Row) label -> row.Label = label) train data.Labels

    let share (marks: bool[]) =
        marks |> Array.averageBy (fun mark -> if mark then 1.0 else 0.0)

    let auroc score =
        nullable (Ranking.Auroc(result.Rows |> Array.map score, right))

    { Data = name
      PerClass = perClass
      Seed = seed
      CleanRows = clean.Length
      LabelsRight = share right
      CorrectedRight =
        share (Array.map2 (fun (row: Row) (verdict: RowVerdict) -> row.Label = verdict.Corrected) train result.Rows)
      QualityAuroc = auroc _.Quality
      WeightAuroc = auroc _.Weight
      Chosen = result.Choice.Name
      Seconds = clock.Elapsed.TotalSeconds
      PeakMegabytes = peakMegabytes ()
      Ways =
        [| for way in result.Candidates ->
               { Name = way.Name
                 HeldOut = Seq.average way.HeldOut.Correct
                 Right =
                   Array.map2
                       (fun (row: Row) label -> if row.Label = label then '1' else '0')
                       judged
                       (Rows.Argmax way.Predictions)
                   |> String
                 Seconds = way.Seconds } |] }
