namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Threading
open Sama

/// How a cleaning trains and chooses. As it is made it suits any number of clean rows from a dozen on.
[<Sealed; AllowNullLiteral>]
type CleaningOptions() =
    /// Fixes folds, batches, masks and starting values.
    member val Seed = 0 with get, set

    /// Steps of a training on the rows to clean; null: six times through them, at least 300 and at most 1000.
    member val Steps = Nullable<int>() with get, set

    /// Steps of the longest fine-tuning on the clean rows: a tenth, a third or all of them are taken, as leaves the least
    /// log-loss on the held-out rows.
    member val TuningSteps = 150 with get, set

    /// Rows a step.
    member val Batch = 64 with get, set

    /// Clean rows a meta step; as many as there are, if there are fewer.
    member val MetaBatch = 64 with get, set

    /// Rate of Adam on the rows to clean; null: the model's.
    member val Rate = Nullable<float>() with get, set

    /// Rate of Adam in the fine-tuning on clean rows; null: that on the rows to clean.
    member val TuningRate = Nullable<float>() with get, set

    /// Rate of Adam of λ.
    member val MetaRate = 5e-3 with get, set

    /// Base steps a meta step.
    member val Unroll = 2 with get, set

    /// α of SAMA's perturbation.
    member val Alpha = 1e-2 with get, set

    /// The share of each base batch that is clean rows, under SAMA.
    member val CleanShare = 0.1 with get, set

    /// Precision of the belief in the label model's start.
    member val Strength = 3.0 with get, set

    /// Clean rows from which a table of words is learned; below, a label model alone.
    member val TermsFrom = 200 with get, set

    /// Folds of the clean rows: each candidate is trained once on the others and judged on each.
    member val Folds = 2 with get, set

    /// Folds of the rows to clean, for confident learning.
    member val NoisyFolds = 3 with get, set

    /// Share of a label that is spread over all classes in training.
    member val Smoothing = 0.1 with get, set

    /// How the choice weighs evidence: by log-loss after calibration, of which few rows tell more than of right and wrong.
    /// Between the control and the average of four trainings, then clean, the expected gain decides; they are left
    /// for what is ahead by two and a half standard errors.
    member val Selection =
        SelectionOptions(Criterion = Criterion.LogLoss, Trusted = 2, StandardErrors = 2.5) with get, set

    /// Names of the ways to consider, of `DataCleaning.Candidates`; the control, the first of these, is always one. Null: all.
    member val Ways: IReadOnlyList<string> = null with get, set

    /// Train every candidate on all clean rows, not the chosen one alone: for tables that compare them.
    member val TrainAll = false with get, set

    /// A folder for what is trained, which a later call with the same data and options goes on from; null: none.
    member val StateFolder: string = null with get, set

    /// The ranks that share every batch (`Ranks.start`), all of which clean the same data with the same options; alone, this
    /// process. Rank 0 writes the state folder. Weights of examples are relative to a rank's part of a batch.
    member val Ranks = Communicator.Single with get, set

    /// Told of every tenth step; null: nobody.
    member val Progress: IProgress<StageProgress> = null with get, set

    /// Stops at the next step, by an OperationCanceledException.
    member val Cancellation = CancellationToken.None with get, set

    /// OperationCanceledException on every rank where one is cancelled.
    member internal options.StopIfCancelled() : unit =
        Together.stopIfCancelled options.Ranks options.Cancellation

    /// ArgumentException, naming it, for an option that is out of range.
    member options.Validate() : unit =
        let positive name (value: float) =
            Check.that name (value > 0.0 && Double.IsFinite value) (fun () -> $"{value} is not a positive number")

        let atLeast name least (value: int) =
            Check.that name (value >= least) (fun () -> $"{value} is below {least}")

        atLeast (nameof options.TuningSteps) 1 options.TuningSteps
        atLeast (nameof options.Batch) 1 options.Batch
        atLeast (nameof options.MetaBatch) 1 options.MetaBatch
        atLeast (nameof options.Unroll) 1 options.Unroll
        atLeast (nameof options.Folds) 2 options.Folds
        atLeast (nameof options.NoisyFolds) 2 options.NoisyFolds
        positive (nameof options.MetaRate) options.MetaRate
        positive (nameof options.Alpha) options.Alpha
        positive (nameof options.Strength) options.Strength

        if options.Steps.HasValue then
            atLeast (nameof options.Steps) 1 options.Steps.Value

        if options.Rate.HasValue then
            positive (nameof options.Rate) options.Rate.Value

        if options.TuningRate.HasValue then
            positive (nameof options.TuningRate) options.TuningRate.Value

        Check.that (nameof options.CleanShare) (options.CleanShare >= 0.0 && options.CleanShare < 1.0) (fun () ->
            $"{options.CleanShare} is not in 0 .. 1, below 1")

        Check.that (nameof options.Smoothing) (options.Smoothing >= 0.0 && options.Smoothing < 1.0) (fun () ->
            $"{options.Smoothing} is not in 0 .. 1, below 1")

        Check.notNull (nameof options.Selection) options.Selection
        Check.notNull (nameof options.Ranks) options.Ranks
