namespace Sama.Functional

open TorchSharp
open Sama

/// Reverse mode through base steps, one step's graph at a time.
///
/// A step maps (θ, s, λ) to (θ − u(s, g, θ), s′(s, g, θ)), g = ∂L_base(θ, λ)/∂θ. With the adjoints a of θ′ and b of s′,
/// w = −(∂u/∂g)ᵀ a + (∂s′/∂g)ᵀ b, the adjoints before it are a − (∂u/∂θ)ᵀ a + (∂s′/∂θ)ᵀ b + (∂g/∂θ)ᵀ w of θ,
/// −(∂u/∂s)ᵀ a + (∂s′/∂s)ᵀ b of s, and (∂g/∂λ)ᵀ w is added to that of λ. (∂u/∂g)ᵀ is the rule's adaptation in closed
/// form where it has one: the automatic derivative of Adam's first steps is rounding.
module internal Unrolling =

    type private Place = { Theta: Tensor; State: RuleState }

    let private forward (levels: Level[]) lambda (place: Place) micros : Place =
        Scope.run (fun keep ->
            // a step taken again: its features are those of its own θ
            let x = Autodiff.leaf place.Theta
            let loss = Linearization.loss levels micros Detach x lambda
            let g = Autodiff.pull Autodiff.Freed loss (torch.ones_like loss) x
            let u, next = levels[0].Rule.Step place.State g place.Theta

            { Theta = keep ((place.Theta - u).detach ())
              State = RuleState.map (fun t -> keep (t.detach ())) next })

    let private free (place: Place) =
        place.Theta.Dispose()
        RuleState.dispose place.State

    /// Adjoints of θ and the state's tensors before the step, and of λ.
    let private backward (levels: Level[]) lambda followStops (place: Place) micros (a: Tensor) (b: Tensor list) =
        Scope.run (fun keep ->
            let rule = levels[0].Rule
            let stops = if followStops then Follow(ResizeArray()) else Detach
            let value, at = Linearization.at levels micros lambda stops place.Theta
            let g, theta = Autodiff.leaf value, Autodiff.leaf place.Theta
            let state = RuleState.map Autodiff.leaf place.State
            let u, next = rule.Step state g theta
            let ofState = List.zip (RuleState.tensors next) b
            let inputs = [| theta; yield! RuleState.tensors state |]
            let before = Autodiff.pullAll Autodiff.Kept ((u, -a) :: ofState) inputs

            let w =
                match rule.Adapt with
                | Ok adapt ->
                    adapt place.State value place.Theta -a
                    + (Autodiff.pullAll Autodiff.Freed ofState [| g |])[0]
                | Error _ -> (Autodiff.pullAll Autodiff.Freed ((u, -a) :: ofState) [| g |])[0]

            keep ((a + before[0] + at.ThetaVjp w).detach ()),
            [ for t in before[1..] -> keep (t.detach ()) ],
            keep (at.LambdaVjp w))

    /// (dθₜ/dλ)ᵀ v through the last `last` of the steps that begin at `theta` and `state`.
    let vjp (levels: Level[]) (lambda: Tensor) (o: UnrolledOptions) last theta state steps (v: Tensor) : Tensor =
        Scope.tensor (fun () ->
            let steps = Array.ofList steps
            let first = steps.Length - last
            let skip = if o.Recompute then max 1 (int (sqrt (float last))) else 1
            let isKept i = i >= first && (i - first) % skip = 0

            // every skip-th place of the differentiated steps; the others are freed at once
            let kept = ResizeArray()
            let mutable place = { Theta = theta; State = state }

            for i in 0 .. steps.Length - 1 do
                if isKept i then
                    kept.Add place

                if i < steps.Length - 1 then
                    let next = forward levels lambda place steps[i]

                    if i > 0 && not (isKept i) then
                        free place

                    place <- next

            let mutable a = v
            let mutable b = RuleState.tensors state |> List.map torch.zeros_like
            let total = torch.zeros_like lambda

            for segment in kept.Count - 1 .. -1 .. 0 do
                let from = first + segment * skip
                let until = min (from + skip) steps.Length

                Scope.run (fun keep ->
                    let places =
                        (kept[segment], [ from .. until - 2 ])
                        ||> List.scan (fun place i -> forward levels lambda place steps[i])

                    for i in until - 1 .. -1 .. from do
                        let before, states, add =
                            backward levels lambda o.FollowStops places[i - from] steps[i] a b

                        total.add_ add |> ignore
                        a <- before
                        b <- states

                    a <- keep a
                    b <- List.map keep b)

            total)
