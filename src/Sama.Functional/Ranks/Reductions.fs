namespace Sama

open System

/// What becomes of the gradient of a loss above, v = ∂L_meta/∂θ, before the response to it is found on every rank.
type ResponseReduction =
    /// it is the mean over the ranks: the hypergradient is that of the joined batch
    | Joined = 0
    /// each rank answers to its own, and only the hypergradients are averaged: one reduction of θ's length less a meta step.
    /// The mean of products is not the product of means: the smaller the meta batch of a rank, the further off (docs/ranks.md
    /// has figures). For two levels and methods of one step without second derivatives
    | Local = 1

/// What becomes of the buffers of modules (running statistics), which each rank's own rows have moved.
type RankBuffers =
    /// every rank goes on with rank 0's
    | First = 0
    /// floating-point buffers are averaged, others are rank 0's
    | Mean = 1

/// How a problem on ranks is reduced.
[<NoComparison>]
type ReductionOptions =
    {
        /// of meta gradients
        Response: ResponseReduction
        /// of modules' buffers
        Buffers: RankBuffers
        /// bytes of the base gradient that are reduced together while the backward pass goes on, for functional models; 0: all
        /// behind it; null: 1 MB between hosts, 0 on one, where the sum is work of the cores that the pass needs
        BucketBytes: Nullable<int64>
        /// each rank has the states of rules of a range of coordinates alone and steps those (ZeRO-1): what the rule makes of
        /// them is gathered, at every update and adaptation. For elementwise rules, chains and groups of them, clipping and
        /// trust ratios; states of runs and checkpoints are whole, so that all ranks take part in them
        ShardStates: bool
    }

    /// The joined batch's hypergradient, rank 0's buffers, buckets between hosts alone, states of rules whole on every rank.
    static member Default =
        { Response = ResponseReduction.Joined
          Buffers = RankBuffers.First
          BucketBytes = Nullable()
          ShardStates = false }

/// A problem's place among the ranks.
[<NoComparison; NoEquality>]
type internal RankPlan =
    { Communicator: Communicator
      Options: ReductionOptions }

    static member Single =
        { Communicator = Communicator.Single
          Options = ReductionOptions.Default }
