namespace Sama.Functional

open TorchSharp
open Sama

/// Reverse mode through a base rule, (s, g, θ) ↦ (u, s′), at a gradient g that is known. The Jacobians of u are the rule's own
/// where it has them in closed form: the automatic derivative of Adam's first steps is rounding.
module internal RuleReverse =

    /// θ and the rule's state before a step.
    [<NoComparison; ReferenceEquality>]
    type Place = { Theta: Tensor; State: RuleState }

    // coordinates at once: what automatic differentiation of a rule keeps of them is small then
    let private part = 1L <<< 18

    /// Through u and the next state by automatic differentiation: the adjoints of the state's tensors; of g and θ by the
    /// next state alone, of g by u too where the rule has no Jacobian; of λ by `lambda`, a leaf of the rule's.
    let private step (rule: BoundRule) (lambda: Tensor) (place: Place) gradient (a: Tensor) (b: Tensor list) =
        Scope.run (fun keep ->
            let g, theta = Autodiff.leaf gradient, Autodiff.leaf place.Theta
            let state = RuleState.map Autodiff.leaf place.State
            let u, next = rule.Take state g theta
            // a rule may give its state's tensors in another order
            let ofState =
                List.zip (RuleState.pairs "of the window" state next |> List.map snd) b

            let tensors = RuleState.tensors state |> Array.ofList

            let pulled =
                Autodiff.pullAll Autodiff.Kept ((u, -a) :: ofState) (Array.append tensors [| lambda |])

            let ofNext =
                if rule.ByGradient.IsOk then
                    Autodiff.pullAll Autodiff.Freed ofState [| g; theta |]
                else
                    let byBoth = Autodiff.pullAll Autodiff.Kept ((u, -a) :: ofState) [| g |]
                    [| byBoth[0]; (Autodiff.pullAll Autodiff.Freed ofState [| theta |])[0] |]

            [ for t in pulled[.. tensors.Length - 1] -> keep (t.detach ()) ],
            keep (ofNext[0].detach ()),
            keep (ofNext[1].detach ()),
            keep pulled[tensors.Length])

    /// The same, part by part.
    let private parts (rule: BoundRule) (lambda: Tensor) (place: Place) (gradient: Tensor) (a: Tensor) b =
        let length = place.Theta.numel ()
        let isWhole (t: Tensor) = t.dim () = 1L && t.numel () = length
        let ofState = RuleState.tensors place.State |> List.map torch.zeros_like
        let ofGradient, ofTheta = torch.empty_like gradient, torch.empty_like a

        for start in 0L .. part .. length - 1L do
            Scope.run (fun _ ->
                let count = min part (length - start)
                let cut (t: Tensor) = t.narrow (0L, start, count)
                let cutWhole t = if isWhole t then cut t else t

                let own =
                    { Theta = cut place.Theta
                      State = RuleState.map cutWhole place.State }

                let byState, byGradient, byTheta, _ =
                    step rule lambda own (cut gradient) (cut a) (List.map cutWhole b)

                (cut ofGradient).copy_ byGradient |> ignore
                (cut ofTheta).copy_ byTheta |> ignore

                for all, one in List.zip ofState byState do
                    (cutWhole all).add_ one |> ignore)

        ofState, ofGradient, ofTheta, torch.zeros_like lambda

    /// Through the rule at g: the adjoint of θ at fixed g, those of the state's tensors, w, and that of λ by options.
    let through (s: Linearization.Subject) (rule: BoundRule) (place: Place) gradient (a: Tensor) (b: Tensor list) =
        Scope.run (fun keep ->
            let lambda = Autodiff.leaf (Linearization.lambdaOf s)

            let ofState, ofGradient, ofTheta, ofLambda =
                if LearnedOptions.any s.Problem s.Index then
                    let learned =
                        LearnedOptions.inGraph
                            s.Problem
                            s.Index
                            s.Vectors
                            s.Upper
                            (Passes.parted s.Problem s.Upper lambda)

                    step learned lambda place gradient a b
                elif rule.Parts then
                    parts rule lambda place gradient a b
                else
                    step rule lambda place gradient a b

            if rule.ByGradient.IsOk then
                let w = -a
                rule.InPlace.AdaptInto place.State gradient place.Theta w
                ofGradient.add_ w |> ignore
                w.Dispose()

            let away = -a
            ofTheta.add_ a |> ignore
            ofTheta.add_ (rule.ByTheta.Pull place.State gradient place.Theta away) |> ignore
            keep ofTheta, List.map keep ofState, keep ofGradient, keep ofLambda)
