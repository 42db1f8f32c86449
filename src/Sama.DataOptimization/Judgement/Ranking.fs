namespace Sama.DataOptimization

open System

/// How well scores put the positive rows first.
[<AbstractClass; Sealed>]
type Ranking =

    static member private Checked(scores: float[], positive: bool[]) =
        Check.notNull (nameof scores) scores
        Check.length (nameof positive) scores.Length positive
        Check.notNan (nameof scores) scores

    /// Area under the ROC curve: the probability that a positive row's score is above a negative row's, ties counted
    /// half (Mann and Whitney, 1947, by mid-ranks): (Σ ranks of positives − p(p + 1)/2) / (p · q). Null where there
    /// are not both kinds. ArgumentException for lengths that differ or a score that is not a number.
    static member Auroc(scores: float[], positive: bool[]) : Nullable<float> =
        Ranking.Checked(scores, positive)
        let positives = positive |> Array.filter id |> Array.length |> float
        let negatives = float scores.Length - positives

        if positives * negatives = 0.0 then
            Nullable()
        else
            let order = Array.init scores.Length id |> Array.sortBy (fun row -> scores[row])
            let mutable first = 0
            let mutable ranks = 0.0

            while first < order.Length do
                let mutable next = first + 1

                while next < order.Length && scores[order[next]] = scores[order[first]] do
                    next <- next + 1

                let middle = float (first + next + 1) / 2.0

                for i in first .. next - 1 do
                    if positive[order[i]] then
                        ranks <- ranks + middle

                first <- next

            Nullable((ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives))

    /// Average precision: Σ (recallₙ − recallₙ₋₁) precisionₙ over the thresholds from the highest score down, equal
    /// scores being one threshold. Null where no row is positive. ArgumentException as for `Auroc`.
    static member AveragePrecision(scores: float[], positive: bool[]) : Nullable<float> =
        Ranking.Checked(scores, positive)
        let positives = positive |> Array.filter id |> Array.length |> float

        if positives = 0.0 then
            Nullable()
        else
            let order = Array.init scores.Length id |> Array.sortBy (fun row -> -scores[row])
            let mutable taken = 0
            let mutable found = 0.0
            let mutable sum = 0.0

            while taken < order.Length do
                let score = scores[order[taken]]
                let before = found

                while taken < order.Length && scores[order[taken]] = score do
                    found <- found + (if positive[order[taken]] then 1.0 else 0.0)
                    taken <- taken + 1

                sum <- sum + (found - before) / positives * (found / float taken)

            Nullable sum
