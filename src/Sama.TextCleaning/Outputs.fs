namespace Sama.TextCleaning

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open Sama.DataOptimization

/// What a cleaning writes.
module internal Outputs =

    /// Their names.
    let names = [| "rows.jsonl"; "wrong.jsonl"; "report.html"; "test.jsonl" |]

    let private percent (share: float) =
        (100.0 * share).ToString("F1", CultureInfo.InvariantCulture) + " %"

    let private columns =
        [| "id"
           "text"
           "label"
           "corrected"
           "weight"
           "quality"
           "confidence"
           "why" |]

    let private round (value: float) : obj = box (Math.Round(value, 4))

    let private line (rows: TextRows) (place: int) (verdict: RowVerdict) : IReadOnlyList<obj> =
        let row = rows.Train.Rows[place]

        [| row.Id
           row.Text
           rows.Classes[verdict.Label]
           rows.Classes[verdict.Corrected]
           round verdict.Weight
           round verdict.Quality
           round verdict.Confidence
           verdict.Why |]

    /// A row that had nothing to clean has the chosen model's class.
    let private bare (rows: TextRows) (place: int) (probabilities: float[]) : IReadOnlyList<obj> =
        let row = rows.Train.Rows[place]
        let best = Array.max probabilities

        [| row.Id
           row.Text
           null
           rows.Classes[Array.findIndex ((=) best) probabilities]
           null
           null
           round best
           "it had no label and no vote: the chosen model's class" |]

    /// Every row, in the file's order; rows whose text is a clean or test row's are left out.
    let rows (path: string) (rows: TextRows) (result: CleaningResult) : unit =
        let lines =
            Seq.append
                (Seq.map2 (fun place verdict -> place, line rows place verdict) rows.Labelled result.Rows)
                (rows.Bare
                 |> Seq.mapi (fun i place -> place, bare rows place result.Predictions[i]))
            |> Seq.sortBy fst
            |> Seq.map snd

        DataWriter.WriteJsonLines(path, columns, lines)

    /// The rows whose label is likely wrong, the likeliest first.
    let wrong (path: string) (rows: TextRows) (result: CleaningResult) : unit =
        DataWriter.WriteJsonLines(
            path,
            columns,
            result.Wrong
            |> Seq.map (fun verdict -> line rows rows.Labelled[verdict.Row] verdict)
        )

    /// Classes and probabilities of the rows to predict.
    let predictions (path: string) (rows: TextRows) (probabilities: float[][]) : unit =
        let lines =
            Seq.map2
                (fun (row: Row) (p: float[]) ->
                    let best = Array.max p

                    [| box row.Id
                       row.Text
                       (if row.Label < 0 then null else box rows.Classes[row.Label])
                       rows.Classes[Array.findIndex ((=) best) p]
                       round best |]
                    :> IReadOnlyList<obj>)
                rows.Test.Rows
                probabilities

        DataWriter.WriteJsonLines(path, [| "id"; "text"; "label"; "predicted"; "probability" |], lines)

    let private changes (classes: string[]) (result: CleaningResult) =
        let counts =
            result.Rows |> Seq.countBy (fun row -> row.Label, row.Corrected) |> dict

        [ for label in 0 .. classes.Length - 1 ->
              Array.append
                  [| box classes[label] |]
                  (Array.init classes.Length (fun corrected ->
                      match counts.TryGetValue((label, corrected)) with
                      | true, count -> box count
                      | _ -> box 0))
              :> IReadOnlyList<obj> ]

    let private judgement (report: HtmlReport) (rows: TextRows) (result: TextCleaningResult) =
        let data = result.Cleaning

        if result.TestAccuracy.HasValue then
            report.Paragraph
                $"The chosen model gets {percent result.TestAccuracy.Value} of {rows.Judges |> Seq.filter id |> Seq.length} test rows right."
            |> ignore

        if result.QualityAuroc.HasValue then
            let truths = rows.Labelled |> Array.map (fun place -> rows.Train.Rows[place].Truth)

            let share (label: RowVerdict -> int) =
                Array.map2 (fun truth verdict -> truth, label verdict) truths data.Rows
                |> Array.filter (fun (truth, _) -> truth >= 0)
                |> Array.averageBy (fun (truth, label) -> if truth = label then 1.0 else 0.0)

            let auroc = result.QualityAuroc.Value.ToString("F3", CultureInfo.InvariantCulture)

            report.Paragraph
                $"Of the rows whose truth is told {percent (share _.Label)} of the labels are right, {percent (share _.Corrected)} after correction; quality separates right from wrong labels with an AUROC of {auroc}."
            |> ignore

    /// One file: the choice and what it stands on, what was changed, the likeliest wrong labels.
    let report (path: string) (rows: TextRows) (result: TextCleaningResult) : unit =
        let data = result.Cleaning
        let wrong = data.Wrong
        let report = HtmlReport $"Cleaning of {rows.Train.Name}"

        report
            .Paragraph(
                $"{rows.Labelled.Length} rows to clean in {rows.Classes.Length} classes, {rows.Clean.Rows.Length} clean rows, {rows.Train.Rules.Length} rules. {wrong.Length} labels ({percent (float wrong.Length / float data.Rows.Length)}) are likely wrong."
            )
            .Paragraph($"Chosen: {data.Choice.Name}.")
        |> ignore

        for note in result.Notes do
            report.Paragraph note |> ignore

        judgement report rows result

        let error (candidate: Candidate) =
            let p = Seq.average candidate.Correct
            sqrt (p * (1.0 - p) / float candidate.Correct.Count)

        report
            .Section("Ways of training, judged on clean rows that they have not seen")
            .Choice(data.Choice)
            .Bars(
                "Held-out accuracy, ± one standard error",
                data.Candidates |> Array.map _.Name,
                data.Candidates |> Array.map (fun way -> Seq.average way.HeldOut.Correct),
                data.Candidates |> Array.map (fun way -> error way.HeldOut)
            )
            .Section("What was changed")
            .Table(Array.append [| "label \\ corrected" |] rows.Classes, changes rows.Classes data)
            .Histogram(
                "How likely each label is right",
                "quality",
                [| for name, changed in [ "kept", false; "changed", true ] do
                       { Name = name
                         X =
                           data.Rows
                           |> Array.filter (fun row -> (row.Corrected <> row.Label) = changed)
                           |> Array.map _.Quality
                         Y = null } |]
            )
            .Section($"The likeliest wrong labels ({min 50 wrong.Length} of {wrong.Length})")
            .Table(
                [| "row"; "text"; "label"; "corrected"; "quality"; "why" |],
                wrong
                |> Seq.truncate 50
                |> Seq.map (fun verdict ->
                    let row = rows.Train.Rows[rows.Labelled[verdict.Row]]

                    let text =
                        if row.Text.Length > 160 then
                            row.Text[..159] + "…"
                        else
                            row.Text

                    [| box row.Id
                       text
                       rows.Classes[verdict.Label]
                       rows.Classes[verdict.Corrected]
                       verdict.Quality
                       verdict.Why |]
                    :> IReadOnlyList<obj>)
            )
            .Write(path)
