namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional.RuleReverse

/// Reverse mode through base steps, one step's graph at a time.
///
/// A step maps (θ, s, λ) to (θ − u(s, g, θ), s′(s, g, θ)), g = ∂L_base(θ, λ)/∂θ. With the adjoints a of θ′ and b of s′,
/// w = −(∂u/∂g)ᵀ a + (∂s′/∂g)ᵀ b, the adjoints before it are a − (∂u/∂θ)ᵀ a + (∂s′/∂θ)ᵀ b + (∂g/∂θ)ᵀ w of θ,
/// −(∂u/∂s)ᵀ a + (∂s′/∂s)ᵀ b of s, and (∂g/∂λ)ᵀ w is added to that of λ.
module internal Trajectory =

    /// Derivatives by what a step begins with: θ, the rule's state, and λ, which has gathered its own of all later steps.
    [<NoComparison; ReferenceEquality>]
    type Adjoints =
        { OfTheta: Tensor
          OfState: Tensor list
          OfLambda: Tensor }

    let private ruleOf (s: Linearization.Subject) =
        LearnedOptions.rule s.Problem s.Index s.Vectors

    /// What passes at a place know, and the gradient that its step takes: the mean over the ranks.
    [<NoComparison; ReferenceEquality>]
    type private Known =
        { Own: Differenced.Origin
          Step: Tensor }

        member known.Free() =
            for tensor in known.Step :: known.Own.Tensors do
                tensor.Dispose()

    let private modeOf followStops =
        if followStops then
            { Mode.Again with
                Stops = Follow(ResizeArray()) }
        else
            // a step taken again: its features are those of its own θ
            Mode.Again

    /// Fresh handles.
    let private look (s: Linearization.Subject) followStops (place: Place) micros : Known =
        Scope.run (fun keep ->
            let own = Differenced.origin s micros (modeOf followStops) place.Theta

            let step =
                if Across.alone s.Problem then
                    own.Gradient.alias ()
                else
                    own.Gradient.clone ()

            Across.mean s.Problem "the gradient of a step taken again" step

            { Own =
                { own with
                    Gradient = keep own.Gradient
                    Features = own.Features |> List.map (Array.map keep) }
              Step = keep step })

    let private copied (place: Place) : Place =
        { Theta = place.Theta.clone ()
          State = RuleState.map _.clone() place.State }

    /// The place behind a step, in the storage of the one before it.
    let private advance (rule: BoundRule) (lend: unit -> Tensor) (gradient: Tensor) (place: Place) : Place =
        Scope.run (fun _ ->
            use _ = torch.no_grad ()
            let u = lend ()
            let state = rule.InPlace.Advance place.State gradient place.Theta u
            place.Theta.sub_ u |> ignore
            { place with State = state })

    let private free (place: Place) =
        place.Theta.Dispose()
        RuleState.dispose place.State

    /// Frees adjoints.
    let discard (adjoints: Adjoints) : unit =
        for tensor in adjoints.OfTheta :: adjoints.OfLambda :: adjoints.OfState do
            tensor.Dispose()

    let private reversed
        passes
        (s: Linearization.Subject)
        followStops
        lend
        (place: Place)
        micros
        known
        (behind: Adjoints)
        =
        Scope.run (fun keep ->
            let rule = ruleOf s
            let own = known |> Option.map _.Own

            let value, at =
                Products.at passes s micros (modeOf followStops) lend own place.Theta

            let gradient =
                match known with
                | Some known -> known.Step
                | None ->
                    // what it is formed from stays the rank's own
                    let value = if Across.alone s.Problem then value else value.clone ()
                    Across.mean s.Problem "the gradient of a step taken again" value
                    value

            let ofTheta, before, w, ofOptions =
                RuleReverse.through s rule place gradient behind.OfTheta behind.OfState

            let struct (through, ofLambda) = at.Vjps w

            { OfTheta = keep (ofTheta.add_ through)
              OfState = List.map keep before
              OfLambda = keep (ofOptions.add_(ofLambda).add_ behind.OfLambda) })

    /// The adjoints before a step, from those behind it, which stay; the caller owns them. `lend` gives a vector to overwrite.
    let reverse passes s followStops lend place micros (behind: Adjoints) : Adjoints =
        reversed passes s followStops lend place micros None behind

    /// The adjoints behind the last step, where the loss has the derivative v by θ: they share v.
    let behind (s: Linearization.Subject) (state: RuleState) (v: Tensor) : Adjoints =
        { OfTheta = v
          OfState = RuleState.tensors state |> List.map torch.zeros_like
          OfLambda = torch.zeros_like (Linearization.lambdaOf s) }

    /// (∂θ₀/∂λ)ᵀ a of a window that starts where the levels above say.
    let private throughStart (s: Linearization.Subject) (a: Tensor) : Tensor option =
        s.Problem.Levels[s.Index].Reset
        |> Option.map (fun start ->
            let l = Autodiff.leaf (Linearization.lambdaOf s)
            let upper = List.zip s.Upper (List.ofArray (Passes.parted s.Problem s.Upper l))

            let parameters =
                s.Problem.Levels
                |> Array.mapi (fun i level ->
                    match upper |> List.tryFind (fun (j, _) -> j = i) with
                    | Some(_, own) -> Params.traced level.Layout own
                    | None -> Params.frozen level.Layout s.Vectors[i])

            Autodiff.pull Autodiff.Freed (start (Levels(s.Problem.LevelNames, parameters))) a l)

    /// Steps as `Revolve` goes through them, in memory, from a place that stays. `look` finds what passes know at a place, and
    /// `keeps` tells whether it is kept until the step is reversed; `adjoints` are those behind the steps, and those before
    /// them in the end.
    let private reversible rule lend (steps: Micro list[]) (start: Place) look keeps reverse (adjoints: Adjoints ref) =
        let kept, known = Dictionary<int, Place>(), Dictionary<int, Known>()
        kept[0] <- start
        let mutable live = start

        let isKept place =
            obj.ReferenceEquals(place, start) || kept.ContainsValue place

        let leave (place: Place) =
            if not (isKept place) then
                free place

        { new IReversible with
            member _.Advance step =
                let at: Known =
                    match known.TryGetValue step with
                    | true, at -> at
                    | _ -> look live steps[step]

                let own = if isKept live then copied live else live
                live <- advance rule lend at.Step own

                if keeps then known[step] <- at else at.Free()

            member _.Keep(step, _) = kept[step] <- live

            member _.Restore step =
                leave live
                live <- kept[step]

            member _.Drop step =
                let place = kept[step]
                kept.Remove step |> ignore

                if not (obj.ReferenceEquals(place, live)) then
                    leave place

            member _.Reverse step =
                let at =
                    match known.TryGetValue step with
                    | true, at -> Some at
                    | _ -> None

                known.Remove step |> ignore
                adjoints.Value <- reverse live steps[step] at adjoints.Value
                at |> Option.iter (fun (at: Known) -> at.Free()) }

    /// (dθₜ/dλ)ᵀ v through the last `last` of the steps that were taken since the window began.
    let private vjp (passes: int ref) (s: Linearization.Subject) (o: UnrolledOptions) last lend (window: OpenWindow) v =
        Scope.tensor (fun () ->
            let rule = ruleOf s
            let steps = [| for struct (_, micros) in window.Taken -> micros |]
            let first = steps.Length - last
            let look = look s o.FollowStops

            let start =
                if first = 0 then
                    { Theta = window.Theta
                      State = window.Rule }
                else
                    let began =
                        copied
                            { Theta = window.Theta
                              State = window.Rule }

                    (began, steps[.. first - 1])
                    ||> Array.fold (fun place micros ->
                        let at: Known = look place micros
                        let next = advance rule lend at.Step place
                        at.Free()
                        next)

            let reverse place micros known (after: Adjoints) =
                let before = reversed passes s o.FollowStops lend place micros known after

                if not (obj.ReferenceEquals(after.OfTheta, v)) then
                    discard after

                before

            let adjoints = ref (behind s window.Rule v)

            // so that no step of the rule is taken more than twice
            let places =
                Seq.initInfinite ((+) 1) |> Seq.find (fun c -> Revolve.reach c 2 >= float last)

            reversible rule lend steps[first..] start look (not o.Recompute) reverse adjoints
            |> Revolve.run places [ 0 ] last

            if first > 0 then
                free start

            let total = adjoints.Value.OfLambda

            if first = 0 then
                match throughStart s adjoints.Value.OfTheta with
                | Some add -> total + add
                | None -> total
            else
                total)

    /// The steps of a window, as methods see them.
    let ofWindow
        (passes: int ref)
        (s: Linearization.Subject)
        (lend: unit -> Tensor)
        (window: OpenWindow)
        : ITrajectory =
        { new ITrajectory with
            member _.Unrolled(o, v) =
                // a state of another method may have brought a longer window
                let steps = window.Steps
                let first = steps[steps.Count - 1] - Structure.lookback s.Problem s.Index
                let taken = steps |> Seq.filter (fun number -> number > first) |> Seq.length
                let last = if o.Last = 0 then taken else min o.Last taken

                let replayed =
                    { s with
                        Precision = Problem.precision s.Problem }

                struct (vjp passes replayed o last lend window v, last) }
