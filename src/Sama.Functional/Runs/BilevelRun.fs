namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Engines that own their state.
module internal InPlace =

    let ofState (problem: BilevelProblem) (initial: RunState) : Engine =
        Problem.requireUnchanged problem
        RunState.requireOf problem (nameof initial) initial
        use _ = torch.NewDisposeScope()
        Engine(problem, RankStart.common problem (RunState.copy initial), true)

    let ofSeed (problem: BilevelProblem) (seed: int64) : Engine =
        use _ = torch.NewDisposeScope()
        let start = RunState.map Scope.detach (Bilevel.start seed problem)
        Engine(problem, RankStart.common problem start, true)

/// The in-place run: the same steps as `Bilevel.step`, on vectors that live as long as the run. The problem's modules are
/// trained themselves: their parameters are the run's vectors, their buffers the run's. Not thread-safe.
[<Sealed>]
type BilevelRun private (problem: BilevelProblem, engine: Engine) =
    let mutable disposed = false
    let mutable writer: TelemetryWriter = null

    let close () =
        if not (isNull writer) then
            (writer :> IDisposable).Dispose()
            writer <- null

    let live () =
        ObjectDisposedException.ThrowIf(disposed, typeof<BilevelRun>)
        engine

    /// From a state, which is borrowed and copied. ArgumentException for a state of another problem or device, or inside a
    /// window that it does not hold.
    new(problem: BilevelProblem, initial: RunState) = new BilevelRun(problem, InPlace.ofState problem initial)

    /// From the start, as `Bilevel.start seed problem` gives it.
    new(problem: BilevelProblem, seed: int64) = new BilevelRun(problem, InPlace.ofSeed problem seed)

    /// The problem that is run.
    member _.Problem = problem

    /// Base steps taken.
    member _.StepsTaken = engine.StepsTaken

    /// The live parameters of the lowest level (the first of several); borrowed, they change with the next step.
    member _.Theta = (live ()).Levels[0].Parameters

    /// The live parameters of the highest level; borrowed, they change with the next step.
    member _.Lambda = (Array.last (live ()).Levels).Parameters

    /// The live parameters of a level; borrowed, they change with the next step. ArgumentException for another name.
    member _.Parameters(level: string) : Params =
        match problem.LevelNames |> Array.tryFindIndex ((=) level) with
        | Some i -> (live ()).Levels[i].Parameters
        | None ->
            let known = String.Join(", ", problem.LevelNames)
            raise (ArgumentException($"no level is named '{level}'; there are: {known}", nameof level))

    /// One base step, and the steps of the levels above that are due. If it throws, the state is the one before it,
    /// buffers included, and modules look at it. NonFiniteException names step, level and parameter; with
    /// `NonFinitePolicy.Skip` the report does. InvalidOperationException for a module whose parameters were replaced, cast,
    /// frozen or unfrozen since its level was made, and for a level that can never move.
    member _.Step() : StepReport =
        let report = (live ()).Step()

        if not (isNull writer) then
            writer.Step report

        report

    /// What is measured of its steps, and where it is written; null, the default, for nothing. ArgumentException for options
    /// out of range, IOException for files that cannot be written.
    member _.Telemetry
        with get (): TelemetryOptions = (live ()).Recorder.Options
        and set (options: TelemetryOptions) =
            let engine = live ()
            close ()

            if not (isNull options) then
                writer <- new TelemetryWriter(options, problem.LevelNames[0])
                writer.Start(engine.StepsTaken, engine.Seed, string problem)

            engine.Recorder.Options <- options

    /// What was found between two steps is written, and told to whom listens.
    member internal _.Tell(found: Evaluation) : unit =
        for metric in found.Metrics do
            Instruments.recordMetric metric.Key metric.Value

        if not (isNull writer) then
            writer.Evaluation found

    /// A step that was left out by whoever guards the run.
    member internal _.Tell(report: StepReport) : unit =
        if not (isNull writer) then
            writer.Step report

    /// The rules' states as this rank has them; borrowed.
    member internal _.RuleStates: RuleState list =
        [ for level in (live ()).Levels -> level.Rule ]

    /// A copy of the state, owned by the caller. Every rank calls it where the states of rules are in shards
    /// (ReductionOptions.ShardStates): each has the whole then.
    member _.Snapshot() : RunState = (live ()).Snapshot()

    /// Goes on from another state of the same problem, which is borrowed and copied: the live parameters take its values.
    /// ArgumentException for a state of another problem or device, or inside a window that it does not hold.
    member _.Restore(state: RunState) : unit =
        let engine = live ()
        Problem.requireUnchanged problem
        RunState.requireOf problem (nameof state) state
        use _ = torch.NewDisposeScope()
        use common = RankStart.ofCopy problem state
        engine.Load common.State

    /// What `body` gives between two steps, such as a score: it runs without gradients and with the problem's modules in
    /// eval mode, its tensors are freed, and modes, buffers and the CPU's random generator are put back, so that it changes
    /// nothing of the run. On ranks, which all call it, what fails on one fails on all.
    member run.Between(body: Func<'result>) : 'result = run.Between([], body.Invoke)

    /// The same, with other modules in eval mode too.
    member internal _.Between(others: torch.nn.Module list, body: unit -> 'result) : 'result =
        Across.guarded problem "what is done between two steps" (fun () -> (live ()).Between(others, body))

    interface IDisposable with
        /// Frees the run's vectors; modules keep theirs.
        member _.Dispose() =
            if not disposed then
                disposed <- true
                close ()
                engine.Free()
