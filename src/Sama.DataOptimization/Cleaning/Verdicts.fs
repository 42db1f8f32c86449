namespace Sama.DataOptimization

open System
open System.Globalization

/// What is said of each row: labels from the mean of what the corrections and the chosen model give it.
module internal Verdicts =

    let private mean (rows: float[] list) : float[] =
        List.reduce (Array.map2 (+)) rows
        |> Array.map (fun sum -> sum / float rows.Length)

    let private percent (share: float) =
        (100.0 * share).ToString("F0", CultureInfo.InvariantCulture) + " %"

    let private why classes (data: CleaningData) row (out: float[]) (weight: float) (believed: float[]) : string =
        let label = data.Labels[row]
        let corrected = Simplex.argmax believed
        let name (c: int) : string = Array.get classes c

        let votes =
            if isNull data.Votes then
                ""
            else
                let cast = data.Votes[row] |> Array.filter (fun vote -> vote >= 0)

                let count c =
                    cast |> Array.filter ((=) c) |> Array.length

                if cast.Length = 0 then
                    "; no rule votes"
                elif corrected = label then
                    $"; {count label} of {cast.Length} votes for it"
                else
                    $"; {count label} of {cast.Length} votes for it, {count corrected} for {name corrected}"

        let seen =
            $"a model that has not seen it gives {name label} {percent out[label]}"
            + (if corrected = label then
                   ""
               else
                   $", {name corrected} {percent out[corrected]}")

        let start =
            if corrected = label then
                $"{name label} stays ({percent believed[label]})"
            else
                $"{name corrected} ({percent believed[corrected]}) instead of {name label} ({percent believed[label]})"

        let weight = weight.ToString("F2", CultureInfo.InvariantCulture)
        $"{start}: {seen}{votes}; learned weight {weight}"

    /// One verdict a row. `targets` and `weights` are those that SAMA learned on each fold, if it did, `predicted` the chosen model's probabilities.
    let ofRows
        (classes: string[])
        (data: CleaningData)
        (outOfFold: float[][])
        (targets: float[][] list)
        (weights: float[] list)
        (predicted: float[][])
        : RowVerdict[] =
        Array.init data.Train (fun row ->
            let label = data.Labels[row]
            let learned = [ for fold in targets -> fold[row] ]

            let believed =
                mean
                    [ if not learned.IsEmpty then
                          mean learned
                      predicted[row]
                      outOfFold[row] ]

            let corrected = Simplex.argmax believed

            let weight =
                if weights.IsEmpty then
                    believed[label]
                else
                    weights |> List.averageBy (fun fold -> fold[row])

            { Row = row
              Label = label
              Quality = believed[label]
              Weight = weight
              Corrected = corrected
              Confidence = believed[corrected]
              Why = why classes data row outOfFold[row] weight believed })
