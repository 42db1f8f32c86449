namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// Reverse mode through base steps, one step's graph at a time.
///
/// A step maps (θ, s, λ) to (θ − u(s, g, θ), s′(s, g, θ)), g = ∂L_base(θ, λ)/∂θ. With the adjoints a of θ′ and b of s′,
/// w = −(∂u/∂g)ᵀ a + (∂s′/∂g)ᵀ b, the adjoints before it are a − (∂u/∂θ)ᵀ a + (∂s′/∂θ)ᵀ b + (∂g/∂θ)ᵀ w of θ,
/// −(∂u/∂s)ᵀ a + (∂s′/∂s)ᵀ b of s, and (∂g/∂λ)ᵀ w is added to that of λ. The Jacobians of u are the rule's own where it
/// has them in closed form: the automatic derivative of Adam's first steps is rounding.
module internal Trajectory =

    /// θ and the rule's state before a step.
    [<NoComparison; ReferenceEquality>]
    type Place = { Theta: Tensor; State: RuleState }

    /// Derivatives by what a step begins with: θ, the rule's state, and λ, which has gathered its own of all later steps.
    [<NoComparison; ReferenceEquality>]
    type Adjoints =
        { OfTheta: Tensor
          OfState: Tensor list
          OfLambda: Tensor }

    let private ruleOf (s: Linearization.Subject) =
        LearnedOptions.rule s.Problem s.Index s.Vectors

    let private forward (s: Linearization.Subject) (place: Place) micros : Place =
        Scope.run (fun keep ->
            // a step taken again: its features are those of its own θ
            let gradients = Array.create s.Vectors.Length null
            let g = torch.zeros_like place.Theta
            gradients[s.Index] <- g

            Passes.accumulate
                s.Problem
                s.Precision
                micros
                Mode.Again
                (Array.updateAt s.Index place.Theta s.Vectors)
                gradients

            Across.mean s.Problem "the gradient of a step taken again" g
            let u, next = (ruleOf s).Take place.State g place.Theta

            { Theta = keep ((place.Theta - u).detach ())
              State = RuleState.map (fun t -> keep (t.detach ())) next })

    let private free (place: Place) =
        place.Theta.Dispose()
        RuleState.dispose place.State

    /// Frees adjoints.
    let discard (adjoints: Adjoints) : unit =
        for tensor in adjoints.OfTheta :: adjoints.OfLambda :: adjoints.OfState do
            tensor.Dispose()

    /// Through the rule at g: the adjoint of θ at fixed g, those of the state's tensors, w, and that of λ by options.
    let private throughRule
        (s: Linearization.Subject)
        (rule: BoundRule)
        (place: Place)
        (gradient: Tensor)
        (a: Tensor)
        (b: Tensor list)
        =
        Scope.run (fun keep ->
            let lambda = Autodiff.leaf (Linearization.lambdaOf s)

            let learned =
                if LearnedOptions.any s.Problem s.Index then
                    LearnedOptions.inGraph s.Problem s.Index s.Vectors s.Upper (Passes.parted s.Problem s.Upper lambda)
                else
                    rule

            let g, theta = Autodiff.leaf gradient, Autodiff.leaf place.Theta
            let state = RuleState.map Autodiff.leaf place.State
            let u, next = learned.Take state g theta
            let ofState = List.zip (RuleState.tensors next) b
            let tensors = RuleState.tensors state |> Array.ofList

            let pulled =
                Autodiff.pullAll Autodiff.Kept ((u, -a) :: ofState) (Array.append tensors [| lambda |])

            let ofNext = Autodiff.pullAll Autodiff.Kept ofState [| g; theta |]

            let byGradient =
                match rule.ByGradient with
                | Ok jacobian -> jacobian.Pull place.State gradient place.Theta -a
                | Error _ -> (Autodiff.pullAll Autodiff.Freed [ u, -a ] [| g |])[0]

            let byTheta = rule.ByTheta.Pull place.State gradient place.Theta -a

            keep ((a + byTheta + ofNext[1]).detach ()),
            [ for t in pulled[.. tensors.Length - 1] -> keep (t.detach ()) ],
            keep ((byGradient + ofNext[0]).detach ()),
            keep pulled[tensors.Length])

    /// The adjoints before a step, from those behind it, which stay; the caller owns them.
    let reverse passes (s: Linearization.Subject) followStops (place: Place) micros (behind: Adjoints) : Adjoints =
        Scope.run (fun keep ->
            let rule = ruleOf s

            let mode =
                if followStops then
                    { Mode.Again with
                        Stops = Follow(ResizeArray()) }
                else
                    Mode.Again

            let value, at = Products.at passes s micros mode null place.Theta
            // what it is formed from stays the rank's own
            let value = if Across.alone s.Problem then value else value.clone ()
            Across.mean s.Problem "the gradient of a step taken again" value

            let stay, before, w, ofOptions =
                throughRule s rule place value behind.OfTheta behind.OfState

            let struct (ofTheta, ofLambda) = at.Vjps w

            { OfTheta = keep ((stay + ofTheta).detach ())
              OfState = [ for t in before -> keep t ]
              OfLambda = keep (behind.OfLambda + ofLambda + ofOptions) })

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

    /// Steps as `Revolve` goes through them, in memory, from a place that stays; `adjoints` are those behind them, and those
    /// before them in the end.
    let private reversible (s: Linearization.Subject) (steps: Micro list[]) start reverse (adjoints: Adjoints ref) =
        let kept = Dictionary<int, Place>()
        kept[0] <- start
        let mutable live = start

        let leave (place: Place) =
            if not (obj.ReferenceEquals(place, start) || kept.ContainsValue place) then
                free place

        { new IReversible with
            member _.Advance step =
                let before = live
                live <- forward s before steps[step]
                leave before

            member _.Keep(step, _) = kept[step] <- live
            member _.Restore step = live <- kept[step]

            member _.Drop step =
                let place = kept[step]
                kept.Remove step |> ignore
                leave place

            member _.Reverse step =
                adjoints.Value <- reverse live steps[step] adjoints.Value
                leave live }

    /// (dθₜ/dλ)ᵀ v through the last `last` of the steps that were taken since the window began.
    let vjp
        (passes: int ref)
        (s: Linearization.Subject)
        (o: UnrolledOptions)
        (last: int)
        (window: OpenWindow)
        (v: Tensor)
        : Tensor =
        Scope.tensor (fun () ->
            let steps = [| for struct (_, micros) in window.Taken -> micros |]
            let first = steps.Length - last

            let began =
                { Theta = window.Theta
                  State = window.Rule }

            let start =
                (began, steps[.. first - 1])
                ||> Array.fold (fun place micros ->
                    let next = forward s place micros

                    if not (obj.ReferenceEquals(place, began)) then
                        free place

                    next)

            let reverse place micros (after: Adjoints) =
                let before = reverse passes s o.FollowStops place micros after

                if not (obj.ReferenceEquals(after.OfTheta, v)) then
                    discard after

                before

            let adjoints = ref (behind s window.Rule v)
            // with that many places no step is taken more than twice
            let places =
                if o.Recompute then
                    int (ceil (sqrt (2.0 * float last)))
                else
                    last

            reversible s steps[first..] start reverse adjoints
            |> Revolve.run places [ 0 ] last

            let total = adjoints.Value.OfLambda

            if first = 0 then
                match throughStart s adjoints.Value.OfTheta with
                | Some add -> total + add
                | None -> total
            else
                total)

    /// The steps of a window, as methods see them.
    let ofWindow (passes: int ref) (s: Linearization.Subject) (window: OpenWindow) : ITrajectory =
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

                struct (vjp passes replayed o last window v, last) }
