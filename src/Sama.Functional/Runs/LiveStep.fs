namespace Sama.Functional

open TorchSharp
open Sama

/// The levels of a run in place, at one base step: what is read of it, and told of it.
[<NoComparison; NoEquality>]
type internal LiveStep =
    {
        Problem: BilevelProblem
        Levels: LevelRun[]
        Vectors: Tensor[]
        /// base steps taken before this one
        Number: int64
        Readings: Readings
        /// a level's batches at this step, fetched once
        Fetch: int -> Micro list
    }

    /// Where all levels are, those of `taken` having stepped.
    member live.PointOf(taken: LevelStep option[]) : Point =
        { Problem = live.Problem
          Before = live.Vectors
          After =
            fun k ->
                match taken[k] with
                | Some step -> step.After()
                | None -> live.Vectors[k]
          Taken = taken }
