namespace Sama.Functional

open TorchSharp
open Sama

/// Reverse mode through base steps, one step's graph at a time.
///
/// A step maps (θ, s, λ) to (θ − u(s, g, θ), s′(s, g, θ)), g = ∂L_base(θ, λ)/∂θ. With the adjoints a of θ′ and b of s′,
/// w = −(∂u/∂g)ᵀ a + (∂s′/∂g)ᵀ b, the adjoints before it are a − (∂u/∂θ)ᵀ a + (∂s′/∂θ)ᵀ b + (∂g/∂θ)ᵀ w of θ,
/// −(∂u/∂s)ᵀ a + (∂s′/∂s)ᵀ b of s, and (∂g/∂λ)ᵀ w is added to that of λ. The Jacobians of u are the rule's own where it
/// has them in closed form: the automatic derivative of Adam's first steps is rounding.
module internal Trajectory =

    type private Place = { Theta: Tensor; State: RuleState }

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

    /// Adjoints of θ and the state's tensors before the step, and of λ.
    let private backward
        passes
        (s: Linearization.Subject)
        followStops
        (place: Place)
        micros
        (a: Tensor)
        (b: Tensor list)
        =
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
            let stay, before, w, ofOptions = throughRule s rule place value a b
            let struct (ofTheta, ofLambda) = at.Vjps w
            keep ((stay + ofTheta).detach ()), [ for t in before -> keep t ], keep (ofLambda + ofOptions))

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

    /// Every skip-th place of the differentiated steps, from `first` on; the others are freed at once.
    let private keptPlaces s (steps: Micro list[]) first skip (window: OpenWindow) : Place list =
        let isKept i = i >= first && (i - first) % skip = 0

        let mutable place =
            { Theta = window.Theta
              State = window.Rule }

        [ for i in 0 .. steps.Length - 1 do
              if isKept i then
                  place

              if i < steps.Length - 1 then
                  let next = forward s place steps[i]

                  if i > 0 && not (isKept i) then
                      free place

                  place <- next ]

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
            let skip = if o.Recompute then max 1 (int (sqrt (float last))) else 1
            let kept = keptPlaces s steps first skip window
            let mutable a = v
            let mutable b = RuleState.tensors window.Rule |> List.map torch.zeros_like
            let total = torch.zeros_like (Linearization.lambdaOf s)

            for segment in kept.Length - 1 .. -1 .. 0 do
                let from = first + segment * skip
                let until = min (from + skip) steps.Length

                Scope.run (fun keep ->
                    let places =
                        (kept[segment], [ from .. until - 2 ])
                        ||> List.scan (fun place i -> forward s place steps[i])

                    for i in until - 1 .. -1 .. from do
                        let before, states, add =
                            backward passes s o.FollowStops places[i - from] steps[i] a b

                        total.add_ add |> ignore
                        a <- before
                        b <- states

                    a <- keep a
                    b <- List.map keep b)

            if first = 0 then
                throughStart s a |> Option.iter (fun add -> total.add_ add |> ignore)

            total)
