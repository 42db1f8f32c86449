namespace Sama

open System
open System.Collections.Generic

/// Rows that batches are made of: how many there are, and what some of them are together.
[<Sealed; AllowNullLiteral>]
type RowSource<'batch>(count: int64, take: Func<IReadOnlyList<int64>, 'batch>) =
    do ArgumentNullException.ThrowIfNull(take, nameof take)

    /// Rows, numbered from 0.
    member _.Count = count

    /// The batch of these rows, in this order; a function of them alone.
    member _.Take(rows: IReadOnlyList<int64>) : 'batch = take.Invoke rows

namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// Sources of rows.
module Rows =

    /// Rows by a function of their numbers.
    let create (count: int64) (take: IReadOnlyList<int64> -> 'batch) : RowSource<'batch> =
        RowSource(count, Func<_, _> take)

    /// The same rows, each batch changed.
    let map (f: 'a -> 'b) (rows: RowSource<'a>) : RowSource<'b> = create rows.Count (rows.Take >> f)

    let private length (argument: string) (what: string) (x: Tensor) : int64 =
        if isNull x || x.IsInvalid then
            invalidArg argument $"{what} is null or disposed"

        if x.dim () = 0L then
            invalidArg argument $"{what} is one number: its first axis has to be the rows"

        x.shape[0]

    let private select (rows: IReadOnlyList<int64>) (x: Tensor) : Tensor =
        if x.IsInvalid then
            raise (ObjectDisposedException("the rows", "a tensor of rows was disposed while batches are drawn from it"))

        use index = torch.tensor (Array.ofSeq rows, device = x.device)
        x.index_select (0L, index)

    let private alike (tensors: (string * Tensor) list) : int64 =
        let name, first = tensors.Head
        let count = length "rows" name first

        for other, x in tensors.Tail do
            let own = length "rows" other x

            if own <> count then
                invalidArg "rows" $"{name} has {count} rows, {other} {own}"

        count

    /// The rows of a tensor's first axis; borrowed for as long as batches are drawn. ArgumentException for a number.
    let tensor (x: Tensor) : RowSource<Tensor> =
        create (alike [ "the tensor", x ]) (fun rows -> select rows x)

    /// Rows of two tensors side by side. ArgumentException for tensors of unlike first axes.
    let pair (x: Tensor) (y: Tensor) : RowSource<Tensor * Tensor> =
        create (alike [ "the first tensor", x; "the second", y ]) (fun rows -> select rows x, select rows y)

    /// Rows of three tensors side by side. ArgumentException for tensors of unlike first axes.
    let triple (x: Tensor) (y: Tensor) (z: Tensor) : RowSource<Tensor * Tensor * Tensor> =
        create (alike [ "the first tensor", x; "the second", y; "the third", z ]) (fun rows ->
            select rows x, select rows y, select rows z)

    /// Rows of named tensors side by side. ArgumentException for none, and for tensors of unlike first axes.
    let named (tensors: IReadOnlyDictionary<string, Tensor>) : RowSource<IReadOnlyDictionary<string, Tensor>> =
        if tensors.Count = 0 then
            invalidArg (nameof tensors) "no tensor is given"

        let all = [ for item in tensors -> item.Key, item.Value ]

        create (alike [ for name, x in all -> $"'{name}'", x ]) (fun rows ->
            let batch = Dictionary<string, Tensor>()

            for name, x in all do
                batch[name] <- select rows x

            batch :> IReadOnlyDictionary<_, _>)

    /// Items of a list or array, which batches are arrays of.
    let list (items: IReadOnlyList<'row>) : RowSource<'row[]> =
        create (int64 items.Count) (fun rows -> [| for row in rows -> items[int row] |])

    /// Rows that a function gives one by one, collated to a batch. What it makes for a row dies with the step.
    let each (count: int64) (getRow: int64 -> 'row) (collate: IReadOnlyList<'row> -> 'batch) : RowSource<'batch> =
        create count (fun rows -> collate [| for row in rows -> getRow row |])

/// Rows put together to batches.
module Collate =

    let private requireSome (rows: IReadOnlyList<Tensor>) =
        if isNull rows || rows.Count = 0 then
            invalidArg (nameof rows) "there is no row to put together"

    /// Rows of one shape, stacked along a new first axis. ArgumentException naming the first row of another shape.
    let stack (rows: IReadOnlyList<Tensor>) : Tensor =
        requireSome rows

        for i in 1 .. rows.Count - 1 do
            if rows[i].shape <> rows[0].shape then
                let shown (x: Tensor) = String.Join("x", x.shape)
                invalidArg (nameof rows) $"row {i} is [{shown rows[i]}], row 0 [{shown rows[0]}]: pad them"

        torch.stack (Array.ofSeq rows)

    /// Rows of unlike first axes, each filled with `value` behind its end to the longest, stacked; and their lengths
    /// (int64). ArgumentException where other axes differ.
    let padded (value: float) (rows: IReadOnlyList<Tensor>) : Tensor * Tensor =
        requireSome rows
        let first = rows[0]
        let longest = rows |> Seq.map (fun row -> row.shape[0]) |> Seq.max
        let shape = Array.append [| int64 rows.Count; longest |] first.shape[1..]

        let batch =
            torch.full (shape, Scalar.op_Implicit value, dtype = first.dtype, device = first.device)

        for i in 0 .. rows.Count - 1 do
            let row = rows[i]

            if row.shape[1..] <> first.shape[1..] then
                let shown (x: Tensor) = String.Join("x", x.shape)

                invalidArg
                    (nameof rows)
                    $"row {i} is [{shown row}], row 0 [{shown first}]: only the first axis is padded"

            use place = batch.select(0L, int64 i).narrow (0L, 0L, row.shape[0])
            place.copy_ row |> ignore

        batch, torch.tensor ([| for row in rows -> row.shape[0] |], device = first.device)
