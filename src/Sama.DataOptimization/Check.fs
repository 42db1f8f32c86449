namespace Sama.DataOptimization

open System
open System.Collections.Generic

/// Arguments that are not what a function asks for; every message names the argument, the row and the reason.
module internal Check =

    let fail (name: string) (message: string) : 'a =
        raise (ArgumentException(message, name))

    let that (name: string) (condition: bool) (message: unit -> string) : unit =
        if not condition then
            fail name (message ())

    let notNull (name: string) (value: 'T) : unit =
        if isNull (box value) then
            raise (ArgumentNullException name)

    /// As many entries as there are rows.
    let length (name: string) (rows: int) (values: IReadOnlyCollection<'T>) : unit =
        notNull name values
        that name (values.Count = rows) (fun () -> $"{values.Count} entries for {rows} rows")

    let nonEmpty (name: string) (values: IReadOnlyCollection<'T>) : unit =
        notNull name values
        that name (values.Count > 0) (fun () -> "there are no rows")

    let finite (name: string) (values: float[]) : unit =
        values
        |> Array.iteri (fun row value ->
            that name (Double.IsFinite value) (fun () -> $"row {row}: {value} is not finite"))

    let notNan (name: string) (values: float[]) : unit =
        values
        |> Array.iteri (fun row value -> that name (not (Double.IsNaN value)) (fun () -> $"row {row} is not a number"))

    /// A share in (0, 1].
    let share (name: string) (value: float) : unit =
        that name (value > 0.0 && value <= 1.0) (fun () -> $"{value} is not a share in (0, 1]")

    /// A number that is finite and not below the least one.
    let least (name: string) (minimum: float) (value: float) : unit =
        that name (Double.IsFinite value && value >= minimum) (fun () ->
            $"{value} is not a finite number from {minimum} up")

    /// Rows of one width, all finite; the width.
    let matrix (name: string) (values: float[][]) : int =
        nonEmpty name values
        notNull $"{name}[0]" values[0]
        let width = values[0].Length
        that name (width > 0) (fun () -> "row 0 is empty")

        values
        |> Array.iteri (fun row entries ->
            notNull $"{name}[{row}]" entries

            that name (entries.Length = width) (fun () ->
                $"row {row} has {entries.Length} entries, the first row has {width}")

            for entry in entries do
                that name (Double.IsFinite entry) (fun () -> $"row {row}: {entry} is not finite"))

        width

    /// Rows of probabilities over at least two classes, each summing to 1 within float32's rounding; the classes.
    let probabilities (name: string) (values: float[][]) : int =
        let classes = matrix name values
        that name (classes > 1) (fun () -> "probabilities of at least two classes are expected")

        values
        |> Array.iteri (fun row entries ->
            that name (entries |> Array.forall (fun p -> p >= 0.0)) (fun () -> $"row {row}: a probability is negative")
            let sum = Array.sum entries
            that name (abs (sum - 1.0) < 1e-3) (fun () -> $"row {row}: the probabilities sum to {sum}, not to 1"))

        classes

    /// One class of 0 .. classes − 1 a row.
    let labels (name: string) (classes: int) (rows: int) (values: int[]) : unit =
        length name rows values

        values
        |> Array.iteri (fun row label ->
            that name (label >= 0 && label < classes) (fun () ->
                $"row {row}: label {label} is not one of the {classes} classes 0 to {classes - 1}"))

    /// One class a row, or -1 where it is unknown.
    let known (name: string) (classes: int) (rows: int) (values: int[]) : unit =
        length name rows values

        values
        |> Array.iteri (fun row label ->
            that name (label >= -1 && label < classes) (fun () ->
                $"row {row}: label {label} is neither -1 nor one of the {classes} classes 0 to {classes - 1}"))

    /// Rows of one vote a rule, -1 where the rule abstains; the rules.
    let votes (name: string) (classes: int) (values: int[][]) : int =
        nonEmpty name values
        that "classes" (classes > 1) (fun () -> $"{classes} classes: at least two are expected")
        notNull $"{name}[0]" values[0]
        let rules = values[0].Length
        that name (rules > 0) (fun () -> "row 0 has no votes")

        values
        |> Array.iteri (fun row entries ->
            notNull $"{name}[{row}]" entries

            that name (entries.Length = rules) (fun () ->
                $"row {row} has {entries.Length} votes, the first row has {rules}")

            for rule in 0 .. rules - 1 do
                let vote = entries[rule]

                that name (vote >= -1 && vote < classes) (fun () ->
                    $"row {row}, rule {rule}: vote {vote} is neither -1 nor one of the {classes} classes"))

        rules

/// The same random numbers for the same seed, in every process.
module internal Seeded =

    /// A generator for a seed and a stream of it, mixed (SplitMix64): .NET's own of neighbouring seeds are related.
    let random (seed: int) (stream: int) : Random =
        let mix (z: uint64) =
            let z = z + 0x9E3779B97F4A7C15UL
            let z = (z ^^^ (z >>> 30)) * 0xBF58476D1CE4E5B9UL
            let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
            z ^^^ (z >>> 31)

        Random(int (mix (mix (uint64 (uint32 seed)) + uint64 (uint32 stream)) >>> 33))

    /// 0 .. count − 1 in a random order.
    let order (seed: int) (count: int) : int[] =
        let rows = Array.init count id
        (random seed 0).Shuffle rows
        rows

/// Arithmetic on rows of classes.
module internal Simplex =

    /// The first index of the largest entry.
    let argmax (values: float[]) : int =
        let mutable best = 0

        for i in 1 .. values.Length - 1 do
            if values[i] > values[best] then
                best <- i

        best

    let normaliseInPlace (values: float[]) : unit =
        let sum = Array.sum values

        for i in 0 .. values.Length - 1 do
            values[i] <- values[i] / sum

    let normalise (values: float[]) : float[] =
        let shares = Array.copy values
        normaliseInPlace shares
        shares

    /// log Σ exp, without overflow.
    let logSumExp (values: float[]) : float =
        let most = Array.max values

        if Double.IsInfinity most then
            most
        else
            most + log (Array.sumBy (fun value -> exp (value - most)) values)

    let softmax (scores: float[]) : float[] =
        let total = logSumExp scores
        Array.map (fun score -> exp (score - total)) scores

    /// The largest entry but that of `label`.
    let largestOther (label: int) (values: float[]) : float =
        let mutable largest = Double.NegativeInfinity

        for i in 0 .. values.Length - 1 do
            if i <> label && values[i] > largest then
                largest <- values[i]

        largest
