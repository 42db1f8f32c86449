/// One run: a data set, a number of clean rows a class, a seed; what every way of training reached.
module NoisyText.Cell

open System
open System.Collections.Generic
open System.IO
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.TextCleaning

[<NoComparison>]
type Settings =
    {
        Device: torch.Device
        /// word vectors of the small encoder, or null
        Vectors: string
        /// a Hugging Face folder, or null for the small encoder
        Model: string
        /// its frozen layers; -1 for all
        Frozen: int
        /// progress and seed to options
        Options: IProgress<StageProgress> -> int -> CleaningOptions
        /// judge on clean rows that are left over, not on the test rows: for tuning
        HeldOut: bool
    }

/// What one way reached: right rows as a text of 0 and 1, so that runs are compared row by row.
type WayResult =
    {
        Name: string
        HeldOut: float
        /// log-losses of the held-out clean rows
        Losses: float[]
        /// probabilities of the held-out clean rows
        Probabilities: float[][]
        Right: string
        Seconds: float
    }

    member way.Scores = [| for mark in way.Right -> if mark = '1' then 1.0 else 0.0 |]

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
        /// seconds of processor time
        Seconds: float
        PeakMegabytes: int64
        Ways: WayResult[]
    }

/// A model that knows rows of a larger one, in another order; it borrows that.
type private Chosen(whole: IRowClassifier, rows: int[]) =
    interface IRowClassifier with
        member _.Classes = whole.Classes
        member _.Rows = rows.Length
        member _.Rate = whole.Rate
        member _.Start seed = whole.Start seed

        member _.Read chosen =
            whole.Read(chosen |> Array.map (fun row -> rows[row]))

        member _.LogProbabilities(theta, inputs, training) =
            whole.LogProbabilities(theta, inputs, training)

        member _.Dispose() = ()

/// Pretrained encoders over all texts of a data set, one at a time, whose frozen layers run once for all cells of the set; null
/// for the small encoder.
type Encoders(settings: Settings) =
    let mutable held = "", (null: EncoderClassifier)

    let free () =
        if not (isNull (snd held)) then
            (snd held :> IDisposable).Dispose()

        held <- "", null

    member _.Of(name: string, splits: WrenchSplits) : EncoderClassifier =
        if not (isNull settings.Model) && fst held <> name then
            free ()
            let texts = Seq.concat [ splits.Train.Texts; splits.Valid.Texts; splits.Test.Texts ]
            let texts, classes = Array.ofSeq (Seq.distinct texts), splits.Train.Classes

            held <-
                name, new EncoderClassifier(settings.Model, texts, classes, settings.Frozen, device = settings.Device)

        snd held

    interface IDisposable with
        member _.Dispose() = free ()

/// `perClass` rows of each class, all of a rarer one, and the rows that are left, in an order drawn by the seed.
let private drawn (seed: int) (perClass: int) (rows: Row[]) : Row[] * Row[] =
    let rows = Array.copy rows
    Random(seed).Shuffle rows
    let taken = Dictionary<int, int>()

    rows
    |> Array.partition (fun row ->
        taken[row.Label] <- taken.GetValueOrDefault row.Label + 1
        taken[row.Label] <= perClass)

/// `encoder` is null for the small one.
let run
    (settings: Settings)
    (encoder: EncoderClassifier)
    name
    (splits: WrenchSplits)
    perClass
    (seed: int)
    progress
    : CellResult =
    let usage = Usage()
    let known = HashSet(Seq.append splits.Valid.Texts splits.Test.Texts)

    let voted (row: Row) =
        row.Votes |> Array.exists (fun vote -> vote >= 0)

    let train =
        splits.Train.Rows
        |> Array.filter (fun row -> voted row && not (known.Contains row.Text))

    let clean, left = drawn seed perClass splits.Valid.Rows
    let judged = if settings.HeldOut then left else splits.Test.Rows

    if train.Length = 0 || judged.Length = 0 then
        raise (InvalidDataException $"{name}: no training row has a vote, or no clean row is left to judge by")

    let texts = Array.concat [ train; clean; judged ] |> Array.map _.Text
    let classes = splits.Train.Classes

    use model: IRowClassifier =
        match encoder with
        | null ->
            new WordClassifier(
                texts,
                classes.Length,
                train.Length + clean.Length,
                32,
                settings.Vectors,
                settings.Device
            )
        | encoder ->
            let places = Dictionary<string, int>()
            encoder.Texts |> Seq.iteri (fun place text -> places[text] <- place)
            new Chosen(encoder, texts |> Array.map (fun text -> places[text]))

    let data =
        CleaningData(
            classes.Length,
            Array.create train.Length -1,
            clean |> Array.map _.Label,
            train |> Array.map _.Votes,
            clean |> Array.map _.Votes,
            judged.Length,
            HashedTerms.FromTexts(texts, words = 32),
            seed
        )

    let result = DataCleaning.Run(model, data, settings.Options progress seed, classes)
    let truths = train |> Array.map _.Label
    let right = Array.map2 (=) truths data.Labels

    let auroc score =
        Ranking.Auroc(result.Rows |> Array.map score, right).GetValueOrDefault nan

    { Data = name
      PerClass = perClass
      Seed = seed
      CleanRows = clean.Length
      LabelsRight = Accuracy.Share(data.Labels, truths)
      CorrectedRight = Accuracy.Share(result.Rows |> Array.map _.Corrected, truths)
      QualityAuroc = auroc _.Quality
      WeightAuroc = auroc _.Weight
      Chosen = result.Choice.Name
      Seconds = usage.Seconds
      PeakMegabytes = usage.PeakMegabytes
      Ways =
        [| for way in result.Candidates ->
               let predicted = Rows.Argmax way.Predictions
               let mark (row: Row) label = if row.Label = label then '1' else '0'

               { Name = way.Name
                 HeldOut = Seq.average way.HeldOut.Correct
                 Losses = [| for loss in way.HeldOut.LogLoss -> Math.Round(loss, 5) |]
                 Probabilities =
                   [| for row in way.HeldOut.Probabilities -> row |> Array.map (fun p -> Math.Round(p, 5)) |]
                 Right = String(Array.map2 mark judged predicted)
                 Seconds = way.Seconds } |] }
