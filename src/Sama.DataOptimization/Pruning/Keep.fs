namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// Which rows are kept: scores to sorted row numbers. The same seed gives the same rows.
[<AbstractClass; Sealed>]
type Keep =

    /// How many of n rows a share is: the nearest number, at least 1.
    static member private Count (share: float) (rows: int) =
        max 1 (int (Math.Round(share * float rows, MidpointRounding.AwayFromZero)))

    /// A total shared out to groups in proportion to their sizes, by largest remainders, the larger group first; the
    /// lower index of equal ones.
    static member private Apportion (total: int) (sizes: int[]) =
        let rows = Array.sum sizes
        let exact = sizes |> Array.map (fun size -> float total * float size / float rows)
        let parts = exact |> Array.map (floor >> int)

        Array.init sizes.Length id
        |> Array.sortBy (fun group -> struct (float parts[group] - exact[group], -sizes[group], group))
        |> Array.truncate (total - Array.sum parts)
        |> Array.iter (fun group -> parts[group] <- parts[group] + 1)

        parts

    static member private Take (share: float) (order: int[]) (labels: int[]) =
        let kept =
            if isNull labels then
                Array.truncate (Keep.Count share order.Length) order
            else
                let groups = order |> Array.groupBy (fun row -> labels[row]) |> Array.sortBy fst

                let parts =
                    groups
                    |> Array.map (fun (_, rows) -> rows.Length)
                    |> Keep.Apportion(Keep.Count share order.Length)

                Array.map2 (fun (_, rows) part -> Array.truncate part rows) groups parts
                |> Array.concat

        Array.sort kept

    /// The share of rows with the highest scores, or the lowest. Equal scores, and so duplicates, are decided by the
    /// seed. With `labels` each class keeps its share of all. Infinite scores are ordinary. ArgumentException for no
    /// rows, a score that is not a number, a share outside (0, 1] or another number of labels.
    static member ByScore
        (
            scores: float[],
            share: float,
            [<Optional; DefaultParameterValue(true)>] highest: bool,
            [<Optional; DefaultParameterValue(null: int[])>] labels: int[],
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : int[] =
        Check.nonEmpty (nameof scores) scores
        Check.notNan (nameof scores) scores
        Check.share (nameof share) share

        if not (isNull labels) then
            Check.length (nameof labels) scores.Length labels

        let order =
            Seeded.order seed scores.Length
            |> Array.toList
            |> List.sortBy (fun row -> if highest then -scores[row] else scores[row])
            |> Array.ofList

        Keep.Take share order labels

    /// A random share of the rows. With `labels` each class keeps its share of all. ArgumentException for no rows, a share
    /// outside (0, 1] or another number of labels.
    static member AtRandom
        (
            rows: int,
            share: float,
            [<Optional; DefaultParameterValue(null: int[])>] labels: int[],
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : int[] =
        Check.that (nameof rows) (rows > 0) (fun () -> $"{rows} rows")
        Check.share (nameof share) share

        if not (isNull labels) then
            Check.length (nameof labels) rows labels

        Keep.Take share (Seeded.order seed rows) labels

    /// Rows to keep in each stratum: the budget is shared out from the smallest stratum up, each taking all its rows or an
    /// equal part of what is left.
    static member private Budgets (sizes: int[]) (budget: int) =
        let parts = Array.zeroCreate sizes.Length

        Array.init sizes.Length id
        |> Array.sortBy (fun stratum -> struct (sizes[stratum], stratum))
        |> Array.fold
            (fun (left, strata) stratum ->
                parts[stratum] <- min sizes[stratum] (left / strata)
                left - parts[stratum], strata - 1)
            (budget, sizes.Length)
        |> ignore

        parts

    /// Coverage-centric selection (CCS, Zheng et al., ICLR 2023): the share `hardCutoff` β of all rows that are hardest is
    /// cut off, the rest fall in `strata` strata of equal width between its least and largest score; the budget
    /// share · n is shared out from the stratum of fewest rows up, each giving all its rows or an equal part of what is
    /// left, and rows are drawn at random in their stratum. `highestIsHardest` tells which end is cut: true for EL2N,
    /// GraNd and forgetting, false for the area under the margin. Rows of infinite score have to be among those cut
    /// off. ArgumentException for no rows, a score that is not a number, a share outside (0, 1], β outside [0, 1) or
    /// with share + β > 1, or infinite scores that remain.
    static member CoverageCentric
        (
            scores: float[],
            share: float,
            [<Optional; DefaultParameterValue(0.0)>] hardCutoff: float,
            [<Optional; DefaultParameterValue(50)>] strata: int,
            [<Optional; DefaultParameterValue(true)>] highestIsHardest: bool,
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : int[] =
        Check.nonEmpty (nameof scores) scores
        Check.notNan (nameof scores) scores
        Check.share (nameof share) share

        Check.that (nameof hardCutoff) (hardCutoff >= 0.0 && hardCutoff < 1.0) (fun () ->
            $"{hardCutoff} is not in [0, 1)")

        Check.that (nameof strata) (strata > 0) (fun () -> $"{strata} strata")
        let budget = Keep.Count share scores.Length
        let cut = int (floor (hardCutoff * float scores.Length))

        Check.that (nameof hardCutoff) (budget + cut <= scores.Length) (fun () ->
            $"{budget} of {scores.Length} rows cannot be kept where {cut} are cut off")

        let hardness row =
            if highestIsHardest then -scores[row] else scores[row]

        let rest =
            Seeded.order seed scores.Length
            |> Array.toList
            |> List.sortBy hardness
            |> List.skip cut
            |> Array.ofList

        let left = rest |> Array.map (fun row -> scores[row])

        Check.that (nameof scores) (left |> Array.forall Double.IsFinite) (fun () ->
            "infinite scores remain beyond the cutoff: raise hardCutoff")

        let least, most = Array.min left, Array.max left

        let stratum row =
            if most = least then
                0
            else
                min (strata - 1) (int ((scores[row] - least) / (most - least) * float strata))

        let inside =
            Array.init strata (fun s -> rest |> Array.filter (fun row -> stratum row = s))

        let parts = Keep.Budgets (Array.map Array.length inside) budget
        let random = Seeded.random seed 1

        Array.map2
            (fun rows part ->
                let rows = Array.sort rows
                random.Shuffle rows
                Array.truncate part rows)
            inside
            parts
        |> Array.concat
        |> Array.sort
