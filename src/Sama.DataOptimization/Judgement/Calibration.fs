namespace Sama.DataOptimization

open System.Runtime.InteropServices

/// The rows whose largest probability lies in one bin.
[<NoComparison>]
type CalibrationBin =
    {
        /// lower end of the bin, exclusive but for the first
        Low: float
        /// upper end of the bin, inclusive
        High: float
        /// rows in it
        Count: int
        /// their mean largest probability; 0 in an empty bin
        Confidence: float
        /// share of them whose most probable class is the label; 0 in an empty bin
        Accuracy: float
    }

/// Whether probabilities mean what they say.
[<AbstractClass; Sealed>]
type Calibration =

    /// Temperatures that are looked at, from e⁻³ to e³, and what is believed of them: log T ~ N(0, 0.7²).
    static let temperatures =
        [| for step in -150 .. 150 ->
               let log = 0.02 * float step
               struct (exp log, log * log / (2.0 * 0.7 * 0.7)) |]

    static member private Checked(probabilities: float[][], labels: int[]) =
        let classes = Check.probabilities (nameof probabilities) probabilities
        Check.labels (nameof labels) classes probabilities.Length labels

    /// Rows by their largest probability, in bins of equal width over 0 .. 1: the reliability diagram.
    /// ArgumentException for probabilities that do not sum to 1, a label outside the classes, or no bins.
    static member Bins
        (probabilities: float[][], labels: int[], [<Optional; DefaultParameterValue(15)>] bins: int)
        : CalibrationBin[] =
        Calibration.Checked(probabilities, labels)
        Check.that (nameof bins) (bins > 0) (fun () -> $"{bins} bins")

        let rows =
            Array.map2
                (fun (p: float[]) y ->
                    let top = Simplex.argmax p
                    p[top], (if top = y then 1.0 else 0.0))
                probabilities
                labels

        let low bin = float bin / float bins

        // by the ends that the bins have: a product rounds beside them
        let place (confidence: float) =
            let near = max 0 (min (bins - 1) (int (ceil (confidence * float bins)) - 1))

            if near > 0 && confidence <= low near then
                near - 1
            elif near < bins - 1 && confidence > low (near + 1) then
                near + 1
            else
                near

        let held = rows |> Array.groupBy (fst >> place) |> dict

        Array.init bins (fun bin ->
            let inside =
                match held.TryGetValue bin with
                | true, inside -> inside
                | _ -> [||]

            let mean part =
                if inside.Length = 0 then
                    0.0
                else
                    Array.averageBy part inside

            { Low = low bin
              High = low (bin + 1)
              Count = inside.Length
              Confidence = mean fst
              Accuracy = mean snd })

    /// Expected calibration error (Guo et al., 2017): Σ over bins of (count / n) · |accuracy − confidence|, in 0 .. 1.
    /// ArgumentException as for `Bins`.
    static member ExpectedError
        (probabilities: float[][], labels: int[], [<Optional; DefaultParameterValue(15)>] bins: int)
        : float =
        Calibration.Bins(probabilities, labels, bins)
        |> Array.sumBy (fun bin -> float bin.Count / float labels.Length * abs (bin.Accuracy - bin.Confidence))

    /// Brier score of several classes: mean over rows of Σ (p_c − [c = label])², in 0 .. 2. ArgumentException as for
    /// `Bins`.
    static member Brier(probabilities: float[][], labels: int[]) : float =
        Calibration.Checked(probabilities, labels)

        Array.map2
            (fun (p: float[]) y ->
                p
                |> Array.mapi (fun c p -> pown (p - (if c = y then 1.0 else 0.0)) 2)
                |> Array.sum)
            probabilities
            labels
        |> Array.average

    /// −log of the label's probability of every row, in nats. A probability below `floor` counts as `floor`, so that
    /// one row cannot decide. ArgumentException as for `Bins`, or if `floor` is not in (0, 1).
    static member LogLosses
        (probabilities: float[][], labels: int[], [<Optional; DefaultParameterValue(1e-4)>] floor: float)
        : float[] =
        Calibration.Checked(probabilities, labels)
        Check.that (nameof floor) (floor > 0.0 && floor < 1.0) (fun () -> $"{floor} is not in (0, 1)")
        Array.map2 (fun (p: float[]) y -> -log(max floor p[y])) probabilities labels

    /// −log of the label's probability at each temperature, [temperature][row].
    static member private AtTemperatures(probabilities: float[][], labels: int[]) : float[][] =
        let logs = probabilities |> Array.map (Array.map (fun p -> log (max 1e-30 p)))

        [| for struct (temperature, _) in temperatures ->
               Array.map2
                   (fun (row: float[]) y ->
                       let scaled = row |> Array.map (fun l -> l / temperature)
                       Simplex.logSumExp scaled - scaled[y])
                   logs
                   labels |]

    /// The temperature of the least Σ losses + belief.
    static member private Best(sums: float[]) : int =
        let score i =
            let struct (_, belief) = temperatures[i]
            sums[i] + belief

        Seq.minBy score (seq { 0 .. temperatures.Length - 1 })

    /// The temperature T at which p^(1/T), normalised, suits the labels (Guo et al., 2017): the mode of its likelihood
    /// with log T ~ N(0, 0.7²), to 0.02 in log T; below 1 for a model that is too unsure. ArgumentException as for `Bins`.
    static member Temperature(probabilities: float[][], labels: int[]) : float =
        Calibration.Checked(probabilities, labels)
        let sums = Calibration.AtTemperatures(probabilities, labels) |> Array.map Array.sum
        let struct (temperature, _) = temperatures[Calibration.Best sums]
        temperature

    /// −log of the label's probability of every row in nats, at the temperature that suits the *other* rows: what a model
    /// knows, apart from how sure it is. Bounded as by `LogLosses`. ArgumentException as for `Bins`.
    static member CalibratedLosses(probabilities: float[][], labels: int[]) : float[] =
        Calibration.Checked(probabilities, labels)
        let losses = Calibration.AtTemperatures(probabilities, labels)
        let sums = losses |> Array.map Array.sum

        Array.init labels.Length (fun row ->
            let others = Array.mapi (fun i sum -> sum - losses[i][row]) sums
            let best = Calibration.Best others
            min (-log 1e-4) (losses[best][row]))
