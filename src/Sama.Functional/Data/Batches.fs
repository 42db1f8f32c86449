namespace Sama.Functional

open System
open System.Collections.Generic
open Sama

/// Sources of batches for levels: functions of the draw alone, so that a run resumes by the number of its step, and a
/// window's batches can be fetched again.
module Batches =

    /// Batches of these rows. ArgumentException as `Sampling.rows`.
    let create (sampling: Sampling) (rows: RowSource<'batch>) : Draw -> 'batch =
        let pick = Sampling.rows rows.Count sampling
        fun draw -> rows.Take(pick draw)

    /// Batches of `size` rows without replacement, in a new order every epoch; what fills no batch waits for the next.
    let shuffled (rows: RowSource<'batch>) (size: int) : Draw -> 'batch = create (Sampling.Of size) rows

    /// Batches of `size` rows in their order, the last one smaller: to evaluate.
    let inOrder (rows: RowSource<'batch>) (size: int) : Draw -> 'batch =
        create
            { Sampling.Of size with
                Shuffle = false
                Remainder = Remainder.Keep }
            rows

    /// Batch number `step mod count` of a list, which is borrowed. ArgumentException for an empty list.
    let cycle (batches: IReadOnlyList<'batch>) : Draw -> 'batch =
        if batches.Count = 0 then
            invalidArg (nameof batches) "no batch is given"

        fun draw -> batches[int (draw.Step % int64 batches.Count)]

    /// The next item of a sequence at every draw, from its beginning when it ends. What that costs: a run resumed later sees
    /// other batches, and a state inside a window cannot become a checkpoint.
    let stream (batches: 'batch seq) : Draw -> 'batch = BatchStream(batches).Next
