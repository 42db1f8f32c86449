namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Runs of a problem as pure functions of the state: nothing changes but what they return, modules and their buffers
/// included.
module Bilevel =

    /// Runs `body` with modules as they are, and puts them back as they were: parameters, their storage, and buffers.
    let internal keepingModules (problem: BilevelProblem) (body: unit -> 'result) : 'result =
        let tied =
            [ for level in problem.Levels do
                  yield! level.Tied ]

        Problem.keepingBuffers problem (fun () -> NnModule.keepingParameters tied body)

    /// The levels' initial parameters and rule states, and the modules' buffers, copied; the caller owns the result. The
    /// modules stay as they are.
    let start (seed: int64) (problem: BilevelProblem) : RunState =
        Problem.requireUnchanged problem

        for level in problem.Levels do
            if level.Device.``type`` = DeviceType.META then
                invalidOp
                    $"level '{level.Name}' is on the device meta, which keeps no values: move the problem to another"

        Scope.run (fun keep ->
            { Levels =
                [| for level in problem.Levels ->
                       let vector = level.Initial()

                       { Name = level.Name
                         Layout = level.Layout
                         Update = Level.rule level
                         Vector = keep vector
                         // a rule's Init may hand out a tensor that it keeps
                         Rule = RuleState.map (fun t -> keep (t.clone ())) (level.Rule.Start vector)
                         Window = null
                         Kept = null } |]
              Buffers =
                readOnlyDict [ for name, buffer in Problem.buffers problem -> name, keep (buffer.detach().clone ()) ]
              Step = 0L
              Seed = seed })

    /// An engine on a copy of the state; what `body` makes of it is the caller's, through `keep`.
    let internal onCopy
        (problem: BilevelProblem)
        (argument: string)
        (state: RunState)
        (body: (Tensor -> Tensor) -> Engine -> 'result)
        =
        Problem.requireUnchanged problem
        RunState.requireOf problem argument state

        Scope.run (fun keep ->
            keepingModules problem (fun () ->
                let engine = Engine(problem, RankStart.common problem (RunState.copy state), false)

                try
                    body keep engine
                finally
                    engine.Free()))

    let private result (keep: Tensor -> Tensor) (engine: Engine) : RunState =
        let own = engine.Snapshot()
        let kept = RunState.map keep own
        own.Dispose()
        kept

    /// Base steps up to the next meta step (`Unroll` of them from a window's start; one in a problem of one level), and that
    /// one, unless warm-up lasts. Pure: the state given and the modules are untouched, the caller owns the result. ArgumentException for a
    /// state of another problem, or inside a window that it does not hold.
    let step (problem: BilevelProblem) (state: RunState) : RunState * StepReport list =
        onCopy problem (nameof state) state (fun keep engine ->
            let rec window reports =
                let reports = engine.Step() :: reports

                if engine.StepsTaken % Structure.window problem = 0L then
                    result keep engine, List.rev reports
                else
                    window reports

            window [])

    /// What `look` finds of the hypergradient of the highest level: base steps are tried from the state, as many as the
    /// methods look back on.
    let internal examine
        (problem: BilevelProblem)
        (state: RunState)
        (look: LiveStep -> Point -> int -> MetaReport -> Tensor -> 'result)
        : 'result =
        if problem.Tiers.Length = 1 then
            invalidArg (nameof problem) "the problem has one level: nothing steers it, so that it has no hypergradient"

        onCopy problem (nameof state) state (fun _ engine -> engine.Differentiate look)

    /// h, its direct part, and the report of the level right below; the tensors are the caller's.
    let internal compute (problem: BilevelProblem) (state: RunState) : Tensor * Tensor * Report =
        Scope.run (fun keep ->
            let h, direct, report =
                examine problem state (fun live _ top report direct ->
                    Scope.copy live.Levels[top].Gradient, Scope.copy direct, report.Response)

            let kept = keep h, keep direct, report
            h.Dispose()
            direct.Dispose()
            kept)

    /// The highest level's loss at the state, on the batch of its step.
    let internal topLossAt (problem: BilevelProblem) (state: RunState) : float =
        onCopy problem (nameof state) state (fun _ engine ->
            engine.Look(fun live ->
                let loss = MetaSteps.loss live (problem.Levels.Length - 1)
                live.Read()
                loss.Value))

    /// Base steps alone, from the state, until ‖u‖ ≤ tolerance or `maxSteps` are taken. Pure; the report has ‖u‖ as its
    /// residual, and says whether it converged. ArgumentException for a negative tolerance or no step.
    let solve (problem: BilevelProblem) (tolerance: float) (maxSteps: int) (state: RunState) : RunState * Report =
        Method.nonNegative (nameof tolerance) tolerance
        Method.atLeast 1 (nameof maxSteps) maxSteps

        onCopy problem (nameof state) state (fun keep engine ->
            let mutable size = engine.BaseStep()
            let mutable count = 1

            while size > tolerance && count < maxSteps do
                size <- engine.BaseStep()
                count <- count + 1

            result keep engine,
            { Report.empty "solve" with
                Residual = Nullable size
                Converged = Nullable(size <= tolerance)
                Passes = count })
