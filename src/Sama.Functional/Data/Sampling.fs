namespace Sama

/// What becomes of the rows that fill no batch at the end of an epoch.
type Remainder =
    /// they are left out of this epoch; the next one shuffles them in again
    | Drop = 0
    /// they make a smaller batch
    | Keep = 1
    /// their batch is filled from the next epoch, which goes on behind it: every batch is full, every row is seen equally
    /// often
    | Wrap = 2

/// How rows become minibatches.
[<NoComparison>]
type Sampling =
    {
        /// rows of a batch on one rank
        Size: int
        /// false: in the order of the rows
        Shuffle: bool
        /// what becomes of the rows that fill no batch
        Remainder: Remainder
        /// processes that share an epoch, each with its own part of every step's rows
        Ranks: int
    }

    /// Shuffled batches of so many rows on one rank, the rest of an epoch left out.
    static member Of(size: int) : Sampling =
        { Size = size
          Shuffle = true
          Remainder = Remainder.Drop
          Ranks = 1 }

namespace Sama.Functional

open System
open Sama

/// Which rows a draw takes: a function of the draw alone. The permutation of an epoch is that of seed, stream and epoch,
/// the same on every rank; step t of the level takes the t-th part of it.
module Sampling =

    /// The next state and number of SplitMix64 (Steele, Lea & Flood 2014).
    let private next (state: uint64) : struct (uint64 * uint64) =
        let state = state + 0x9E3779B97F4A7C15UL
        let z = (state ^^^ (state >>> 30)) * 0xBF58476D1CE4E5B9UL
        let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
        struct (state, z ^^^ (z >>> 31))

    /// Fisher and Yates' shuffle of 0 … count − 1: every order equally likely, up to the generator's 2⁶⁴ states.
    let internal permutation (count: int) (seed: int64) : int[] =
        let order = Array.init count id
        let mutable state = uint64 seed

        for i in count - 1 .. -1 .. 1 do
            let bound = uint64 (i + 1)
            // the lowest numbers are drawn again, which makes what is left a multiple of the bound
            let low = (0UL - bound) % bound
            let mutable drawn = 0UL
            let mutable wanted = true

            while wanted do
                let struct (following, value) = next state
                state <- following
                drawn <- value
                wanted <- value < low

            let j = int (drawn % bound)
            let other = order[j]
            order[j] <- order[i]
            order[i] <- other

        order

    /// Steps of an epoch: each takes `Size` rows on each rank. Under `Wrap` an epoch is no whole number of steps: those
    /// that begin in it.
    let stepsPerEpoch (rows: int64) (sampling: Sampling) : int64 =
        let together = int64 sampling.Size * int64 sampling.Ranks

        match sampling.Remainder with
        | Remainder.Drop -> rows / together
        | _ -> (rows + together - 1L) / together

    let internal require (rows: int64) (sampling: Sampling) : unit =
        let { Size = size; Ranks = ranks } = sampling
        let together = int64 size * int64 ranks

        if rows < 1L || rows > int64 Array.MaxLength then
            invalidArg (nameof rows) $"there are {rows} rows; between 1 and {Array.MaxLength} can be drawn from"

        if size < 1 then
            invalidArg (nameof size) $"a batch of {size} rows is asked for; at least 1 is needed"

        if ranks < 1 then
            invalidArg (nameof ranks) $"{ranks} ranks are to share the rows; at least 1 is needed"

        match sampling.Remainder with
        | Remainder.Drop when rows < together ->
            invalidArg
                (nameof size)
                $"{rows} rows fill no batch of {size} rows on {ranks} ranks: take a smaller size, or Remainder.Keep or Wrap"
        | Remainder.Keep when rows % together > 0L && rows % together < int64 ranks ->
            invalidArg
                (nameof ranks)
                $"the last {rows % together} rows of an epoch cannot be kept on {ranks} ranks, some of which would get none: take Remainder.Drop or Wrap"
        | Remainder.Drop
        | Remainder.Keep
        | Remainder.Wrap -> ()
        | other -> invalidArg (nameof sampling) $"{int other} is no Remainder"

    /// First place and number of places that one rank takes of the endless sequence of epochs (under Drop and Keep: of this
    /// epoch).
    let private part (rows: int64) (sampling: Sampling) (draw: Draw) : struct (int64 * int64 * int) =
        let size, ranks, rank = int64 sampling.Size, int64 sampling.Ranks, int64 draw.Rank
        let together = size * ranks

        match sampling.Remainder with
        | Remainder.Wrap ->
            let first = Checked.(*) draw.Step together + rank * size
            struct (first / rows, first % rows, sampling.Size)
        | _ ->
            let steps = stepsPerEpoch rows sampling
            let epoch, step = draw.Step / steps, draw.Step % steps
            let left = min together (rows - step * together)
            // rows r·left/ranks to (r + 1)·left/ranks: as even as whole numbers are, and all of `size` in a full batch
            let first, last = rank * left / ranks, (rank + 1L) * left / ranks
            struct (epoch, step * together + first, int (last - first))

    /// The rows of each draw. The permutations of the two epochs last asked for are remembered, 4 bytes a row each.
    /// ArgumentException, at once, for a size or number of ranks below 1, rows that fill no batch, and a rest that cannot
    /// be split over the ranks; by the result, for a rank that is none of them.
    let rows (rows: int64) (sampling: Sampling) : Draw -> int64[] =
        require rows sampling

        let remembered =
            Collections.Generic.Queue<struct (struct (int64 * int * int64) * int[])>()

        let order (draw: Draw) (epoch: int64) =
            let key = struct (draw.Seed, draw.Stream, epoch)

            lock remembered (fun () ->
                match remembered |> Seq.tryFind (fun struct (own, _) -> own = key) with
                | Some(struct (_, order)) -> order
                | None ->
                    let seed = { draw with Step = epoch; Rank = 0 }.RandomSeed

                    let order = permutation (int rows) seed

                    if remembered.Count = 2 then
                        remembered.Dequeue() |> ignore

                    remembered.Enqueue(struct (key, order))
                    order)

        fun draw ->
            if draw.Rank < 0 || draw.Rank >= sampling.Ranks then
                invalidArg
                    (nameof draw)
                    $"the draw is of rank {draw.Rank}, the batches are for {sampling.Ranks} ranks: say how many share an epoch (Sampling.Ranks, the communicator's Size)"

            let struct (epoch, first, count) = part rows sampling draw

            Array.init count (fun i ->
                let place = first + int64 i

                if sampling.Shuffle then
                    int64 (order draw (epoch + place / rows)).[int (place % rows)]
                else
                    place % rows)
