namespace Sama

open System

/// What a run does beside its steps, so that it survives its machine and its numbers.
[<NoComparison>]
type GuardOptions =
    {
        /// where checkpoints go, one run a folder; null for none
        Folder: string
        /// base steps between checkpoints; 0: only where the run ends
        Every: int64
        /// how many of them stay
        Keep: int
        /// under NonFinitePolicy.Skip, how many steps in a row may be left out; null for any number
        SkipAtMost: Nullable<int>
        /// how often the run goes back to its last checkpoint, with another seed, where a number is not finite
        Rollbacks: int
        /// what is found between steps; null for nothing
        Evaluation: EvaluationOptions
        /// writes the state of the best score as best.safetensors; so do the options that keep it
        Best: bool
        /// what is measured of the steps; null for nothing
        Telemetry: TelemetryOptions
    }

    /// No checkpoints, three of them if there are any, any number of skipped steps, no way back, no evaluation.
    static member Default =
        { Folder = null
          Every = 0L
          Keep = 3
          SkipAtMost = Nullable()
          Rollbacks = 0
          Evaluation = null
          Best = false
          Telemetry = null }

namespace Sama.Functional

open System
open System.Collections.Generic
open Sama

module internal Guard =

    /// ArgumentException naming the option that is out of range, or does not fit the problem.
    let require (problem: BilevelProblem) (options: GuardOptions) : unit =
        let refuse (why: string) = invalidArg (nameof options) why

        if options.Every < 0L then
            refuse $"Every ({options.Every}) is negative"

        if options.Keep < 1 then
            refuse $"Keep ({options.Keep}) is below 1"

        if options.SkipAtMost.HasValue && options.SkipAtMost.Value < 0 then
            refuse $"SkipAtMost ({options.SkipAtMost}) is negative"

        if options.SkipAtMost.HasValue && problem.Options.NonFinite <> NonFinitePolicy.Skip then
            refuse "SkipAtMost counts skipped steps: the problem's NonFinite has to be Skip"

        if options.Rollbacks < 0 then
            refuse $"Rollbacks ({options.Rollbacks}) is negative"

        if options.Rollbacks > 0 && isNull options.Folder then
            refuse "Rollbacks go to the last checkpoint: a Folder is needed"

        if options.Best && isNull options.Evaluation then
            refuse "Best needs a score: an Evaluation"

    /// A state with another seed, which is that of the run's n-th way back: the same one would lead to the same numbers.
    let reseeded (n: int) (state: RunState) : RunState =
        { state with
            Seed =
                { Seed = state.Seed
                  Step = int64 n
                  Stream = Int32.MaxValue
                  Rank = 0 }
                    .RandomSeed }

    /// What rank 0 writes of a run's state; the others give their parts where it is in shards.
    let onRank0 (run: BilevelRun) (write: RunState -> string) : unit =
        let isFirst = run.Problem.Communicator.Rank = 0

        if isFirst || Sharding.isUsed run.Problem then
            use state = run.Snapshot()

            if isFirst then
                write state |> ignore

    /// InvalidOperationException where the parts of a state cannot be asked for: what failed is this rank's alone.
    let requireTogether (problem: BilevelProblem) (e: exn) : unit =
        let isCommon =
            match e with
            | :? RankFailureException
            | :? NonFiniteException -> true
            | _ -> false

        if Sharding.isUsed problem && not isCommon then
            invalidOp
                "the states of rules are in shards (ReductionOptions.ShardStates), and what failed did not fail on every rank: the last checkpoint that all wrote together stands"

    /// Notes of the run's own and of its user, null for none, together.
    let notes
        (own: (string * string) list)
        (given: Func<IReadOnlyDictionary<string, string>>)
        : IReadOnlyDictionary<string, string> =
        let given =
            if isNull given then
                []
            else
                [ for note in given.Invoke() -> note.Key, note.Value ]

        readOnlyDict (own @ given)
