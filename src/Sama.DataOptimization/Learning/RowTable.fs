namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// What learners know of some rows: constants, of one device. Probabilities and marks are of the table's floating type,
/// numbers int64.
[<NoComparison; NoEquality>]
type RowBatch =
    {
        /// the rows' numbers in their table: [rows]
        Rows: Tensor
        /// the given labels: [rows]
        Labels: Tensor
        /// the given labels as distributions, one-hot unless soft ones were given: [rows, classes]
        Given: Tensor
        /// 1 where the given label is known to be right, else 0: [rows]
        Known: Tensor
        /// one class a rule, -1 where it abstains: [rows, rules]; null without rules
        Votes: Tensor
        /// where a row comes from, 0 on: [rows]; null if that is not told
        Sources: Tensor
        /// numbers of the terms of a text, -1 behind its last one: [rows, terms]; null if that is not told
        Terms: Tensor
    }

    /// How many rows.
    member batch.Count = int batch.Rows.shape[0]

/// Labels and what else is known of rows, held on one device, from which batches are cut; `dtype` is the model's.
[<Sealed>]
type RowTable
    (
        classes: int,
        labels: int[],
        [<Optional; DefaultParameterValue(null: float[][])>] given: float[][],
        [<Optional; DefaultParameterValue(null: bool[])>] known: bool[],
        [<Optional; DefaultParameterValue(null: int[][])>] votes: int[][],
        [<Optional; DefaultParameterValue(null: int[])>] sources: int[],
        [<Optional; DefaultParameterValue(null: int[][])>] terms: int[][],
        [<Optional; DefaultParameterValue(null: torch.Device)>] device: torch.Device,
        [<Optional; DefaultParameterValue(torch.ScalarType.Float32)>] dtype: torch.ScalarType
    ) =
    do
        Check.nonEmpty (nameof labels) labels
        Check.that (nameof classes) (classes > 1) (fun () -> $"{classes} classes: at least two are expected")
        Check.labels (nameof labels) classes labels.Length labels

        if not (isNull given) then
            Check.length (nameof given) labels.Length given

            Check.that (nameof given) (Check.probabilities (nameof given) given = classes) (fun () ->
                $"{given[0].Length} classes, {classes} are expected")

        if not (isNull known) then
            Check.length (nameof known) labels.Length known

        if not (isNull votes) then
            Check.length (nameof votes) labels.Length votes
            Check.votes (nameof votes) classes votes |> ignore

        if not (isNull sources) then
            Check.length (nameof sources) labels.Length sources
            Check.that (nameof sources) (Array.forall (fun s -> s >= 0) sources) (fun () -> "sources count from 0")

        if not (isNull terms) then
            Check.length (nameof terms) labels.Length terms

            for row in 0 .. terms.Length - 1 do
                Check.notNull $"terms[{row}]" terms[row]

                Check.that (nameof terms) (Array.forall (fun t -> t >= 0) terms[row]) (fun () ->
                    $"row {row}: terms count from 0")

    let device = if isNull device then torch.CPU else device
    let count = labels.Length

    let hold (tensor: Tensor) : Tensor = tensor.DetachFromDisposeScope()

    let numbers (values: int[]) : Tensor =
        hold (torch.tensor (Array.map int64 values, device = device))

    let matrix (values: int[][]) : Tensor =
        let flat = values |> Array.collect (Array.map int64)
        hold (torch.tensor(flat, device = device).view (int64 values.Length, -1L))

    let labelTensor = numbers labels

    /// Null where the labels are: they are spread over the classes batch by batch, for rows times classes may be many.
    let givenTensor =
        use _ = torch.NewDisposeScope()

        if isNull given then
            null
        else
            let flat = given |> Array.collect (Array.map float32)
            hold (torch.tensor(flat, dtype = dtype, device = device).view (int64 count, int64 classes))

    let oneHot (labels: Tensor) : Tensor =
        use at = labels.unsqueeze 1L
        use ones = torch.ones_like (at, dtype = dtype)

        let spread =
            torch.zeros (labels.shape[0], int64 classes, dtype = dtype, device = device)

        spread.scatter_ (1L, at, ones) |> ignore
        spread

    let knownTensor =
        let mark row =
            if not (isNull known) && known[row] then 1f else 0f

        hold (torch.tensor (Array.init count mark, dtype = dtype, device = device))

    let votesTensor =
        use _ = torch.NewDisposeScope()
        if isNull votes then null else matrix votes

    let sourcesTensor = if isNull sources then null else numbers sources

    let held =
        [ labelTensor; givenTensor; knownTensor; votesTensor; sourcesTensor ]
        |> List.filter (isNull >> not)

    let termsOf (rows: int[]) : Tensor =
        let width = rows |> Array.fold (fun most row -> max most terms[row].Length) 1

        let padded row =
            Array.init width (fun i -> if i < terms[row].Length then int64 (terms[row][i]) else -1L)

        torch.tensor(Array.collect padded rows, device = device).view (int64 rows.Length, int64 width)

    /// How many classes there are.
    member _.Classes = classes

    /// How many rows there are.
    member _.Count = count

    /// How many rules vote; 0 without votes.
    member _.Rules = if isNull votes then 0 else votes[0].Length

    /// How many sources there are; 0 if they are not told.
    member _.Sources = if isNull sources then 0 else Array.max sources + 1

    /// The given labels.
    member _.Labels = Array.copy labels

    /// The votes by row and rule; null without rules.
    member _.Votes = votes

    /// What is known of some rows, in the order asked for; the tensors belong to the caller's scope. ArgumentException for
    /// no rows or a row that is not there, ObjectDisposedException.
    member _.At(rows: int[]) : RowBatch =
        ObjectDisposedException.ThrowIf(labelTensor.IsInvalid, typeof<RowTable>)
        Rows.Require(rows, count)
        let index = torch.tensor (Array.map int64 rows, device = device)

        let pick (tensor: Tensor) =
            if isNull tensor then
                null
            else
                tensor.index_select (0L, index)

        let own = pick labelTensor

        { Rows = index
          Labels = own
          Given = (if isNull given then oneHot own else pick givenTensor)
          Known = pick knownTensor
          Votes = pick votesTensor
          Sources = pick sourcesTensor
          Terms = if isNull terms then null else termsOf rows }

    interface IDisposable with
        /// Frees its tensors; batches keep theirs.
        member _.Dispose() =
            for tensor in held do
                tensor.Dispose()
