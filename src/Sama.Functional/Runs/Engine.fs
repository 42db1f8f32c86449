namespace Sama.Functional

open System
open System.Collections.Generic
open System.Threading
open TorchSharp
open Sama

/// A run in place: the state's tensors are its own and are overwritten by steps. Everything that takes steps
/// (`Bilevel.step`, `BilevelRun`, the diagnostics) is this. It points the problem's modules at its vectors and loads the
/// state's buffers into them. For one thread at a time.
///
/// A base step evaluates everything first and writes last: a step that fails has changed nothing, buffers included.
[<Sealed>]
type internal Engine(problem: BilevelProblem, initial: RunState, lasting: bool) =
    let initial = Sharding.keepPart problem initial

    let levels =
        [| for level, own in Seq.zip problem.Levels initial.Levels -> LevelRun(level, RankRules.rule problem level, own) |]

    let vectors = levels |> Array.map _.Vector
    let lowest = Structure.lowest problem
    let buffers () = Problem.buffers problem
    let warnings = Warnings problem
    let mutable step = initial.Step
    let mutable seed = initial.Seed
    let recorder = Recorder problem
    let mutable clock: PhaseClock = null
    // while a step is written; what fails then leaves half of it
    let mutable writing = false

    let requireWhole () =
        if writing then
            invalidOp
                $"step {step} failed while it was written, so that the state is lost: go on from a checkpoint or Snapshot"
    // a run of one call puts the modules back as they were
    let owner = if lasting then Some(BufferOwner problem) else None
    let claim () = owner |> Option.iter _.Claim()

    let rebind () =
        Scope.run (fun _ ->
            Problem.bind problem [| for level in levels -> Params.probe level.Level.Layout level.Vector |])

    do
        claim ()
        Buffers.load [ for b in initial.Buffers -> b.Key, b.Value ] (buffers ())
        rebind ()

    let skips (e: exn) =
        e :? NonFiniteException && problem.Options.NonFinite = NonFinitePolicy.Skip

    /// Runs `body` on a step and frees what it fetched; buffers, and levels that started anew, are put back if it fails. A
    /// window that started stays started where its first step is left out.
    let transaction (body: LiveStep -> 'result) : 'result =
        let fetched = Dictionary<int, Micro list>()
        Across.at problem step
        claim ()
        let saved = Buffers.copy (buffers ())
        let mutable resets = []

        try
            try
                let result =
                    Scope.run (fun _ ->
                        use readings = new Readings(problem.ReadTogether, Across.gather problem)
                        resets <- LiveStep.reset problem levels step
                        body (LiveStep.create problem levels vectors seed step readings fetched clock))

                for struct (_, finish) in resets do
                    finish ()

                result
            with e ->
                let shown = Across.settled problem (Checks.explained step e)

                for struct (undo, finish) in resets do
                    (if skips shown then finish else undo) ()

                Buffers.load saved (buffers ())

                if obj.ReferenceEquals(shown, e) then
                    reraise ()
                else
                    raise shown
        finally
            for _, buffer in saved do
                buffer.Dispose()

            for micros in fetched.Values do
                for micro in micros do
                    (micro :> IDisposable).Dispose()

            rebind ()
            Scope.sweep step (vectors[0].numel ())

    let commit (live: LiveStep) (working: int list) (metas: MetaStep list) =
        Across.settle problem live.Number vectors (buffers ())
        writing <- true
        live.Commit(working, [ for meta in metas -> meta.Index ])

        for meta in metas do
            for k, response in meta.Responses do
                response.Move |> Option.iter (fun move -> levels[k].Vector.add_ move |> ignore)
                response.Kept |> Option.iter levels[k].Keep

        writing <- false

    let working () =
        lowest |> List.filter (fun i -> Structure.active problem i step)

    /// Meta steps behind base steps; their reports once all values are known.
    let metaSteps (live: LiveStep) working (taken: LevelStep option[]) due direct =
        Problem.keepingBuffers problem (fun () ->
            let live =
                { live with
                    Replays = Checks.replays problem }

            if live.Replays then
                BaseSteps.replay live working

            PhaseClock.within clock RunPhase.Rule (fun () ->
                for i in working do
                    levels[i].Preview())

            let metas = MetaSteps.take live taken due direct
            live.Read()
            let point = live.PointOf taken

            if live.Replays then
                MetaSteps.replay live point metas

            metas, [ for meta in metas -> recorder.Compared(live, meta.Index, warnings.Report(live, point, meta)) ])

    let take (live: LiveStep) : StepReport =
        let working = working ()

        for i in lowest do
            if Structure.begins problem i step then
                levels[i].Begin step

        let due tier = Structure.due problem tier step

        let taken, losses =
            PhaseClock.within clock RunPhase.Base (fun () -> BaseSteps.take live working (due 1))

        let metas, reports =
            if due 1 then
                metaSteps live working taken due (fun _ _ -> ())
            else
                live.Read()
                [], []

        warnings.Look(live, working)
        commit live working metas

        { Step = step + 1L
          BaseLoss = losses |> List.averageBy _.Value
          Meta = List.tryLast reports |> Option.toObj
          Metas = reports
          Skipped = null
          Evaluation = null
          Telemetry = null }

    member _.Levels = levels
    member _.StepsTaken = step
    member _.Seed = seed

    /// What is measured of its steps.
    member _.Recorder = recorder

    /// One base step, and those of the levels above that are due. If it throws, the run is as before it.
    member _.Step() : StepReport =
        requireWhole ()
        Across.alike problem (fun () -> Problem.requireUnchanged problem)

        let report =
            recorder.Observe(
                lasting,
                step,
                fun watching ->
                    clock <- watching
                    Across.watch problem (LiveStep.reducing clock)

                    try
                        transaction take
                    with e when skips e ->
                        let meta =
                            if Structure.due problem 1 step then
                                "; the meta step that was due is left out with it"
                            else
                                ""

                        StepReport.Without(step + 1L, e.Message + meta)
            )

        if Structure.due problem 1 step then
            for i in lowest do
                levels[i].Close()

        step <- step + 1L
        report

    /// A step of the lowest levels alone, whatever is due; the length of their updates.
    member _.BaseStep() : float =
        let size =
            transaction (fun live ->
                let working = working ()
                BaseSteps.take live working false |> ignore
                live.Read()
                commit live working []
                working |> List.sumBy (fun i -> Method.size levels[i].Gradient ** 2.0) |> sqrt)

        step <- step + 1L
        size

    /// The hypergradient of the highest level (the first of several) behind as many base steps as the methods look back on:
    /// the run is of no further use. `look` is given that level, whose gradient vector holds h, its report and direct part.
    member run.Differentiate(look: LiveStep -> Point -> int -> MetaReport -> Tensor -> 'result) : 'result =
        let back = lowest |> List.map (Structure.lookback problem) |> List.max |> max 1L

        let begins left =
            for i in lowest do
                if Structure.lookback problem i = left then
                    levels[i].Begin step

        for left in back .. -1L .. 2L do
            begins left
            run.BaseStep() |> ignore

        transaction (fun live ->
            begins 1L
            let taken, _ = BaseSteps.take live lowest true
            let direct = ref null
            // levels lie in the order of their tiers
            let top = (Structure.below problem (vectors.Length - 1)).Length

            let keep j (part: Tensor) =
                if j = top then
                    direct.Value <- Across.meanOf problem "the direct gradient" (part.clone ())

            let metas, reports = metaSteps live lowest taken (fun _ -> true) keep
            Across.settle problem step vectors []
            let report = reports[metas |> List.findIndex (fun meta -> meta.Index = top)]
            look live (live.PointOf taken) top report direct.Value)

    /// What `body` finds of the step that comes next, of which nothing is written.
    member _.Look(body: LiveStep -> 'result) : 'result =
        transaction (fun live -> Problem.keepingBuffers problem (fun () -> body live))

    /// A copy of the state, owned by the caller; all ranks call it where they share states of rules.
    member _.Snapshot() : RunState =
        requireWhole ()

        let own =
            { Levels = [| for level in levels -> level.State |]
              Buffers = readOnlyDict []
              Step = step
              Seed = seed }

        claim ()

        Sharding.whole
            problem
            { RunState.copy own with
                Buffers = readOnlyDict (Buffers.copy (buffers ())) }

    /// The run goes on from another state of its problem, which is copied; its vectors stay where they are.
    member _.Load(state: RunState) : unit =
        claim ()

        for level, own in Seq.zip levels (Sharding.part problem state).Levels do
            level.Load own

        Buffers.load [ for b in state.Buffers -> b.Key, b.Value ] (buffers ())
        step <- state.Step
        seed <- state.Seed
        writing <- false
        warnings.Forget()
        recorder.Forget()
        rebind ()

    /// Runs `body` between two steps: without gradients, the problem's modules and those given in eval mode, its tensors
    /// freed; modes, buffers and the CPU's generator are put back.
    member _.Between(others: torch.nn.Module list, body: unit -> 'result) : 'result =
        claim ()
        Problem.apart problem others body

    /// Frees the state and what steps worked in.
    member _.Free() : unit =
        owner |> Option.iter _.Release()
        recorder.Forget()

        for level in levels do
            level.Free()
            level.State.Dispose()

        for buffer in initial.Buffers.Values do
            buffer.Dispose()
