namespace Sama.DataPruning

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open Sama.DataOptimization

/// What a pruning writes.
module internal PruneReport =

    let private percent (share: float) =
        (100.0 * share).ToString("F1", CultureInfo.InvariantCulture) + " %"

    /// One number of a kept row a line.
    let kept (path: string) (rows: int[]) : unit =
        let part = path + ".partial"
        File.WriteAllLines(part, rows |> Array.map string)
        File.Move(part, path, true)

    /// Every row in its order.
    let scores (path: string) (source: PruneSource) (score: PruningScore) (kept: HashSet<int>) : unit =
        DataWriter.WriteJsonLines(
            path,
            [| "row"; "id"; "label"; "score"; "kept" |],
            score.Scores
            |> Seq.mapi (fun row value ->
                [| box row
                   source.Ids[row]
                   source.Classes[source.Labels[row]]
                   value
                   kept.Contains row |]
                :> IReadOnlyList<obj>)
        )

    /// Rows from the best to the worst of a set.
    let private ordered (score: PruningScore) (rows: int[]) =
        let sign = if score.KeepsHighest then -1.0 else 1.0
        rows |> Array.sortBy (fun row -> struct (sign * score.Scores[row], row))

    let private examples (report: HtmlReport) (source: PruneSource) (score: PruningScore) (name: string) (rows: int[]) =
        if rows.Length > 0 then
            report.Section name |> ignore

            if isNull source.Texts then
                report.Png(name, Pictures.sheet source.Images (Array.truncate 48 rows) 12)
                |> ignore

            let text row =
                if isNull source.Texts then
                    source.Ids[row]
                elif source.Texts[row].Length > 160 then
                    source.Texts[row][..159] + "…"
                else
                    source.Texts[row]

            report.Table(
                [| "row"; (if isNull source.Texts then "image" else "text"); "label"; "score" |],
                rows
                |> Seq.truncate 12
                |> Seq.map (fun row ->
                    [| box row; text row; source.Classes[source.Labels[row]]; score.Scores[row] |]
                    :> IReadOnlyList<obj>)
            )
            |> ignore

    /// What the short trainings said, where which rows are kept was judged.
    let private judgement (report: HtmlReport) (score: PruningScore) =
        if not (isNull (box score.Judgement)) then
            report
                .Section("Which rows to keep")
                .Paragraph(
                    $"The search's model was trained on with half of the rows for a short while; {score.Judgement.Rows} rows that were in no set judge."
                )
                .Table(
                    [| "rows"
                       "log-loss"
                       "accuracy"
                       "gain over the best rows"
                       "its standard error" |],
                    score.Judgement.Table
                    |> Seq.map (fun kind ->
                        [| box kind.Name
                           kind.LogLoss.Value
                           kind.Accuracy
                           kind.Gain
                           kind.GainError |]
                        :> IReadOnlyList<obj>)
                )
            |> ignore

    let private curve (report: HtmlReport) (result: DataPruningResult) =
        if result.Curve.Length > 0 then
            let shares = result.Curve |> Array.map (fun point -> 100.0 * point.Share)

            report
                .Section("Accuracy against the share kept")
                .Paragraph(
                    "After training anew on what is kept of the rows that do not judge, as many epochs each; one training a point."
                )
                .Lines(
                    "accuracy of held-out rows",
                    "percent kept",
                    "accuracy",
                    [| { Name = result.Score.Method
                         X = shares
                         Y = result.Curve |> Array.map _.Accuracy }
                       { Name = "random"
                         X = shares
                         Y = result.Curve |> Array.map _.Random } |]
                )
                .Table(
                    [| "kept"; result.Score.Method; "random" |],
                    result.Curve
                    |> Seq.map (fun point ->
                        [| box (percent point.Share); point.Accuracy; point.Random |] :> IReadOnlyList<obj>)
                )
            |> ignore

    /// One file: the classes, the scores, the examples, the curve.
    let report (path: string) (source: PruneSource) (judged: string) (result: DataPruningResult) =
        let report = HtmlReport $"Pruning of {source.Name}"
        let kept = HashSet result.Kept
        let all = Array.init source.Count id
        let isKept, pruned = all |> Array.partition kept.Contains

        let cost =
            if Double.IsFinite result.FullSeconds then
                $", {result.Score.Seconds / result.FullSeconds:F2} of a full training"
            else
                ""

        report
            .Paragraph(
                $"{kept.Count} of {source.Count} rows are kept ({percent (float kept.Count / float source.Count)}) by {result.Score.Method}: {result.Score.KeptName}. The search took {result.Score.Seconds:F1} seconds{cost}. {judged}"
            )
            .Paragraph(
                if result.RandomIsAhead then
                    "As many rows at random train a better model here: another method may serve better."
                else
                    ""
            )
            .Paragraph(String.concat " " result.Notes)
            .Table(
                [| "class"; "rows"; "kept"; "share" |],
                source.Classes
                |> Seq.mapi (fun label name ->
                    let count rows =
                        rows |> Array.filter (fun row -> source.Labels[row] = label) |> Array.length

                    let rows = count all

                    [| box name
                       rows
                       count isKept
                       (if rows = 0 then
                            null
                        else
                            box (percent (float (count isKept) / float rows))) |]
                    :> IReadOnlyList<obj>)
            )
            .Histogram(
                "Scores",
                (if result.Score.KeepsHighest then
                     "score; high is best"
                 else
                     "score; low is best"),
                [| for name, rows in [ "kept", isKept; "pruned", pruned ] do
                       { Name = name
                         X = rows |> Array.map (fun row -> result.Score.Scores[row])
                         Y = null } |]
            )
        |> ignore

        judgement report result.Score
        curve report result
        examples report source result.Score "Kept, the most wanted first" (ordered result.Score isKept)
        examples report source result.Score "Pruned, the least wanted first" (Array.rev (ordered result.Score pruned))
        report.Write path
