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
    }

    /// No checkpoints, three of them if there are any, any number of skipped steps, no way back.
    static member Default =
        { Folder = null
          Every = 0L
          Keep = 3
          SkipAtMost = Nullable()
          Rollbacks = 0 }

namespace Sama.Functional

open System
open System.Collections.Generic
open System.Threading
open TorchSharp
open Sama

/// A run in place that writes checkpoints, counts skipped steps, and goes back to its last checkpoint where that is asked
/// for. Whatever ends it, it ends at a step's boundary with the state of the last good step. Not thread-safe.
[<Sealed>]
type GuardedRun(problem: BilevelProblem, initial: RunState, options: GuardOptions) =
    let refuse (name: string) (why: string) = raise (ArgumentException(why, name))

    do
        if options.Every < 0L then
            refuse (nameof options) $"Every ({options.Every}) is negative"

        if options.Keep < 1 then
            refuse (nameof options) $"Keep ({options.Keep}) is below 1"

        if options.SkipAtMost.HasValue && options.SkipAtMost.Value < 0 then
            refuse (nameof options) $"SkipAtMost ({options.SkipAtMost}) is negative"

        if options.SkipAtMost.HasValue && problem.Options.NonFinite <> NonFinitePolicy.Skip then
            refuse (nameof options) "SkipAtMost counts skipped steps: the problem's NonFinite has to be Skip"

        if options.Rollbacks < 0 then
            refuse (nameof options) $"Rollbacks ({options.Rollbacks}) is negative"

        if options.Rollbacks > 0 && isNull options.Folder then
            refuse (nameof options) "Rollbacks go to the last checkpoint: a Folder is needed"

    let run = new BilevelRun(problem, initial)
    let ranks = problem.Communicator
    let mutable skipped = 0
    let mutable rollbacks = 0
    let mutable saved = -1L

    let restart (state: RunState) =
        run.Restore state
        saved <- -1L

    /// Takes the run back; another seed, since the same one would lead to the same numbers.
    let rollBack () : bool =
        if rollbacks >= options.Rollbacks then
            false
        else
            use found = Resume.latest options.Folder problem

            if isNull found then
                false
            else
                rollbacks <- rollbacks + 1
                skipped <- 0

                restart
                    { found.State with
                        Seed =
                            { Seed = found.State.Seed
                              Step = int64 rollbacks
                              Stream = Int32.MaxValue
                              Rank = 0 }
                                .RandomSeed }

                true

    /// The checkpoint of the last good step; a failure of it is told with the one that it follows.
    let saveAfter (save: unit -> string) (e: exn) =
        e.Data["Sama.Step"] <- run.StepsTaken

        if not (isNull options.Folder) then
            try
                // of several ranks, the others may be gone: rank 0 asks none of them
                if ranks.Rank = 0 then
                    e.Data["Sama.Checkpoint"] <- save ()
            with other ->
                e.Data["Sama.CheckpointFailure"] <- other.Message

    /// From the start, as `Bilevel.start seed problem` gives it.
    static member FromSeed(problem: BilevelProblem, seed: int64, options: GuardOptions) : GuardedRun =
        use start = Bilevel.start seed problem
        new GuardedRun(problem, start, options)

    /// What every checkpoint is to say beside the state, asked for when it is written. Null for nothing.
    member val Notes: Func<IReadOnlyDictionary<string, string>> = null with get, set

    /// The run.
    member _.Run = run

    /// How often the run went back to a checkpoint.
    member _.RollbacksTaken = rollbacks

    /// Goes on from a state, which is borrowed and copied.
    member _.Restart(state: RunState) : unit = restart state

    /// The step of the checkpoint that was written last since the run started or went back; -1 for none.
    member _.LastSaved = saved

    member private guarded.Write() : string =
        use state = run.Snapshot()

        let notes =
            if isNull guarded.Notes then
                null
            else
                guarded.Notes.Invoke()

        Checkpoints.save options.Keep options.Folder notes state

    /// Writes the state of the run as it is; its path, or null without a folder. Of several ranks, which all call it, rank 0
    /// writes; the others go on once it is written. Errors as Checkpoints.save.
    member guarded.Checkpoint() : string =
        if isNull options.Folder then
            null
        else
            let path =
                Across.guarded problem "a checkpoint" (fun () ->
                    if ranks.Rank = 0 then
                        guarded.Write()
                    else
                        Checkpoints.pathOf options.Folder run.StepsTaken)

            saved <- run.StepsTaken
            path

    /// One step, and the checkpoint that is due behind it. If the step throws, the state is the one before it and, with a
    /// folder, is a checkpoint; the exception's `Data` has "Sama.Step" (steps taken) and "Sama.Checkpoint" (the path) or
    /// "Sama.CheckpointFailure". NonFiniteException where a number is not finite and no policy is left; the report of a
    /// step that took the run back says so in `Skipped`.
    member guarded.Step() : StepReport =
        let back (why: string) : StepReport option =
            if rollBack () then
                Some
                    { Step = run.StepsTaken
                      BaseLoss = nan
                      Meta = null
                      Metas = []
                      Skipped = $"{why}; went back to the checkpoint of step {run.StepsTaken}, with another seed" }
            else
                None

        let report =
            try
                run.Step()
            with
            | :? NonFiniteException as e ->
                match back e.Message with
                | Some report -> report
                | None ->
                    saveAfter guarded.Write e
                    reraise ()
            | e ->
                saveAfter guarded.Write e
                reraise ()

        skipped <- if isNull report.Skipped then 0 else skipped + 1

        if options.SkipAtMost.HasValue && skipped > options.SkipAtMost.Value then
            match back $"{skipped} steps in a row were left out, the last one because {report.Skipped}" with
            | Some report -> report
            | None ->
                let e =
                    InvalidOperationException(
                        $"{skipped} steps in a row were left out, more than {options.SkipAtMost}; the last one: {report.Skipped}"
                    )

                saveAfter guarded.Write e
                raise e
        else
            if
                options.Every > 0L
                && isNull report.Skipped
                && run.StepsTaken % options.Every = 0L
            then
                guarded.Checkpoint() |> ignore

            report

    /// Steps until so many base steps have been taken since the run's start (a resumed run takes the rest), and the
    /// checkpoint of the last one. When the token is cancelled, on any rank: the checkpoint, then OperationCanceledException.
    member guarded.RunTo(steps: int64, token: CancellationToken) : unit =
        let mutable isCancelled = false

        let goesOn () =
            isCancelled <- ranks.Any token.IsCancellationRequested
            not isCancelled

        while run.StepsTaken < steps && goesOn () do
            guarded.Step() |> ignore

        if saved <> run.StepsTaken then
            guarded.Checkpoint() |> ignore

        if isCancelled then
            token.ThrowIfCancellationRequested()
            raise (OperationCanceledException "another rank was asked to stop")

    interface IDisposable with
        /// Frees the run's vectors; modules keep theirs.
        member _.Dispose() = (run :> IDisposable).Dispose()
