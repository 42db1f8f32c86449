namespace Sama.TextCleaning

open System
open System.Collections.Generic
open System.IO
open Sama.DataOptimization

/// From files of labelled texts to cleaned ones.
[<AbstractClass; Sealed>]
type TextCleaning =

    static member private Identity(o: TextCleaningOptions, rows: TextRows) =
        // the state is of this model and these texts too
        let model = if isNull o.Model then "words" else OutFolder.Digest o.Model

        let texts = rows.Texts |> String.concat "\n"

        let digest =
            Security.Cryptography.SHA256.HashData(Text.Encoding.UTF8.GetBytes texts)

        Convert.ToHexString(digest)[..15]
        + $", {o.Tokens} tokens, {o.FrozenLayers} frozen, {model}"

    static member private Folder(o: TextCleaningOptions) : OutFolder =
        let folder = OutFolder(o.Out, [| yield! Outputs.names; "model" |], "texts.txt")

        folder.Require
            [ KeyValuePair("--train", o.Train)
              KeyValuePair("--clean", o.Clean)
              KeyValuePair("--test", o.Test)
              KeyValuePair("--model", o.Model) ]

        folder

    /// Of several ranks, rank 0 makes the folder.
    static member private Begin(o: TextCleaningOptions, rows: TextRows, folder: OutFolder) : unit =
        let ranks = o.Cleaning.Ranks
        let state = folder.State
        let file = Path.Combine(state, "texts.txt")
        let identity = TextCleaning.Identity(o, rows)

        let goesOn = o.Resume && File.Exists file

        if goesOn && File.ReadAllText file <> identity then
            raise (
                InvalidOperationException
                    $"what {state} holds is of other texts or another model: run without --resume to begin anew"
            )

        // every rank has looked
        ranks.Barrier()

        if ranks.Rank = 0 then
            folder.Begin goesOn
            File.WriteAllText(file, identity)

        ranks.Barrier()

    static member private ModelOf(o: TextCleaningOptions, rows: TextRows) : IRowClassifier =
        if isNull o.Model then
            new WordClassifier(rows.Texts, rows.Classes.Length, rows.Labelled.Length + rows.Clean.Rows.Length, o.Tokens)
        else
            new EncoderClassifier(
                o.Model,
                rows.Texts,
                rows.Classes,
                (if o.FrozenLayers.HasValue then o.FrozenLayers.Value else -1),
                o.Tokens,
                seed = int64 o.Cleaning.Seed
            )

    static member private AurocOf(rows: TextRows, result: CleaningResult) : Nullable<float> =
        let told =
            Array.zip rows.Labelled result.Rows
            |> Array.filter (fun (place, _) -> rows.Train.Rows[place].Truth >= 0)

        Ranking.Auroc(
            told |> Array.map (fun (_, verdict) -> verdict.Quality),
            told
            |> Array.map (fun (place, verdict) -> rows.Train.Rows[place].Truth = verdict.Label)
        )

    static member private TestAccuracyOf(rows: TextRows, predicted: float[][]) : Nullable<float> =
        let judging = rows.Judges |> Array.indexed |> Array.filter snd |> Array.map fst

        if judging.Length = 0 then
            Nullable()
        else
            let labels = judging |> Array.map (fun row -> rows.Test.Rows[row].Label)
            Nullable(Accuracy.Share(judging |> Array.map (fun row -> predicted[row]) |> Rows.Argmax, labels))

    /// Reads, cleans and writes into `Out`: rows.jsonl (every row with its weight, its corrected label and why),
    /// wrong.jsonl (likely wrong labels, the likeliest first), test.jsonl (predictions, if there are rows to predict),
    /// report.html, and with a model its fine-tuned folder model/. What is trained is kept in state/ until the end. Of
    /// several ranks (`Cleaning.Ranks`), which see one folder, rank 0 writes.
    ///
    /// ArgumentException for a missing path; DataException naming file, line and column; FileNotFoundException;
    /// InvalidOperationException for a state of other texts or options; OperationCanceledException when it is cancelled.
    static member Run(options: TextCleaningOptions) : TextCleaningResult =
        ArgumentNullException.ThrowIfNull(options, nameof options)
        let o = options
        ArgumentNullException.ThrowIfNull(o.Columns, "options.Columns")
        ArgumentNullException.ThrowIfNull(o.Cleaning, "options.Cleaning")

        if o.FrozenLayers.HasValue && isNull o.Model then
            raise (ArgumentException "--frozen is of a model's layers: --model names its folder")

        o.Cleaning.Validate()

        let folder = TextCleaning.Folder o
        let rows = TextRows.read o
        let data = TextRows.data o rows
        // before a folder is made, for a model's folder may be no model
        use model = TextCleaning.ModelOf(o, rows)
        let ranks = o.Cleaning.Ranks
        TextCleaning.Begin(o, rows, folder)
        o.Cleaning.StateFolder <- Path.Combine(folder.State, "trained")
        let result = DataCleaning.Run(model, data, o.Cleaning, rows.Classes)

        let predicted =
            if isNull result.Predictions then
                [||]
            else
                result.Predictions[rows.Bare.Length ..]

        let names =
            [| "rows.jsonl"
               "wrong.jsonl"
               "report.html"
               if predicted.Length > 0 then
                   "test.jsonl"
               if not (isNull o.Model) then
                   "model" |]

        let out = folder.At

        let whole =
            { Cleaning = result
              Classes = rows.Classes
              Train = rows.Train
              Test = rows.Test
              TestAccuracy = TextCleaning.TestAccuracyOf(rows, predicted)
              QualityAuroc = TextCleaning.AurocOf(rows, result)
              Notes =
                [| yield! TextRows.notes rows
                   for older in folder.Older names do
                       $"{out older} was there before: it is not of this cleaning." |]
              Written = Array.map out names }

        if ranks.Rank = 0 then
            Outputs.rows (out "rows.jsonl") rows result
            Outputs.wrong (out "wrong.jsonl") rows result

            if predicted.Length > 0 then
                Outputs.predictions (out "test.jsonl") rows predicted

            match model with
            | :? EncoderClassifier as encoder -> encoder.Save(out "model", result.Theta)
            | _ -> ()

            Outputs.report (out "report.html") rows whole
            folder.End()

        // all files are there
        ranks.Barrier()
        whole
