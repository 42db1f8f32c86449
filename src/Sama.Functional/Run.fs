namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The in-place run: the same steps as `Bilevel.step`, on vectors that live as long as the run. The initial state is
/// borrowed and copied. Not thread-safe.
[<Sealed>]
type BilevelRun(problem: BilevelProblem, initial: RunState) =
    let own (tensor: Tensor) = Scope.detach (tensor.clone ())
    let mutable state = RunState.map own initial
    let vectors = [| for level in state.Levels -> level.Vector |]
    let gradient = own vectors[0]
    let previous = own vectors[0]
    let restore () = Bilevel.rebind problem vectors
    do restore ()

    let replace (index: int) (rule: RuleState) =
        let old = state.Levels[index].Rule
        let rule = RuleState.map own rule

        state <-
            { state with
                Levels =
                    state.Levels
                    |> Seq.mapi (fun i level -> if i = index then { level with Rule = rule } else level)
                    |> Array.ofSeq }

        RuleState.dispose old

    let metaStep taken =
        let h, _, response, metaLoss =
            Bilevel.hypergradient problem state.Seed state.Step vectors taken

        let u, next = problem.Levels[1].Rule.Step state.Levels[1].Rule h vectors[1]
        let report = Bilevel.metaReport metaLoss h response
        response.Move |> Option.iter (fun move -> vectors[0].add_ move |> ignore)
        vectors[1].sub_ u |> ignore
        replace 1 next
        report

    let step () =
        let due = Bilevel.metaDue problem.Options state.Step
        gradient.zero_ () |> ignore
        let seen = Bilevel.basePass problem vectors gradient

        let taken, loss =
            Bilevel.baseStep problem state.Seed state.Step seen gradient state.Levels[0].Rule

        let u, next = Bilevel.baseUpdate problem state.Step taken
        previous.copy_ vectors[0] |> ignore
        vectors[0].sub_ u |> ignore

        let meta =
            try
                if due then
                    metaStep { taken with Theta = previous }
                else
                    null
            with _ ->
                vectors[0].copy_ previous |> ignore
                reraise ()

        replace 0 next
        state <- { state with Step = state.Step + 1L }

        { Step = state.Step
          BaseLoss = loss
          Meta = meta }

    /// The problem that is run.
    member _.Problem = problem

    /// Base steps taken.
    member _.StepsTaken = state.Step

    /// The live base parameters; borrowed, they change with the next step.
    member _.Theta = Params.frozen problem.Levels[0].Layout vectors[0]

    /// The live meta parameters; borrowed, they change with the next step.
    member _.Lambda = Params.frozen problem.Levels[1].Layout vectors[1]

    /// One base step, and the meta step if one is due. If it throws, the state is the one before it, and modules look
    /// at it. NonFiniteException names step, level and parameter.
    member _.Step() : StepReport =
        try
            Scope.run (fun _ -> step ())
        finally
            restore ()

    /// A copy of the state, owned by the caller.
    member _.Snapshot() : RunState = RunState.map own state

    interface IDisposable with
        member _.Dispose() =
            RunState.dispose state
            gradient.Dispose()
            previous.Dispose()
