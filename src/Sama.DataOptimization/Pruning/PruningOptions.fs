namespace Sama.DataOptimization

open System
open System.Threading
open Sama

/// How a pruning trains, for its scores and afterwards.
[<Sealed; AllowNullLiteral>]
type PruningOptions() =
    /// Fixes batches, masks, starting values and ties.
    member val Seed = 0 with get, set

    /// Epochs of a full training; a training on kept rows goes as often through these.
    member val Epochs = 20 with get, set

    /// The share of a full training's steps after which rows are scored by methods that look early.
    member val SearchShare = 0.15 with get, set

    /// The share of a full training's steps that each short training takes by which `judged-` methods judge which rows are
    /// kept; there are four.
    member val JudgeShare = 0.04 with get, set

    /// Rows a step.
    member val Batch = 64 with get, set

    /// Rate of Adam; null: the model's.
    member val Rate = Nullable<float>() with get, set

    /// Base steps a meta step, under SAMA.
    member val Unroll = 2 with get, set

    /// Rows a meta step.
    member val MetaBatch = 64 with get, set

    /// Rate of Adam of the net that weighs rows.
    member val MetaRate = 1e-2 with get, set

    /// Rate of Adam of one weight a row, of which a step moves few.
    member val RowRate = 1e-1 with get, set

    /// α of SAMA's perturbation.
    member val Alpha = 1e-2 with get, set

    /// The last share of a search over which SAMA's weights are averaged.
    member val Window = 0.5 with get, set

    /// A folder for what is trained, which a later call with the same data and options goes on from; null: none.
    member val StateFolder: string = null with get, set

    /// What the state belongs to beside labels and options: texts, images, the model's name.
    member val Identity = "" with get, set

    /// The ranks that share every batch (`Ranks.start`), all of which prune the same data with the same options; alone, this
    /// process. Rank 0 writes the state folder. A net's weights of rows are relative to a rank's part of a batch.
    member val Ranks = Communicator.Single with get, set

    /// Told of every tenth step; null: nobody.
    member val Progress: IProgress<StageProgress> = null with get, set

    /// How many stages are going to be asked for, for what `Progress` is told.
    member val Stages = 1 with get, set

    /// Stops at the next step, by an OperationCanceledException.
    member val Cancellation = CancellationToken.None with get, set

    /// OperationCanceledException on every rank where one is cancelled.
    member internal options.StopIfCancelled() : unit =
        Together.stopIfCancelled options.Ranks options.Cancellation

    /// ArgumentException, naming it, for an option that is out of range.
    member options.Validate() : unit =
        let positive name (value: float) =
            Check.that name (value > 0.0 && Double.IsFinite value) (fun () -> $"{value} is not a positive number")

        let atLeast name (value: int) =
            Check.that name (value >= 1) (fun () -> $"{value} is below 1")

        atLeast (nameof options.Epochs) options.Epochs
        atLeast (nameof options.Batch) options.Batch
        atLeast (nameof options.Unroll) options.Unroll
        atLeast (nameof options.MetaBatch) options.MetaBatch
        atLeast (nameof options.Stages) options.Stages
        positive (nameof options.MetaRate) options.MetaRate
        positive (nameof options.RowRate) options.RowRate
        positive (nameof options.Alpha) options.Alpha
        Check.share (nameof options.SearchShare) options.SearchShare
        Check.share (nameof options.JudgeShare) options.JudgeShare
        Check.share (nameof options.Window) options.Window
        Check.notNull (nameof options.Identity) options.Identity
        Check.notNull (nameof options.Ranks) options.Ranks

        if options.Rate.HasValue then
            positive (nameof options.Rate) options.Rate.Value

    /// Everything that what is trained depends on.
    member internal o.Text =
        $"seed {o.Seed}, epochs {o.Epochs}, search {o.SearchShare}, judging {o.JudgeShare}, batch {o.Batch} and {o.MetaBatch}, rates {o.Rate}, {o.MetaRate}, {o.RowRate}, unroll {o.Unroll}, alpha {o.Alpha}, window {o.Window}; {o.Identity}"
