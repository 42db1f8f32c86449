/// What the tables report.
module NoisyText.Statistics

open System

/// Probability that a right label outweighs a wrong one, ties counted half; None if there are not both.
let auroc (weights: float[]) (right: bool[]) : float option =
    let positives = right |> Array.filter id |> Array.length |> float
    let negatives = float right.Length - positives

    let _, won =
        Array.zip weights right
        |> Array.sortBy fst
        |> Array.groupBy fst
        |> Array.fold
            (fun (below, won) (_, tied) ->
                let up = tied |> Array.filter snd |> Array.length |> float
                let down = float tied.Length - up
                below + down, won + up * (below + down / 2.0))
            (0.0, 0.0)

    if positives * negatives > 0.0 then
        Some(won / (positives * negatives))
    else
        None

/// A mean and its central 95 % bootstrap interval.
type Interval =
    { Mean: float; Low: float; High: float }

/// Mean difference of two methods' right answers, `[seed][row]`, paired: seeds and rows are drawn again, with
/// replacement, the same for both (percentile bootstrap; Efron and Tibshirani, 1993).
let pairedGain (better: bool[] list) (worse: bool[] list) : Interval =
    let number (answer: bool) = if answer then 1.0 else 0.0

    let differences =
        List.map2 (Array.map2 (fun a b -> number a - number b)) better worse
        |> Array.ofList

    let rows = differences[0].Length
    let random = Random 0

    let again _ =
        let rows = Array.init rows (fun _ -> random.Next rows)

        Seq.init differences.Length (fun _ -> differences[random.Next differences.Length])
        |> Seq.averageBy (fun seed -> rows |> Array.averageBy (fun row -> seed[row]))

    let sorted = Array.init 2000 again |> Array.sort

    { Mean = differences |> Array.averageBy Array.average
      Low = sorted[49]
      High = sorted[1949] }
