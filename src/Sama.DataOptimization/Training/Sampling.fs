namespace Sama.DataOptimization

open System
open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// Which rows a step sees, as functions of the draw.
module internal Sampling =

    let private random (draw: Draw) =
        Random(int (draw.RandomSeed &&& 0x7fffffffL))

    /// `size` of the rows, drawn with replacement.
    let repeated (rows: int[]) (size: int) (draw: Draw) : int[] = (random draw).GetItems(rows, size)

    /// Consecutive pieces of a new permutation every epoch; all rows where there are no more than `size`.
    let epochs (rows: int[]) (size: int) (draw: Draw) : int[] =
        if rows.Length <= size then
            rows
        else
            let perEpoch = int64 (rows.Length / size)
            let order = Array.copy rows

            (random
                { draw with
                    Step = draw.Step / perEpoch })
                .Shuffle
                order

            Array.sub order (int (draw.Step % perEpoch) * size) size

    /// `size` rows, a share of them from `few`, drawn with replacement.
    let joined (rows: int[]) (few: int[]) (share: float) (size: int) (draw: Draw) : int[] =
        let clean =
            if few.Length = 0 || share = 0.0 then
                0
            else
                max 1 (int (round (share * float size)))

        if clean = 0 then
            epochs rows size draw
        else
            Array.append
                (epochs rows (max 1 (size - clean)) draw)
                (repeated few clean { draw with Rank = draw.Rank + 1 })

    /// Of so many rows that a step sees on all ranks together, where this rank's begin and how many they are, and what a mean
    /// over them counts for in the mean over the ranks; all of them on each rank where there are fewer rows than ranks.
    let place (ranks: Communicator) (count: int) : struct (int * int * float) =
        if count < ranks.Size then
            struct (0, count, 1.0)
        else
            let first rank = count * rank / ranks.Size
            let own = first (ranks.Rank + 1) - first ranks.Rank
            struct (first ranks.Rank, own, float (own * ranks.Size) / float count)

    /// A rank's part of the rows that a step sees on all ranks together, and what a mean over it counts for.
    let part (ranks: Communicator) (sample: Draw -> int[]) (draw: Draw) : struct (int[] * float) =
        let rows = sample { draw with Rank = 0 }
        let struct (first, count, share) = place ranks rows.Length
        struct (Array.sub rows first count, share)

    /// A mean over this rank's part, so that the mean over the ranks is that over the rows of all.
    let counted (share: float) (mean: Tensor) : Tensor =
        if share = 1.0 then mean else mean * share

/// Starting values that a scope frees.
module internal Named =

    let into (scope: DisposeScope) (named: IReadOnlyList<struct (string * Tensor)>) : (string * Tensor) list =
        [ for struct (name, value) in named do
              // TorchSharp loses a tensor that is moved to the scope it is in
              name,
              if scope.Contains value then
                  value
              else
                  value.MoveToOtherDisposeScope scope ]
