namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Runtime.InteropServices

/// Mixtures of ways' predictions, weighted by held-out rows: with few rows no way can be singled out, and a mixture errs
/// less than most of what it mixes.
[<AbstractClass; Sealed>]
type Stacking =

    static member private Checked(members: IReadOnlyList<float[][]>) : int =
        Check.nonEmpty (nameof members) members
        Check.nonEmpty "members[0]" members[0]

        let classes =
            members
            |> Seq.map (fun rows ->
                Check.length (nameof members) members[0].Length rows
                Check.probabilities (nameof members) rows)
            |> Seq.distinct
            |> Array.ofSeq

        Check.that (nameof members) (classes.Length = 1) (fun () -> "members of different numbers of classes")
        classes[0]

    /// Weights of Σ_m w_m p_m(class | row) (Wolpert, 1992; by likelihood, Smyth and Wolpert, 1999): the maximum of
    /// Σ over rows of log Σ_m w_m p_m(label) + belief/M Σ_m log w_m, which is concave, found by EM. `members` are
    /// probabilities of held-out rows, [member][row][class], each by a model that has not seen the row. `belief` is how many
    /// rows count for all members alike: few rows leave them mixed, many pick the best mixture, which is one member where one
    /// is best on nearly every row. One row's worth unless told (Perks' prior).
    /// ArgumentException for no members or rows, shapes that differ, a label that is no class, or a belief not above 0.
    static member Weights
        (members: IReadOnlyList<float[][]>, labels: int[], [<Optional; DefaultParameterValue(1.0)>] belief: float)
        : float[] =
        let classes = Stacking.Checked members
        Check.labels (nameof labels) classes members[0].Length labels

        Check.that (nameof belief) (belief > 0.0 && Double.IsFinite belief) (fun () -> $"{belief} is not above 0")

        let count = members.Count

        // a row that nobody foresaw must not decide alone
        let likelihoods =
            labels
            |> Array.mapi (fun row label ->
                [| for rows in members do
                       let p = rows[row]
                       max 1e-6 p[label] |])

        let step (weights: float[]) =
            let sums = Array.create count (belief / float count)

            for row in likelihoods do
                let joint = Array.map2 (*) weights row
                let total = Array.sum joint
                joint |> Array.iteri (fun m part -> sums[m] <- sums[m] + part / total)

            Simplex.normalise sums

        let rec improve iteration weights =
            let next = step weights
            let moved = Array.fold2 (fun most a b -> max most (abs (a - b))) 0.0 next weights

            if moved < 1e-9 || iteration = 10000 then
                next
            else
                improve (iteration + 1) next

        improve 1 (Array.create count (1.0 / float count))

    /// Σ_m w_m p_m of each row, [row][class]. ArgumentException for shapes that differ or weights that are negative or do
    /// not sum to 1.
    static member Mix(members: IReadOnlyList<float[][]>, weights: float[]) : float[][] =
        let classes = Stacking.Checked members
        Check.length (nameof weights) members.Count weights
        Check.finite (nameof weights) weights

        Check.that
            (nameof weights)
            (Array.forall (fun w -> w >= 0.0) weights && abs (Array.sum weights - 1.0) < 1e-6)
            (fun () -> "they are no shares of one whole")

        Array.init members[0].Length (fun row ->
            Array.init classes (fun c ->
                let each = members |> Seq.map (fun rows -> rows[row])
                Seq.fold2 (fun sum weight (p: float[]) -> sum + weight * p[c]) 0.0 weights each)
            |> Simplex.normalise)
