namespace Sama.DataPruning

open System
open System.Collections.Generic
open System.IO
open Sama.DataOptimization

/// From a data set to the rows worth keeping.
[<AbstractClass; Sealed>]
type DataPruning =

    static member private Check(o: DataPruningOptions) : unit =
        let need (condition: bool) (message: string) =
            if not condition then
                raise (ArgumentException message)

        let share value = value > 0.0 && value <= 1.0
        need (share o.Keep) $"--keep {o.Keep}: a share above 0, at most 1, is expected"
        need (not (isNull o.Curve)) "--curve: a list of shares is expected"

        for value in o.Curve do
            need (share value) $"--curve {value}: shares above 0, at most 1, are expected"

        if not (PruningMethod.IsKnown o.Scores) then
            let known = PruningMethod.Known |> Seq.map (fun struct (name, _) -> name)
            let names = String.Join(", ", known)

            need
                false
                $"--scores {o.Scores}: there are {names} (InfoBatch and DynaMS change their rows in training: no set is kept)"

        need
            (o.HardCutoff >= 0.0 && o.HardCutoff + o.Keep <= 1.0)
            $"--cutoff {o.HardCutoff}: with --keep {o.Keep} at most {1.0 - o.Keep:F3} can be cut off"

        need
            (String.IsNullOrEmpty o.Clean
             || o.Scores.EndsWith "sama"
             || o.Scores.EndsWith "sama-rows")
            $"--clean: only SAMA learns from clean rows, {o.Scores} does not look at them"

        need
            (o.HardCutoff = 0.0 || o.Scores.StartsWith "ccs-")
            $"--cutoff is of coverage-centric selection: --scores ccs-METHOD, not {o.Scores}"

        o.Pruning.Validate()

    static member private Folder(o: DataPruningOptions) : OutFolder =
        let folder =
            OutFolder(o.Out, [| "kept.txt"; "scores.jsonl"; "report.html" |], "identity.txt")

        folder.Require
            [ KeyValuePair("--data", o.Data)
              KeyValuePair("--test", o.Test)
              KeyValuePair("--clean", o.Clean)
              KeyValuePair("--model", o.Model) ]

        folder

    /// Of several ranks, rank 0 makes the folders.
    static member private Begin(o: DataPruningOptions, folder: OutFolder) : unit =
        let ranks = o.Pruning.Ranks
        // every rank has read what it is to prune
        ranks.Barrier()

        if ranks.Rank = 0 then
            folder.Begin o.Resume

        ranks.Barrier()

    /// The share of some rows, by number among these.
    static member private Select(o: DataPruningOptions, score: PruningScore, labels: int[], rows: int[], share: float) =
        let classes =
            if o.Balanced then
                rows |> Array.map (fun row -> labels[row])
            else
                null

        (score.At rows).Keep(share, classes, o.Pruning.Seed, min o.HardCutoff (1.0 - share))
        |> Array.map (fun place -> rows[place])

    /// Rows that judge, and those to train on for the curve.
    static member private Judges(o: DataPruningOptions, source: PruneSource) : int[] * int[] =
        let all = Array.init source.Count id

        if source.Test.Length > 0 then
            source.Test, all
        else
            let judge =
                Keep.AtRandom(source.Count, 0.2, source.Labels[.. source.Count - 1], o.Pruning.Seed)

            judge, Array.except judge all

    static member private CurveOf(o: DataPruningOptions, source: PruneSource, pruner: Pruner, score: PruningScore) =
        let judge, train = DataPruning.Judges(o, source)
        let truths = judge |> Array.map (fun row -> source.Labels[row])

        let reached name rows =
            let struct (theta, seconds) = pruner.Train(name, rows)
            Accuracy.Share(Rows.Argmax(pruner.Predict(theta, judge)), truths), seconds

        if o.Curve.Count = 0 then
            [||], nan
        else
            let whole, seconds = reached "all rows" train
            let labels = source.Labels

            let shares =
                Seq.append o.Curve [ o.Keep ]
                |> Seq.filter (fun share -> share < 1.0)
                |> Seq.distinct

            let points =
                [| for share in Seq.sortDescending shares do
                       let own, _ =
                           reached $"kept {share}" (DataPruning.Select(o, score, labels, train, share))

                       let classes = train |> Array.map (fun row -> labels[row])

                       let random =
                           Keep.AtRandom(train.Length, share, classes, o.Pruning.Seed)
                           |> Array.map (fun place -> train[place])

                       { Share = share
                         Accuracy = own
                         Random = fst (reached $"random {share}" random) } |]

            Array.append
                [| { Share = 1.0
                     Accuracy = whole
                     Random = whole } |]
                points,
            seconds

    /// Reads, scores, selects and writes into `Out`: kept.txt (numbers of the kept rows, one a line, from 0), scores.jsonl
    /// (every row with its score), report.html. What is trained is kept in state/ until the end. Of several ranks
    /// (`Pruning.Ranks`), which see one folder, rank 0 writes.
    ///
    /// ArgumentException for an option out of range; DataException naming file, line or image; FileNotFoundException,
    /// DirectoryNotFoundException; InvalidOperationException for a state of other data or options, or a method that the model
    /// cannot serve; OperationCanceledException when it is cancelled.
    static member Run(options: DataPruningOptions) : DataPruningResult =
        ArgumentNullException.ThrowIfNull(options, nameof options)
        let o = options
        ArgumentNullException.ThrowIfNull(o.Columns, "options.Columns")
        ArgumentNullException.ThrowIfNull(o.Pruning, "options.Pruning")
        DataPruning.Check o
        let folder = DataPruning.Folder o
        let source = PruneSource.read o
        // before a folder is made, for the model may be none
        use model = source.Model()
        DataPruning.Begin(o, folder)
        o.Pruning.StateFolder <- folder.State

        o.Pruning.Identity <-
            $"{source.Digest}, {source.Count} rows and {source.Test.Length} to judge by, {o.Tokens} tokens, {o.Model}, {o.Scores}, {o.HardCutoff}, {o.Balanced}"

        o.Pruning.Stages <- DataPruning.StageCount o

        use pruner =
            new Pruner(model, source.Labels, Array.init source.Count id, source.Clean, o.Pruning)

        let score = pruner.Score o.Scores

        let kept =
            DataPruning.Select(o, score, source.Labels, Array.init source.Count id, o.Keep)

        let curve, full = DataPruning.CurveOf(o, source, pruner, score)
        let out = folder.At
        let judges = (fst (DataPruning.Judges(o, source))).Length

        let result =
            { Kept = kept
              Score = score
              Labels = source.Labels[.. source.Count - 1]
              Classes = source.Classes
              Curve = curve
              FullSeconds = full
              Judged = (if curve.Length = 0 then 0 else judges)
              Share = o.Keep
              Notes =
                [| if source.Trained > 0 then
                       $"{source.Trained} of {source.Trained + source.Test.Length} test rows do not judge: they are rows to train on as well."
                   if source.PassedOver.Length > 0 then
                       "Not read: " + String.Join(", ", source.PassedOver) + "." |]
              Written = [| out "kept.txt"; out "scores.jsonl"; out "report.html" |] }

        let judged =
            if curve.Length = 0 then
                ""
            elif source.Test.Length > 0 then
                $"{source.Test.Length} test rows judge."
            else
                "A fifth of the rows, drawn by the seed, judges; the search has seen these too."

        if o.Pruning.Ranks.Rank = 0 then
            PruneReport.kept (out "kept.txt") kept
            PruneReport.scores (out "scores.jsonl") source score (HashSet kept)
            PruneReport.report (out "report.html") source judged result
            folder.End()

        // all files are there
        o.Pruning.Ranks.Barrier()
        result

    static member private StageCount(o: DataPruningOptions) : int =
        let search =
            match Int32.TryParse(o.Scores[o.Scores.LastIndexOf '-' + 1 ..]) with
            | true, models -> 2 * models
            | _ -> 1

        let judging = if o.Scores.StartsWith "judged-" then 4 else 0
        search + judging + (if o.Curve.Count = 0 then 0 else 3 + 2 * o.Curve.Count)
