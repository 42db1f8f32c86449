namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The in-place run: the same steps as `Bilevel.step`, on vectors that live as long as the run. Not thread-safe.
///
/// A step that takes a meta step leaves θ, λ and the rules' states alone until everything is known: θₜ lies in `next`,
/// which is lent as scratch afterwards, the meta gradient is adapted where it lies. So a step that fails has changed
/// nothing, and SAMA adds two vectors of θ's length to the θ, g and rule state of plain training.
[<Sealed>]
type BilevelRun private (problem: BilevelProblem, initial: RunState, own: Tensor -> Tensor) =
    static let copy (tensor: Tensor) = Scope.detach (tensor.clone ())

    do
        if problem.Levels.Length <> 2 then
            invalidArg (nameof problem) "runs have two levels; Hypergradient.at takes three, for a loop of your own"

        Bilevel.requireOf problem (nameof initial) initial
        Problem.requireDevice problem (Bilevel.vectorsOf initial)

    let mutable state = RunState.map own initial
    let theta, lambda = state.Theta, state.Lambda
    let zeros (like: Tensor) = Scope.detach (torch.zeros_like like)
    let gradient = zeros theta
    let h = zeros lambda
    // made when the first meta step is due
    let next = lazy (zeros theta)
    let metaGradient = lazy (zeros theta)
    let lambdaGradient = lazy (zeros lambda)
    let rules = problem.Levels |> Array.map _.Rule
    let live = [| theta; lambda |]
    let restore () = Bilevel.rebind problem live

    /// Where the differentiated steps of the window begin, if the method looks back on more than one.
    let mutable snapshot: struct (Tensor * RuleState * int64) voption = ValueNone

    let forget () =
        match snapshot with
        | ValueSome(struct (theta, rule, _)) ->
            theta.Dispose()
            RuleState.dispose rule
        | ValueNone -> ()

        snapshot <- ValueNone

    let remember () =
        let back = Problem.history problem

        if back > 1 && Bilevel.metaDue problem.Options (state.Step + int64 back - 1L) then
            forget ()
            snapshot <- ValueSome(struct (copy theta, RuleState.map copy state.Levels[0].Rule, state.Step))

    let history _ =
        match snapshot with
        | ValueSome(struct (theta, rule, first)) ->
            struct (theta, rule, [ for step in first .. state.Step -> Bilevel.micros problem state.Seed step ])
        | ValueNone -> struct (theta, state.Levels[0].Rule, [ Bilevel.micros problem state.Seed state.Step ])

    let minus =
        Scope.detach (torch.tensor (-1.0, dtype = theta.dtype, device = theta.device))

    /// θₜ = θₜ₋₁ − u, into `next`.
    let preview () =
        rules[0].InPlace.Update None state.Levels[0].Rule gradient theta next.Value
        |> ignore

        Flat.combine next.Value theta minus next.Value

    let work =
        let mutable lent = false

        fun () ->
            lent <- false

            { After =
                fun () ->
                    if lent then
                        preview ()
                        lent <- false

                    next.Value
              Scratch =
                fun () ->
                    lent <- true
                    next.Value
              AdaptInPlace = fun v -> rules[0].InPlace.AdaptInto state.Levels[0].Rule gradient theta v }

    /// The hypergradient into h; θ, λ and the rules' states are only read.
    let hypergradient watch micros =
        preview ()
        Bilevel.requireFinite watch state.Step problem.Levels[0] "the update" next.Value
        metaGradient.Value.zero_ () |> ignore

        let metaLoss =
            Bilevel.metaPass problem watch state.Seed state.Step [| next.Value; lambda |] [| metaGradient.Value; h |]

        let taken =
            { Micros = micros
              Theta = theta
              State = state.Levels[0].Rule
              Gradient = gradient
              LambdaGradient =
                if Bilevel.wantsLambdaGradient problem then
                    lambdaGradient.Value
                else
                    null
              History = history }

        let at = BaseSolution.ofStep problem.Levels [| lambda |] taken (work ())
        let response = problem.Method.BestResponse at metaGradient.Value
        h.add_ response.Vector |> ignore
        Bilevel.requireFiniteResponse problem watch state.Step metaGradient.Value h
        response, metaLoss

    /// The rule's step on a level, its gradient vector overwritten by u. What is watched is known before anything is
    /// overwritten.
    let update (watch: Watch) index (gradient: Tensor) =
        let level = state.Levels[index]

        let check u =
            Bilevel.requireFinite watch state.Step problem.Levels[index] "the update" u
            watch.Close()

        let rule =
            rules[index].InPlace.Update (Some check) level.Rule gradient level.Vector gradient

        level.Vector.sub_ gradient |> ignore
        rule

    let step () =
        use watch = new Watch()
        remember ()
        let due = Bilevel.metaDue problem.Options state.Step
        gradient.zero_ () |> ignore
        h.zero_ () |> ignore
        let micros = Bilevel.micros problem state.Seed state.Step

        let ofLambda =
            if due && Bilevel.wantsLambdaGradient problem then
                lambdaGradient.Value.zero_ ()
            else
                null

        let loss =
            Bilevel.basePass problem watch state.Step live [| gradient; ofLambda |] micros

        let meta =
            if due then
                Some(Problem.keepingBuffers problem (fun () -> hypergradient watch micros))
            else
                None

        let report =
            meta
            |> Option.map (fun (response, metaLoss) ->
                watch.Close()
                Bilevel.metaReport metaLoss h response)

        // a rule of λ that fails has changed nothing; θ's update is known to be finite then
        let metaRule =
            match meta with
            | Some _ -> update watch 1 h
            | None -> state.Levels[1].Rule

        let baseRule = update watch 0 gradient

        match meta with
        | Some(response, _) -> response.Move |> Option.iter (fun move -> theta.add_ move |> ignore)
        | None -> ()

        state <-
            { state with
                Step = state.Step + 1L
                Levels = [| { Vector = theta; Rule = baseRule }; { Vector = lambda; Rule = metaRule } |] }

        { Step = state.Step
          BaseLoss = loss.Value
          Meta = Option.toObj report
          Skipped = null }

    do restore ()

    /// From a state, which is borrowed and copied. ArgumentException for a state of another problem or device.
    new(problem, initial: RunState) = new BilevelRun(problem, initial, copy)

    /// From the start, as `Bilevel.start seed problem` gives it, without a copy of it.
    new(problem, seed: int64) = new BilevelRun(problem, Bilevel.start seed problem, Scope.detach)

    /// The problem that is run.
    member _.Problem = problem

    /// Base steps taken.
    member _.StepsTaken = state.Step

    /// The live base parameters; borrowed, they change with the next step.
    member _.Theta = Params.frozen problem.Levels[0].Layout theta

    /// The live meta parameters; borrowed, they change with the next step.
    member _.Lambda = Params.frozen problem.Levels[1].Layout lambda

    /// One base step, and the meta step if one is due. If it throws, the state is the one before it, and modules look
    /// at it. NonFiniteException names step, level and parameter; with `NonFinitePolicy.Skip` the report does.
    member _.Step() : StepReport =
        try
            try
                Scope.run (fun _ -> step ())
            with :? NonFiniteException as e when problem.Options.NonFinite = NonFinitePolicy.Skip ->
                state <- { state with Step = state.Step + 1L }

                { Step = state.Step
                  BaseLoss = nan
                  Meta = null
                  Skipped = e.Message }
        finally
            restore ()
            Scope.sweep state.Step problem.Levels[0].Layout.Length

    /// A copy of the state, owned by the caller.
    member _.Snapshot() : RunState = RunState.map copy state

    interface IDisposable with
        member _.Dispose() =
            RunState.dispose state
            forget ()

            for tensor in
                [ gradient
                  h
                  minus
                  for made in [ next; metaGradient; lambdaGradient ] do
                      if made.IsValueCreated then
                          made.Value ] do
                tensor.Dispose()
