namespace Sama.DataOptimization

open System.Collections.Generic

/// What training shows of every row over its epochs: forgetting counts and the area under the margin. Rows are observed
/// as their batches come, so that no epoch's logits need to be kept.
[<Sealed>]
type TrainingRecord(labels: int[]) =
    do Check.nonEmpty (nameof labels) labels
    let labels = Array.copy labels
    let seen = Array.zeroCreate<int> labels.Length
    let forgotten = Array.zeroCreate<int> labels.Length
    let learned = Array.zeroCreate<bool> labels.Length
    let right = Array.zeroCreate<bool> labels.Length
    let margins = Array.zeroCreate<float> labels.Length

    /// Takes the logits `[i][class]` with which the rows `rows[i]` were trained on; call it once a batch. Of equal
    /// logits the first class is the prediction. ArgumentException for a row or a label outside, no two classes, or a
    /// logit that is not finite; nothing is recorded then.
    member _.Observe(rows: int[], logits: float[][]) : unit =
        let classes = Check.matrix (nameof logits) logits
        Check.that (nameof logits) (classes > 1) (fun () -> "logits of at least two classes are expected")
        Check.length (nameof rows) logits.Length rows

        for row in rows do
            Check.that (nameof rows) (row >= 0 && row < labels.Length) (fun () ->
                $"row {row} is not one of the {labels.Length} rows")

            Check.that (nameof logits) (labels[row] >= 0 && labels[row] < classes) (fun () ->
                $"row {row}: label {labels[row]} for logits of {classes} classes")

        Array.iter2
            (fun row z ->
                let now = Simplex.argmax z = labels[row]

                if right[row] && not now then
                    forgotten[row] <- forgotten[row] + 1

                right[row] <- now
                learned[row] <- learned[row] || now
                seen[row] <- seen[row] + 1
                margins[row] <- margins[row] + z[labels[row]] - Simplex.largestOther labels[row] z)
            rows
            logits

    /// How often each row was observed.
    member _.Observations = Array.copy seen

    /// Times a row was right when observed and wrong at its next observation; infinite for a row that was never right
    /// (Toneva et al., ICLR 2019).
    member _.Forgetting: float[] =
        Array.map2 (fun learned count -> if learned then float count else infinity) learned forgotten

    /// Area under the margin: the mean over observations of z_y − max over c ≠ y of z_c; low for rows that are likely
    /// wrong (Pleiss et al., NeurIPS 2020). Not a number for a row never observed.
    member _.AreaUnderMargin: float[] =
        Array.map2 (fun sum count -> if count = 0 then nan else sum / float count) margins seen

    /// Forgetting counts of whole epochs, `[epoch][row]` of right and wrong; infinite for rows that were never right.
    /// ArgumentException for no epochs or epochs of different lengths.
    static member ForgettingCounts(correct: IReadOnlyList<bool[]>) : float[] =
        Check.nonEmpty (nameof correct) correct
        Check.notNull "correct[0]" correct[0]
        let rows = correct[0].Length

        for epoch in 0 .. correct.Count - 1 do
            Check.length $"correct[{epoch}]" rows correct[epoch]

        Array.init rows (fun row ->
            let history = correct |> Seq.map (fun epoch -> epoch[row]) |> Array.ofSeq

            if Array.contains true history then
                history
                |> Array.pairwise
                |> Array.filter (fun (before, after) -> before && not after)
                |> Array.length
                |> float
            else
                infinity)
