namespace Sama.Functional

open System
open System.Collections.Generic
open System.IO
open System.Threading
open TorchSharp
open Sama

/// A run in place that writes checkpoints, evaluates, counts skipped steps, and goes back to its last checkpoint where that
/// is asked for. Whatever ends it, it ends at a step's boundary with the state of the last good step. Not thread-safe.
[<Sealed>]
type GuardedRun(problem: BilevelProblem, initial: RunState, options: GuardOptions) =
    do Guard.require problem options

    let evaluator =
        if isNull options.Evaluation then
            None
        else
            Some(new Evaluator(options.Evaluation))

    let run =
        let run = new BilevelRun(problem, initial)

        try
            run.Telemetry <- options.Telemetry
            run
        with _ ->
            (run :> IDisposable).Dispose()
            reraise ()

    let ranks = problem.Communicator
    let mutable skipped = 0
    let mutable rollbacks = 0
    let mutable saved = -1L
    // where this run wrote last: a folder may have another run's
    let mutable written: string = null
    let mutable ended = false

    let restart (state: RunState) =
        run.Restore state
        saved <- -1L

    /// Takes the run back.
    let rollBack () : bool =
        if rollbacks >= options.Rollbacks then
            false
        else
            use found = Checkpoint.load problem written
            rollbacks <- rollbacks + 1
            skipped <- 0

            restart (Guard.reseeded rollbacks found)
            true

    let back (why: string) : StepReport option =
        if rollBack () then
            let report =
                StepReport.Without(
                    run.StepsTaken,
                    $"{why}; went back to the checkpoint of step {run.StepsTaken}, with another seed"
                )

            run.Tell report
            Some report
        else
            None

    /// From the start, as `Bilevel.start seed problem` gives it.
    static member FromSeed(problem: BilevelProblem, seed: int64, options: GuardOptions) : GuardedRun =
        use start = Bilevel.start seed problem
        new GuardedRun(problem, start, options)

    /// From what was found in the options' folder, which is borrowed: its state, its best score and, where states are kept,
    /// the best one. A best state that is gone or damaged starts the scores anew; `PassedOver` says so.
    static member Resume(problem: BilevelProblem, found: Resumed, options: GuardOptions) : GuardedRun =
        let guarded = new GuardedRun(problem, found.State, options)
        guarded.GoOn found
        guarded

    /// What every checkpoint is to say beside the state, asked for when it is written. Null for nothing.
    member val Notes: Func<IReadOnlyDictionary<string, string>> = null with get, set

    /// What was wrong with files that the run would have gone on from; empty if nothing was.
    member val PassedOver: IReadOnlyList<string> = [] with public get, private set

    /// The run.
    member _.Run = run

    /// How often the run went back to a checkpoint.
    member _.RollbacksTaken = rollbacks

    /// The step of the checkpoint that was written last since the run started or went back; -1 for none.
    member _.LastSaved = saved

    /// The best score so far; null before the first.
    member _.BestScore: Nullable<float> =
        match evaluator with
        | Some evaluator -> evaluator.Best
        | None -> Nullable()

    /// A copy of the state of the best score, owned by the caller; null before there is one, and where none is kept.
    member _.BestState() : RunState =
        match evaluator |> Option.bind _.State with
        | Some state -> RunState.copy state
        | None -> Unchecked.defaultof<_>

    /// Goes back to the state of the best score. False if there is none yet; InvalidOperationException if none is kept.
    member _.RestoreBest() : bool =
        match evaluator with
        | Some evaluator when evaluator.Keeps ->
            evaluator.State |> Option.iter restart
            evaluator.State.IsSome
        | _ -> invalidOp "no state is kept: set KeepBest or RestoreBest of the evaluation"

    /// Goes on from a state, which is borrowed and copied.
    member _.Restart(state: RunState) : unit = restart state

    member private guarded.GoOn(found: Resumed) : unit =
        let passed = List<string> found.Skipped
        written <- found.Info.Path

        evaluator
        |> Option.iter (fun evaluator ->
            evaluator.Resume found.Info.Notes

            if evaluator.Keeps && evaluator.Best.HasValue then
                try
                    evaluator.Keep(Checkpoint.load problem (Checkpoints.best options.Folder))
                with
                | :? FileNotFoundException
                | :? InvalidDataException as e ->
                    passed.Add $"{e.Message}: scores start anew"
                    evaluator.Forget())

        guarded.PassedOver <- passed

    member private guarded.AllNotes: IReadOnlyDictionary<string, string> =
        Guard.notes (evaluator |> Option.map _.Notes |> Option.defaultValue []) guarded.Notes

    /// Of several ranks, rank 0 writes.
    member private guarded.Write() : string =
        Guard.onRank0 run (fun state -> Checkpoints.save options.Keep options.Folder guarded.AllNotes state)
        written <- Checkpoints.pathOf options.Folder run.StepsTaken

        saved <- run.StepsTaken
        written

    /// Writes the state of the run as it is; its path, or null without a folder. Of several ranks, which all call it, rank 0
    /// writes; the others go on once it is written. Errors as Checkpoints.save.
    member guarded.Checkpoint() : string =
        if isNull options.Folder then
            null
        else
            Across.guarded problem "a checkpoint" guarded.Write

    /// The checkpoint of where the run stands, unless it is written already.
    member guarded.Save() : unit =
        if saved <> run.StepsTaken then
            guarded.Checkpoint() |> ignore

    /// The run ends here, for now: `Save`, then the best state if that is wanted. Nothing where it has ended already.
    member guarded.End() : unit =
        if not ended then
            guarded.Save()
            ended <- true

            evaluator
            |> Option.filter _.Options.RestoreBest
            |> Option.bind _.State
            |> Option.iter restart

    /// The checkpoint of the last good step; a failure of it is told with the one that it follows.
    member private guarded.SaveAfter(e: exn) : unit =
        e.Data["Sama.Step"] <- run.StepsTaken

        if not (isNull options.Folder) then
            try
                // of several ranks, the others may be gone: none is asked, unless each has a part
                Guard.requireTogether problem e
                e.Data["Sama.Checkpoint"] <- guarded.Write()
            with other ->
                e.Data["Sama.CheckpointFailure"] <- other.Message

    /// What is to be kept of a failure: the last good step.
    member private guarded.Kept(body: unit -> 'result) : 'result =
        try
            body ()
        with e ->
            guarded.SaveAfter e
            reraise ()

    /// A step by the policies; an error if it took the run back.
    member private guarded.Take() : Result<StepReport, StepReport> =
        let taken =
            try
                Ok(run.Step())
            with :? NonFiniteException as e ->
                match back e.Message with
                | Some report -> Error report
                | None -> reraise ()

        match taken with
        | Ok report ->
            skipped <- if isNull report.Skipped then 0 else skipped + 1

            if options.SkipAtMost.HasValue && skipped > options.SkipAtMost.Value then
                match back $"{skipped} steps in a row were left out, the last one because {report.Skipped}" with
                | Some report -> Error report
                | None ->
                    invalidOp
                        $"{skipped} steps in a row were left out, more than {options.SkipAtMost}; the last one: {report.Skipped}"
            else
                Ok report
        | Error report -> Error report

    /// What is due behind a step: an evaluation, the best state, a checkpoint.
    member private guarded.Behind(report: StepReport) : StepReport =
        let evaluation =
            match evaluator with
            | Some evaluator when run.StepsTaken % evaluator.Options.Every = 0L ->
                let found = evaluator.Evaluate run

                if
                    found.Improved
                    && not (isNull options.Folder)
                    && (options.Best || evaluator.Keeps)
                then
                    Across.guarded problem "the best state" (fun () ->
                        Guard.onRank0 run (Checkpoints.saveBest options.Folder guarded.AllNotes))

                    // and one that knows its score
                    guarded.Checkpoint() |> ignore

                found
            | _ -> null

        if
            options.Every > 0L
            && isNull report.Skipped
            && run.StepsTaken % options.Every = 0L
        then
            guarded.Save()

        { report with Evaluation = evaluation }

    /// One step, the evaluation and the checkpoint that are due behind it, and the best state back where patience has ended.
    /// If the step throws, the state is the one before it and, with a folder, is a checkpoint; the exception's `Data` has
    /// "Sama.Step" (steps taken) and "Sama.Checkpoint" (the path) or "Sama.CheckpointFailure", and "Sama.Level" where a
    /// delegate of a level threw. If a metric throws, the step was taken. NonFiniteException where a number is not finite and
    /// no policy is left; the report of a step that took the run back says so in `Skipped`.
    member guarded.Step() : StepReport =
        ended <- false

        // there has to be something to go back to
        if options.Rollbacks > rollbacks && isNull written then
            guarded.Checkpoint() |> ignore

        guarded.Kept(fun () ->
            match guarded.Take() with
            | Error report -> report
            | Ok report ->
                let report = guarded.Behind report

                if not (isNull report.Evaluation) && report.Evaluation.Stop then
                    guarded.End()

                report)

    /// Steps until so many base steps have been taken since the run's start (a resumed run takes the rest) or patience has
    /// ended, then `End`. When the token is cancelled, on any rank: the checkpoint, then OperationCanceledException.
    member guarded.RunTo(steps: int64, token: CancellationToken) : unit =
        let mutable stopped = false
        let mutable cancelled = false

        let goesOn () =
            cancelled <- ranks.Any token.IsCancellationRequested
            not cancelled

        while run.StepsTaken < steps && not stopped && goesOn () do
            let report = guarded.Step()
            stopped <- not (isNull report.Evaluation) && report.Evaluation.Stop

        if stopped || run.StepsTaken >= steps then
            guarded.End()
        else
            guarded.Save()
            token.ThrowIfCancellationRequested()
            raise (OperationCanceledException "another rank was asked to stop")

    interface IDisposable with
        /// Frees the run's vectors and the best state; modules keep theirs.
        member _.Dispose() =
            (run :> IDisposable).Dispose()
            evaluator |> Option.iter (fun evaluator -> (evaluator :> IDisposable).Dispose())
