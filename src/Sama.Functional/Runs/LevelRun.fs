namespace Sama.Functional

open System
open TorchSharp
open Sama

/// One level of a run in place: its vector and rule state, which are the run's own, and the vectors that its steps work
/// in, each made when it is first needed. A step that leads to a meta step leaves θ and the rule's state alone until
/// everything is known: θₜ lies in `next`, which is lent as scratch meanwhile. `atRest` is its rule outside a step, and on
/// ranks the state may be the part of it that this one has.
[<Sealed>]
type internal LevelRun(level: Level, atRest: BoundRule, own: LevelState) =
    let vector = own.Vector
    let mutable rule = own.Rule
    let mutable bound = atRest
    let mutable window = own.Window
    let mutable kept = own.Kept
    let zeros () = Scope.detach (torch.zeros_like vector)
    let gradient, next, meta = lazy zeros (), lazy zeros (), lazy zeros ()
    let mutable lent = false

    let minus =
        lazy Scope.detach (torch.tensor (-1.0, dtype = vector.dtype, device = vector.device))

    let preview () =
        bound.InPlace.Preview rule gradient.Value vector next.Value
        Flat.combine next.Value vector minus.Value next.Value
        lent <- false

    // handles of their own: who reads them may dispose them
    let show () =
        use _ = torch.NewDisposeScope()
        let shown = Params.frozen level.Layout (Scope.detach (vector.alias ()))
        shown.Views |> Array.iter (Scope.detach >> ignore)
        shown

    let mutable shown: Params = null

    let hide () =
        if not (isNull shown) then
            for handle in Array.append shown.Views [| shown.Given |] do
                handle.Dispose()

    member _.Level = level
    member _.Vector = vector
    member _.Rule = rule
    member _.Window = window

    /// Its rule, at the values of its learned options.
    member _.Bound = bound

    /// The rule of this step.
    member _.Follow(rule: BoundRule) : unit = bound <- rule

    /// Its parameters, as long as the run lives.
    member _.Parameters: Params =
        if isNull shown || shown.Given.IsInvalid || shown.Views |> Array.exists _.IsInvalid then
            hide ()
            shown <- show ()

        shown

    /// Its gradient, or hypergradient, of this step.
    member _.Gradient = gradient.Value

    /// Gradients of the losses above it by its vector.
    member _.Meta = meta.Value

    /// θₜ = θₜ₋₁ − u is formed.
    member _.Preview() : unit = preview ()

    /// θₜ; it is formed again if its vector was lent.
    member _.After() : Tensor =
        if lent then
            preview ()

        next.Value

    /// θₜ's vector, lent until θₜ is asked for.
    member _.Scratch() : Tensor =
        lent <- true
        next.Value

    /// The step that is being taken, `window` with it where the method looks back.
    member run.Step(micros: Micro list, lambdaGradient: Tensor, window: OpenWindow) : LevelStep =
        { Rule = bound
          Micros = micros
          Theta = vector
          State = rule
          Gradient = gradient.Value
          LambdaGradient = lambdaGradient
          After = run.After
          Scratch = run.Scratch
          AdaptInPlace = fun v -> bound.InPlace.AdaptInto rule gradient.Value vector v
          Window = window
          Kept = kept }

    /// What the level's method finds at the next meta step; copied.
    member _.Keep(vector: Tensor) : unit =
        if isNull kept then
            kept <- Scope.copy vector
        else
            kept.copy_ vector |> ignore

    /// Whether the step is finite, 0-D: u and the rule's next state.
    member _.Sound() : Tensor =
        bound.InPlace.Sound rule gradient.Value vector

    /// The step is written; its gradient vector holds u then.
    member _.Commit() : unit =
        rule <- bound.InPlace.Advance rule gradient.Value vector gradient.Value
        vector.sub_ gradient.Value |> ignore

    /// Another state of the same level is copied in; its vector stays where it is.
    member run.Load(own: LevelState) : unit =
        vector.copy_ own.Vector |> ignore
        RuleState.dispose rule
        rule <- RuleState.map Scope.copy own.Rule

        if not (isNull kept) then
            kept.Dispose()

        kept <- if isNull own.Kept then null else Scope.copy own.Kept
        run.Close()

        window <-
            if isNull own.Window then
                null
            else
                own.Window.Map Scope.copy

    /// A window begins at the vector and rule state as they are.
    member run.Begin(step: int64) : unit =
        run.Close()
        window <- new OpenWindow(step, Scope.copy vector, RuleState.map Scope.copy rule, [])

    /// The open window has one step more, whose batches it owns from now on.
    member _.Record(step: int64, micros: Micro list) : unit =
        if not (isNull window) then
            window <- window.With(step, [ for micro in micros -> micro.Retain() ])

    /// The window ends.
    member _.Close() : unit =
        if not (isNull window) then
            (window :> IDisposable).Dispose()
            window <- null

    /// θ and the rule's state start anew. What undoes it, and what is to be called once it need not be undone.
    /// InvalidOperationException for a start of another length.
    member _.Reset(start: Tensor) : struct ((unit -> unit) * (unit -> unit)) =
        if isNull start || start.numel () <> vector.numel () then
            let given = if isNull start then "null" else $"{start.numel ()} numbers"
            invalidOp $"level '{level.Name}' is to start anew at {given}; it has {vector.numel ()}"

        let vectorBefore, ruleBefore = Scope.copy vector, rule
        vector.copy_ (start.detach().reshape -1L) |> ignore
        rule <- Scope.run (fun _ -> RuleState.map Scope.copy (atRest.Start vector))

        struct ((fun () ->
                    vector.copy_ vectorBefore |> ignore
                    vectorBefore.Dispose()
                    RuleState.dispose rule
                    rule <- ruleBefore),
                (fun () ->
                    vectorBefore.Dispose()
                    RuleState.dispose ruleBefore))

    /// What the state of the run says of it; the tensors are the run's own.
    member _.State: LevelState =
        { Name = level.Name
          Layout = level.Layout
          Update = Level.rule level
          Vector = vector
          Rule = rule
          Window = window
          Kept = kept }

    /// Frees what the steps worked in, but not the state.
    member _.Free() : unit =
        for made in [ gradient; next; meta; minus ] do
            if made.IsValueCreated then
                made.Value.Dispose()

        hide ()
