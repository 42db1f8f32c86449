namespace Sama

/// One level of a run's state: its flat vector and its rule's state.
[<ReferenceEquality>]
type LevelState =
    {
        /// the parameters, flat
        Vector: Tensor
        /// the state of their rule
        Rule: RuleState
    }

/// The state of a run as a value. Whoever holds it disposes it, which frees its tensors.
[<ReferenceEquality>]
type RunState =
    {
        /// from the base level up
        Levels: System.Collections.Generic.IReadOnlyList<LevelState>
        /// base steps taken
        Step: int64
        /// fixes batches and masks
        Seed: int64
    }

    /// The base level's flat vector.
    member state.Theta = state.Levels[0].Vector

    /// The meta level's flat vector.
    member state.Lambda = state.Levels[state.Levels.Count - 1].Vector

    interface System.IDisposable with
        /// Frees every tensor of the state.
        member state.Dispose() =
            for level in state.Levels do
                level.Vector.Dispose()

                for tensor in level.Rule.All do
                    tensor.Dispose()

/// What one meta step did.
[<NoComparison; AllowNullLiteral; Sealed>]
type MetaReport internal (metaLoss: float, hypergradientNorm: float, response: Report) =
    /// The meta loss at (θₜ, λ), before λ's step.
    member _.MetaLoss = metaLoss
    /// ‖h‖, direct gradient included.
    member _.HypergradientNorm = hypergradientNorm
    /// What the method did.
    member _.Response = response

/// What one base step did, numbers alone.
[<NoComparison>]
type StepReport =
    {
        /// base steps taken, this one included
        Step: int64
        /// NaN if the step was skipped before its loss was known to be finite
        BaseLoss: float
        /// the meta step that followed, or null
        Meta: MetaReport
        /// why the step was left out, or null
        Skipped: string
    }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// States of runs.
module RunState =

    /// The same state with every tensor changed.
    let map (f: Tensor -> Tensor) (state: RunState) : RunState =
        { state with
            Levels =
                [| for level in state.Levels ->
                       { Vector = f level.Vector
                         Rule = RuleState.map f level.Rule } |] }

    /// A copy of the state on that device, owned by the caller.
    let toDevice (device: torch.Device) (state: RunState) : RunState =
        map (fun tensor -> Scope.detach (tensor.``to`` (device, copy = true))) state

    /// Frees every tensor of a state.
    let dispose (state: RunState) : unit = (state :> IDisposable).Dispose()

/// Runs of a problem as pure steps from state to state, and what the in-place run shares with them.
module Bilevel =

    /// The levels' initial parameters and rule states; the caller owns the result. ArgumentException names a parameter
    /// that influences no loss.
    let start (seed: int64) (problem: BilevelProblem) : RunState =
        Scope.run (fun keep ->
            let vectors = problem.Levels |> Array.map _.Initial()
            Problem.checkConnections problem vectors seed

            { Levels =
                [| for level, vector in Array.zip problem.Levels vectors ->
                       { Vector = vector
                         Rule = level.Rule.Init vector } |]
              Step = 0L
              Seed = seed }
            |> RunState.map keep)

    /// ArgumentException, by that name, for a state that is not of this problem or is disposed.
    let internal requireOf (problem: BilevelProblem) (argument: string) (state: RunState) : unit =
        if state.Levels.Count <> problem.Levels.Length then
            invalidArg argument $"the state has {state.Levels.Count} levels, the problem {problem.Levels.Length}"

        for level, own in Seq.zip problem.Levels state.Levels do
            if own.Vector.IsInvalid then
                invalidArg argument $"the state of level '{level.Name}' is disposed"

            if own.Vector.numel () <> level.Layout.Length then
                invalidArg
                    argument
                    $"level '{level.Name}' has {level.Layout.Length} parameters, the state {own.Vector.numel ()}"

    let internal requireFinite (watch: Watch) step (level: Level) what (vector: Tensor) =
        watch.Finite(
            vector,
            fun () ->
                let culprit =
                    Scope.run (fun _ ->
                        let bad (part: Tensor) = not (Number.isFinite part)
                        Layout.views level.Layout vector |> Array.tryFindIndex bad)

                let where =
                    culprit
                    |> Option.map (fun i -> $" of parameter '{level.Layout.Slices[i].Name}'")
                    |> Option.defaultValue ""

                raise (NonFiniteException(step, level.Name, what + where))
        )

    /// A loss, when it is known.
    let private watched (watch: Watch) step (level: Level) (loss: Tensor) : float ref =
        let known = ref nan

        watch.Number(
            loss,
            fun value ->
                if not (Double.IsFinite value) then
                    raise (NonFiniteException(step, level.Name, "the loss"))

                known.Value <- value
        )

        known

    /// The micro-batches of one base step, each a loss at its own draw.
    let internal micros (problem: BilevelProblem) seed (step: int64) : (Stops -> Params[] -> Tensor) list =
        let count = problem.Options.Accumulate

        [ for i in 0 .. count - 1 -> Problem.objective problem 0 (Problem.draw seed 0 (step * int64 count + int64 i)) ]

    /// The gradients at `vectors`, added into `gradients` (null: not asked for), and the loss; means over micro-batches.
    let internal basePass (problem: BilevelProblem) watch step (vectors: Tensor[]) (gradients: Tensor[]) micros =
        let share = 1.0 / float (List.length micros)

        let losses =
            micros
            |> List.map (fun micro ->
                let features = ResizeArray()

                // the graph dies here, before anything else needs memory
                Scope.run (fun keep ->
                    let loss =
                        Passes.gradient
                            problem.Levels
                            (Problem.precision problem)
                            vectors
                            gradients
                            share
                            (micro (Record features) >> Autodiff.requireLoss)

                    for feature in features do
                        keep feature |> ignore

                    keep (loss.to_type torch.float64)))

        let mean = (torch.stack (List.toArray losses)).mean ()
        let loss = watched watch step problem.Levels[0] mean
        requireFinite watch step problem.Levels[0] "the gradient" gradients[0]
        loss

    /// Meta loss at `vectors`, its gradients added into `gradients`.
    let internal metaPass (problem: BilevelProblem) watch seed step (vectors: Tensor[]) (gradients: Tensor[]) =
        let top = problem.Levels.Length - 1
        let draw = Problem.draw seed top (step / int64 problem.Options.Unroll)
        let objective = Problem.objective problem top draw Detach

        Scope.tensor (fun () ->
            Passes.gradient problem.Levels (Problem.precision problem) vectors gradients 1.0 objective)
        |> watched watch step problem.Levels[top]

    /// What is not finite in the meta gradient, or was made of it by the adaptation, shows in the hypergradient.
    let internal requireFiniteResponse
        (problem: BilevelProblem)
        (watch: Watch)
        step
        (metaGradient: Tensor)
        (h: Tensor)
        =
        watch.Finite(
            h,
            fun () ->
                use found = new Watch()
                requireFinite found step problem.Levels[0] "the meta gradient" metaGradient
                requireFinite found step (Array.last problem.Levels) "the hypergradient" h
                found.Close()
        )

    /// True if a meta step follows base step number `step`, counted from 0.
    let internal metaDue (options: BilevelOptions) (step: int64) =
        let unroll = int64 options.Unroll
        (step + 1L) % unroll = 0L && step + 1L - unroll >= options.WarmUp

    let internal metaReport (metaLoss: float ref) (h: Tensor) (response: Response) : MetaReport =
        MetaReport(metaLoss.Value, Scope.run (fun _ -> Number.read (Flat.norm h)), response.Report.Value)

    /// Points modules back at live, trainable vectors.
    let internal rebind (problem: BilevelProblem) (vectors: Tensor[]) : unit =
        Scope.run (fun _ ->
            for level, vector in Array.zip problem.Levels vectors do
                if level.Module.IsSome then
                    level.Bind(Params.probe level.Layout vector))

    let internal vectorsOf (state: RunState) : Tensor[] =
        [| for level in state.Levels -> level.Vector |]

    /// True if the base pass is to give ∂L_base/∂λ too.
    let internal wantsLambdaGradient (problem: BilevelProblem) =
        List.contains BaseLambdaGradient problem.Method.Needs

    /// One base step from the last of `states` (latest first), not yet taken; the earlier ones are its history.
    let private baseStep (problem: BilevelProblem) watch (states: RunState list) : BaseStep * float ref =
        let state = states.Head
        let vectors = vectorsOf state
        let gradients = vectors |> Array.map torch.zeros_like
        let micros' = micros problem state.Seed state.Step

        let wanted =
            if wantsLambdaGradient problem then
                gradients
            else
                Array.append [| gradients[0] |] (Array.create (vectors.Length - 1) null)

        let loss = basePass problem watch state.Step vectors wanted micros'

        let history count =
            let past = states |> List.truncate count |> List.rev

            struct (past.Head.Theta,
                    past.Head.Levels[0].Rule,
                    [ for state in past -> micros problem state.Seed state.Step ])

        { Micros = micros'
          Theta = vectors[0]
          State = state.Levels[0].Rule
          Gradient = gradients[0]
          LambdaGradient =
            (if isNull wanted[1] then
                 null
             else
                 Linearization.joined wanted[1..])
          History = fun count -> history (if count = 0 then problem.Options.Unroll else count) },
        loss

    let private take (problem: BilevelProblem) watch step (taken: BaseStep) : Tensor * RuleState =
        let u, next = problem.Levels[0].Rule.Step taken.State taken.Gradient taken.Theta
        requireFinite watch step problem.Levels[0] "the update" u
        taken.Theta - u, next

    let private solution (problem: BilevelProblem) (upper: Tensor[]) (taken: BaseStep) (theta: Tensor) : IBaseSolution =
        BaseSolution.ofStep
            problem.Levels
            upper
            taken
            { After = fun () -> theta
              Scratch = fun () -> torch.empty_like theta
              AdaptInPlace = fun v -> v.copy_ (BaseSolution.adapt problem.Levels[0].Rule taken v) |> ignore }

    /// Total and direct gradient, response, meta loss behind a base step that leads to `theta`.
    let private differentiate (problem: BilevelProblem) watch (state: RunState) (taken: BaseStep) (theta: Tensor) =
        Problem.keepingBuffers problem (fun () ->
            let upper = (vectorsOf state)[1..]
            let vectors = Array.append [| theta |] upper
            let gradients = vectors |> Array.map torch.zeros_like
            let metaLoss = metaPass problem watch state.Seed state.Step vectors gradients
            let at = solution problem upper taken theta

            let response, direct =
                if upper.Length = 1 then
                    problem.Method.BestResponse at gradients[0], gradients[1]
                else
                    let draw = Problem.draw state.Seed 1 (state.Step / int64 problem.Options.Unroll)
                    let middle = Problem.objective problem 1 draw Detach
                    Chain.respond problem middle taken.Micros state.Levels[1].Rule at vectors gradients, gradients[2]

            let h = direct + response.Vector
            requireFiniteResponse problem watch state.Step gradients[0] h
            h, direct, response, metaLoss)

    let private withBase vector rule (state: RunState) =
        { state with
            Levels = [| { Vector = vector; Rule = rule }; yield! Seq.tail state.Levels |]
            Step = state.Step + 1L }

    let private requireTwoLevels (problem: BilevelProblem) =
        if problem.Levels.Length <> 2 then
            invalidArg (nameof problem) "runs have two levels; Hypergradient.at takes three, for a loop of your own"

    let private advance (problem: BilevelProblem) (states: RunState list) : RunState * StepReport =
        let state = states.Head

        let report loss meta skipped =
            { Step = state.Step + 1L
              BaseLoss = loss
              Meta = meta
              Skipped = skipped }

        use watch = new Watch()

        try
            let taken, loss = baseStep problem watch states
            let theta, next = take problem watch state.Step taken

            if not (metaDue problem.Options state.Step) then
                watch.Close()
                withBase theta next state, report loss.Value null null
            else
                let h, _, response, metaLoss = differentiate problem watch state taken theta
                let lambda = state.Levels[1]
                let u, metaNext = problem.Levels[1].Rule.Step lambda.Rule h lambda.Vector
                requireFinite watch state.Step problem.Levels[1] "the update" u
                watch.Close()
                let theta = response.Move |> Option.fold (fun theta move -> theta + move) theta
                let moved = withBase theta next state

                { moved with
                    Levels =
                        [| moved.Levels[0]
                           { Vector = lambda.Vector - u
                             Rule = metaNext } |] },
                report loss.Value (metaReport metaLoss h response) null
        with :? NonFiniteException as e when problem.Options.NonFinite = NonFinitePolicy.Skip ->
            { state with Step = state.Step + 1L }, report nan null e.Message

    let private keepingModules (problem: BilevelProblem) (state: RunState) body =
        Problem.requireDevice problem (vectorsOf state)

        try
            Scope.run body
        finally
            rebind problem (vectorsOf state)
            Scope.sweep state.Step problem.Levels[0].Layout.Length

    /// Base steps up to the next meta step (`Unroll` of them from a window's start), and that one, unless warm-up
    /// lasts. Pure: the state given is untouched, the caller owns both. Modules are left looking at the state given.
    let step (problem: BilevelProblem) (state: RunState) : RunState * StepReport list =
        requireTwoLevels problem
        requireOf problem (nameof state) state

        keepingModules problem state (fun keep ->
            let rec window (states: RunState list) reports =
                let next, report = advance problem states
                let reports = report :: reports

                if next.Step % int64 problem.Options.Unroll = 0L then
                    RunState.map keep next, List.rev reports
                else
                    window (next :: states) reports

            window [ state ] [])

    /// Base steps from the state, as many as the method looks back on; the meta gradient is taken behind them.
    let internal compute (problem: BilevelProblem) (state: RunState) : Tensor * Tensor * Report =
        requireOf problem (nameof state) state

        keepingModules problem state (fun keep ->
            Problem.keepingBuffers problem (fun () ->
                use watch = new Watch()

                let rec behind (states: RunState list) count =
                    let taken, _ = baseStep problem watch states
                    let theta, next = take problem watch states.Head.Step taken

                    if count = 1 then
                        states.Head, taken, theta
                    else
                        behind (withBase theta next states.Head :: states) (count - 1)

                let last, taken, theta = behind [ state ] (Problem.history problem)
                let h, direct, response, _ = differentiate problem watch last taken theta
                watch.Close()
                keep h, keep direct, response.Report.Value))

    /// The meta loss at the state, on the meta batch of its step.
    let internal metaLossAt (problem: BilevelProblem) (state: RunState) : float =
        keepingModules problem state (fun _ ->
            Problem.keepingBuffers problem (fun () ->
                use watch = new Watch()
                let vectors = vectorsOf state
                let gradients = vectors |> Array.map torch.zeros_like
                let loss = metaPass problem watch state.Seed state.Step vectors gradients
                watch.Close()
                loss.Value))

    /// Base steps alone, from the state, until ‖u‖ ≤ tolerance or `maxSteps` are taken. Pure; the report has ‖u‖ as its
    /// residual, and says whether it converged.
    let solve (problem: BilevelProblem) (tolerance: float) (maxSteps: int) (state: RunState) : RunState * Report =
        requireOf problem (nameof state) state

        let rec iterate (current: RunState) count =
            let next, size =
                keepingModules problem current (fun keep ->
                    use watch = new Watch()
                    let taken, _ = baseStep problem watch [ current ]
                    let theta, rule = take problem watch current.Step taken
                    watch.Close()
                    let size = Method.size (taken.Theta - theta)

                    { Vector = keep theta
                      Rule = RuleState.map keep rule },
                    size)

            if count > 0 then
                current.Theta.Dispose()
                RuleState.dispose current.Levels[0].Rule

            let current = withBase next.Vector next.Rule current

            if size <= tolerance || count + 1 >= maxSteps then
                let own (tensor: Tensor) = tensor.alias ()

                let upper =
                    [ for level in Seq.tail current.Levels ->
                          { Vector = own level.Vector
                            Rule = RuleState.map own level.Rule } ]

                { current with
                    Levels = [| next; yield! upper |] },
                { Report.empty "solve" with
                    Residual = Nullable size
                    Converged = Nullable(size <= tolerance)
                    Passes = count + 1 }
            else
                iterate current (count + 1)

        iterate state 0
