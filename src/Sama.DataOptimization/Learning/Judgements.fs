namespace Sama.DataOptimization

open System
open TorchSharp
open Sama

/// What a learner of weights may look at.
[<Flags>]
type RowFeatures =
    /// log-probability of the given label
    | Loss = 1
    /// its lead over the best other class
    | Margin = 2
    /// entropy of the prediction, a share of its maximum
    | Entropy = 4
    /// half the sum of absolute differences between the prediction in training and the averaged model's: the uncertainty
    /// of Choe et al., 2023
    | Distance = 8
    /// the given label
    | Label = 16
    /// whether each rule votes for the given label, against it, or not at all
    | Votes = 32

/// What a learner sees of a batch: constants, none of them differentiated.
[<NoComparison; NoEquality>]
type internal RowView =
    {
        Batch: RowBatch
        /// log-probabilities [rows, classes] of the averaged model, else of the model in training
        Opinion: Tensor
        /// those of the model in training; null where there is no averaged model beside it
        Current: Tensor
    }

/// What a learner says of a batch.
[<NoComparison; NoEquality>]
type internal Judgement =
    {
        /// logits of weights [rows]; null: every row counts alike
        Logits: Tensor
        /// labels as they should be, distributions [rows, classes]; null: as given
        Targets: Tensor
    }

/// Features that learners share.
module internal Features =

    let clamp (low: float) (high: float) (x: Tensor) : Tensor =
        x.clamp (Scalar.op_Implicit low, Scalar.op_Implicit high)

    let has (features: RowFeatures) (one: RowFeatures) = features &&& one = one

    /// Rows of a table of λ by their numbers. ArgumentException for one beyond it, on the CPU alone: no pass waits for a
    /// device to ask.
    let rowsOf (table: Tensor) (what: string) (numbers: Tensor) : Tensor =
        if numbers.device_type = DeviceType.CPU then
            use most = numbers.max ()

            Check.that "batch" (most.item<int64> () < table.shape[0]) (fun () ->
                $"the batch holds {what} {most.item<int64> ()}, the learner is of {table.shape[0]}")

        table.index_select (0L, numbers)

    /// W x + b (b may be null). ArgumentException where the table's type, or the model's, is not that of λ.
    let linear (x: Tensor) (weight: Tensor) (bias: Tensor) : Tensor =
        Check.that "batch" (x.dtype = weight.dtype) (fun () ->
            $"the rows' features are {x.dtype}, λ is {weight.dtype}: RowTable takes the model's dtype, and λ is to be of it too")

        torch.nn.functional.linear (x, weight, bias)

    /// ArgumentException for a table of other classes than the learner's.
    let requireClasses (classes: int) (batch: RowBatch) : unit =
        Check.that "batch" (batch.Given.shape[1] = int64 classes) (fun () ->
            $"the table has {batch.Given.shape[1]} classes, the learner is of {classes}")

    /// How many columns `predicted` gives.
    let width (features: RowFeatures) : int64 =
        [ RowFeatures.Loss
          RowFeatures.Margin
          RowFeatures.Entropy
          RowFeatures.Distance ]
        |> List.filter (has features)
        |> List.length
        |> int64

    /// What the prediction says of each given label, each of size about 1: [rows, width].
    let predicted (features: RowFeatures) (view: RowView) : Tensor =
        let log, given = view.Opinion, view.Batch.Given
        let own = (log * given).sum 1L

        torch.stack (
            [| if has features RowFeatures.Loss then
                   clamp -6.0 0.0 own / 3.0
               if has features RowFeatures.Margin then
                   clamp -6.0 6.0 (own - (log - given * 1e4).amax [| 1L |]) / 3.0
               if has features RowFeatures.Entropy then
                   -(log.exp () * log).sum 1L / Math.Log(float log.shape[1])
               if has features RowFeatures.Distance then
                   if isNull view.Current then
                       invalidArg
                           "averaged"
                           "the distance to an averaged model needs the averaged model's log-probabilities"

                   (log.exp () - view.Current.exp ()).abs().sum 1L * 0.5 |],
            1L
        )

    /// 1 where a rule votes for the given label, -1 against it, 0 where it abstains: [rows, rules].
    let agreement (batch: RowBatch) : Tensor =
        let votes = batch.Votes
        let casts = votes.ge(Scalar.op_Implicit 0L).to_type batch.Known.dtype
        let agrees = votes.eq(batch.Labels.unsqueeze 1L).to_type batch.Known.dtype
        casts * (agrees * 2.0 - 1.0)

    /// Starting values that outlive every scope; the caller disposes them.
    let kept (named: (string * Tensor) list) : struct (string * Tensor)[] =
        [| for name, value in named -> struct (name, value.DetachFromDisposeScope()) |]
