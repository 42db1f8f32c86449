namespace Sama

open System
open System.Collections.Generic

/// One level of a run's state: its flat vector and its rule's state.
[<ReferenceEquality>]
type LevelState = { Vector: Tensor; Rule: RuleState }

/// The state of a run as a value. Whoever holds it frees its tensors (`RunState.dispose`).
[<ReferenceEquality>]
type RunState =
    {
        /// from the lowest up
        Levels: IReadOnlyList<LevelState>
        /// base steps taken
        Step: int64
        Seed: int64
    }

    /// The base level's flat vector.
    member state.Theta = state.Levels[0].Vector

    /// The meta level's flat vector.
    member state.Lambda = state.Levels[1].Vector

    interface IDisposable with
        /// Frees every tensor of the state.
        member state.Dispose() =
            for level in state.Levels do
                level.Vector.Dispose()

                for tensor in level.Rule.All do
                    tensor.Dispose()

/// What one meta step did.
[<Sealed; AllowNullLiteral>]
type MetaReport internal (metaLoss: float, hypergradientNorm: float, response: Report) =
    /// The meta loss at θₜ, before λ moved.
    member _.MetaLoss = metaLoss

    /// ‖h‖
    member _.HypergradientNorm = hypergradientNorm

    /// What the best-response vjp did.
    member _.Response = response

/// What one base step did, numbers alone; `Meta` is null unless a meta step followed it.
[<NoComparison>]
type StepReport =
    {
        /// base steps taken, this one included
        Step: int64
        BaseLoss: float
        Meta: MetaReport
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

    /// Frees every tensor of a state.
    let dispose (state: RunState) : unit = (state :> IDisposable).Dispose()

/// Runs of a problem: as pure steps from state to state, and the parts that the in-place run shares with them.
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

    let private requireFinite step (level: Level) what (vector: Tensor) =
        if not (Number.isFinite vector) then
            let culprit =
                Scope.run (fun _ ->
                    let bad (part: Tensor) = not (Number.isFinite part)
                    Layout.views level.Layout vector |> Array.tryFindIndex bad)

            let where =
                culprit
                |> Option.map (fun i -> $" of parameter '{level.Layout.Slices[i].Name}'")
                |> Option.defaultValue ""

            raise (NonFiniteException(step, level.Name, what + where))

    let private requireFiniteLoss step (level: Level) (loss: float) =
        if not (Double.IsFinite loss) then
            raise (NonFiniteException(step, level.Name, "the loss"))

    /// Base gradient at `parameters`, summed into `gradient` (zero before); the mean over micro-batches.
    let internal baseStep
        (problem: BilevelProblem)
        seed
        step
        (parameters: Params[])
        (gradient: Tensor)
        state
        : BaseStep * float =
        let count = problem.Options.Accumulate

        let micros =
            [ for i in 0 .. count - 1 ->
                  Problem.objective problem 0 (Problem.draw seed 0 (step * int64 count + int64 i)) ]

        let loss =
            micros
            |> List.sumBy (fun micro ->
                let loss = micro PassKind.Base parameters
                Autodiff.backward (if count = 1 then loss else loss * (1.0 / float count))
                Number.read loss / float count)

        requireFiniteLoss step problem.Levels[0] loss
        requireFinite step problem.Levels[0] "the gradient" gradient

        { Micros = micros
          Theta = parameters[0].Vector
          State = state
          Gradient = gradient },
        loss

    /// u and the next state of the base rule.
    let internal baseUpdate (problem: BilevelProblem) step (taken: BaseStep) : Tensor * RuleState =
        let u, next = problem.Levels[0].Rule.Step taken.State taken.Gradient taken.Theta
        requireFinite step problem.Levels[0] "the update" u
        u, next

    /// Total and direct gradient, response, and meta loss at (θₜ, λ).
    let private differentiate (problem: BilevelProblem) seed step (vectors: Tensor[]) (taken: BaseStep) =
        let metaDraw = Problem.draw seed 1 (step / int64 problem.Options.Unroll)
        let gradients = vectors |> Array.map torch.zeros_like

        let parameters =
            Array.map3 (fun (level: Level) v g -> Params.leaves level.Layout v g) problem.Levels vectors gradients

        let loss = Problem.objective problem 1 metaDraw PassKind.Meta parameters
        Autodiff.backward loss
        let metaLoss = Number.read loss
        requireFiniteLoss step problem.Levels[1] metaLoss
        requireFinite step problem.Levels[0] "the meta gradient" gradients[0]

        let response =
            problem.Method.BestResponse (BaseSolution.ofStep problem.Levels vectors taken) gradients[0]

        let h = gradients[1] + response.Vector
        requireFinite step problem.Levels[1] "the hypergradient" h
        h, gradients[1], response, metaLoss

    let internal hypergradient problem seed step vectors taken =
        Problem.keepingBuffers problem (fun () -> differentiate problem seed step vectors taken)

    /// True if a meta step follows base step number `step`, counted from 0.
    let internal metaDue (options: BilevelOptions) (step: int64) =
        let unroll = int64 options.Unroll
        (step + 1L) % unroll = 0L && step + 1L - unroll >= options.WarmUp

    let internal metaReport metaLoss (h: Tensor) (response: Response) : MetaReport =
        let norm = Scope.run (fun _ -> Number.read (Number.norm h))
        MetaReport(metaLoss, norm, response.Report)

    let private frozenUpper (problem: BilevelProblem) (vectors: Tensor[]) =
        [| for i in 1 .. vectors.Length - 1 -> Params.frozen problem.Levels[i].Layout vectors[i] |]

    /// What a base pass sees: leaves of θ, the levels above frozen.
    let internal basePass (problem: BilevelProblem) (vectors: Tensor[]) (gradient: Tensor) : Params[] =
        [| Params.leaves problem.Levels[0].Layout vectors[0] gradient
           yield! frozenUpper problem vectors |]

    /// Points modules back at live, trainable vectors.
    let internal rebind (problem: BilevelProblem) (vectors: Tensor[]) : unit =
        Scope.run (fun _ ->
            for level, vector in Array.zip problem.Levels vectors do
                if level.Module.IsSome then
                    level.Bind(Params.probe level.Layout vector))

    let private one (problem: BilevelProblem) (state: RunState) =
        let vectors = [| for level in state.Levels -> level.Vector |]
        let gradient = torch.zeros_like vectors[0]
        let seen = basePass problem vectors gradient

        let taken, loss =
            baseStep problem state.Seed state.Step seen gradient state.Levels[0].Rule

        let u, next = baseUpdate problem state.Step taken
        let theta = vectors[0] - u
        vectors, taken, loss, theta, next

    let private advance (problem: BilevelProblem) (state: RunState) : RunState * StepReport =
        let vectors, taken, loss, theta, next = one problem state

        let report meta =
            { Step = state.Step + 1L
              BaseLoss = loss
              Meta = meta }

        let moved theta upper =
            { state with
                Levels = [| { Vector = theta; Rule = next }; upper |]
                Step = state.Step + 1L }

        if not (metaDue problem.Options state.Step) then
            moved theta state.Levels[1], report null
        else
            let after = Array.append [| theta |] vectors[1..]

            let h, _, response, metaLoss =
                hypergradient problem state.Seed state.Step after taken

            let u, metaNext = problem.Levels[1].Rule.Step state.Levels[1].Rule h state.Lambda

            let theta =
                match response.Move with
                | Some move -> theta + move
                | None -> theta

            moved
                theta
                { Vector = state.Lambda - u
                  Rule = metaNext },
            report (metaReport metaLoss h response)

    let private keepingModules (problem: BilevelProblem) (state: RunState) body =
        try
            Scope.run body
        finally
            rebind problem [| for level in state.Levels -> level.Vector |]

    /// Base steps up to the next meta step (`Unroll` of them from a window's start), and that one, unless warm-up
    /// lasts. Pure: the state given is untouched, the caller owns both. Modules are left looking at the state given.
    let step (problem: BilevelProblem) (state: RunState) : RunState * StepReport list =
        keepingModules problem state (fun keep ->
            let rec window state reports =
                let next, report = advance problem state
                let reports = report :: reports

                if next.Step % int64 problem.Options.Unroll = 0L then
                    RunState.map keep next, List.rev reports
                else
                    window next reports

            window state [])

    /// The hypergradient at a point: one base step is tried from the state (its batch, masks and rule state), the meta
    /// gradient is taken behind it. Total, direct gradient and report; nothing changes, the caller owns both vectors.
    let compute (problem: BilevelProblem) (state: RunState) : Tensor * Tensor * Report =
        keepingModules problem state (fun keep ->
            Problem.keepingBuffers problem (fun () ->
                let vectors, taken, _, theta, _ = one problem state
                let after = Array.append [| theta |] vectors[1..]
                let h, direct, response, _ = hypergradient problem state.Seed state.Step after taken
                keep h, keep direct, response.Report))

    /// Base steps alone, from the state, until ‖u‖ ≤ tolerance or `maxSteps` are taken. Pure; the report has ‖u‖ as its
    /// residual, and says whether it converged.
    let solve (problem: BilevelProblem) (tolerance: float) (maxSteps: int) (state: RunState) : RunState * Report =
        let upper = state.Levels[1]

        let rec iterate (current: RunState) count =
            let next, size =
                keepingModules problem current (fun keep ->
                    let _, taken, _, theta, rule = one problem current
                    let size = Number.read (Number.norm (taken.Theta - theta))

                    { Vector = keep theta
                      Rule = RuleState.map keep rule },
                    size)

            if count > 0 then
                current.Theta.Dispose()
                RuleState.dispose current.Levels[0].Rule

            let current =
                { current with
                    Levels = [| next; upper |]
                    Step = current.Step + 1L }

            if size <= tolerance || count + 1 >= maxSteps then
                let own (tensor: Tensor) = tensor.alias ()

                { current with
                    Levels =
                        [| next
                           { Vector = own upper.Vector
                             Rule = RuleState.map own upper.Rule } |] },
                { Report.empty "solve" with
                    Residual = Nullable size
                    Converged = Nullable(size <= tolerance)
                    Passes = count + 1 }
            else
                iterate current (count + 1)

        iterate state 0
