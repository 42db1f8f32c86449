namespace Sama

open System

/// What a run does when a loss, gradient or update is not finite.
type NonFinitePolicy =
    /// NonFiniteException, the state as it was before the step
    | Stop = 0
    /// the step is left out, θ, λ, rule states and buffers stay as they were, and its report says so
    | Skip = 1

/// The type in which base and meta passes compute. Vectors, rules and perturbed passes keep the parameters' own type: in
/// bfloat16 θ ± εv is mostly below one unit in the last place.
type Precision =
    /// the parameters' own
    | Own = 0
    /// bfloat16
    | BFloat16 = 1

/// How a problem is run.
[<NoComparison>]
type BilevelOptions =
    {
        /// K, base steps per meta step
        Unroll: int
        /// base steps before the first window that ends with a meta step
        WarmUp: int64
        /// micro-batches a base step; their draws have steps t·Accumulate + i
        Accumulate: int
        /// what a run does at what is not finite
        NonFinite: NonFinitePolicy
        /// the type in which base and meta passes compute
        Precision: Precision
    }

    /// One base step per meta step, no warm-up, one batch a step, stop at what is not finite, the parameters' own type.
    static member Default =
        { Unroll = 1
          WarmUp = 0L
          Accumulate = 1
          NonFinite = NonFinitePolicy.Stop
          Precision = Precision.Own }

/// Levels of one height: they step together and do not see each other.
[<NoComparison; NoEquality>]
type internal Tier =
    {
        /// base steps per step
        Period: int64
        /// base steps before its first window
        WarmUp: int64
    }

/// Levels from the lowest up, and how the hypergradients of the upper ones are found.
[<NoComparison; NoEquality>]
type BilevelProblem =
    internal
        {
            Levels: Level[]
            /// each level's tier, from 0
            Heights: int[]
            Tiers: Tier[]
            Method: HypergradientMethod
            Options: BilevelOptions
            /// values are read together on the CPU too, as on other devices
            ReadTogether: bool
            /// meta steps taken, on any run of it: at some of them a step is taken again on the same batch
            Replays: int64 ref
            /// the ranks that it is on, and how it is reduced
            Ranks: RankPlan
        }

    /// The levels' names, from the lowest up.
    member problem.LevelNames = problem.Levels |> Array.map _.Name

    /// The ranks that it is on; alone, this process.
    member problem.Communicator: Communicator = problem.Ranks.Communicator

    /// Its levels with their sizes, rules, data and pace, the method and the options, a line each.
    override problem.ToString() =
        let level i (level: Level) =
            let tier = problem.Tiers[problem.Heights[i]]

            let pace =
                [ if tier.Period > 1L then
                      $"a step every {tier.Period} base steps"
                  if tier.WarmUp > 0L then
                      $"from base step {tier.WarmUp}" ]

            String.Join(", ", string level :: pace)

        let o = problem.Options

        let method =
            if problem.Tiers.Length > 1 then
                $"method {problem.Method}, K = {o.Unroll}"
            else
                "one level, trained plainly"

        let micros =
            if o.Accumulate > 1 then
                $", {o.Accumulate} micro-batches a base step"
            else
                ""

        String.Join(
            "\n",
            [ yield! problem.Levels |> Seq.mapi level
              $"{method}{micros}, device {problem.Levels[0].Device}, precision {o.Precision}, not finite: {o.NonFinite}"
              if problem.Ranks.Communicator.Size > 1 then
                  let { Communicator = ranks
                        Options = reduced } =
                      problem.Ranks

                  let sharded =
                      if reduced.ShardStates then
                          ", states of rules in shards"
                      else
                          ""

                  let buckets =
                      if reduced.BucketBytes.HasValue then
                          $"of {reduced.BucketBytes} bytes"
                      else
                          "by hosts"

                  $"on {ranks.Size} ranks: meta gradients {reduced.Response}, buffers {reduced.Buffers}, buckets {buckets}{sharded}" ]
        )
