namespace Sama.Functional

open TorchSharp
open Sama

/// The base level's last step as a solution.
module internal BaseSolution =

    /// (∂u/∂g)ᵀ v at the step. InvalidOperationException, with the reason, for a rule that has no adaptation.
    let adapt (rule: BoundRule) (step: BaseStep) (v: Tensor) : Tensor =
        match rule.Adapt with
        | Ok adapt -> adapt step.State step.Gradient step.Theta v
        | Error reason -> invalidOp reason

    /// (∂u/∂g) w: the adaptation is linear, and this its transpose.
    let adaptForward (rule: BoundRule) (step: BaseStep) (w: Tensor) : Tensor =
        if rule.Elementwise then
            Scope.tensor (fun () -> adapt rule step w)
        else
            Autodiff.vjp (adapt rule step) (torch.zeros_like w) w

    /// u as a function of θ at fixed g: what a rule's decay makes of it.
    let updateAt (rule: BoundRule) (step: BaseStep) (theta: Tensor) : Tensor =
        fst (rule.Step step.State step.Gradient theta)

    /// `upper` holds the vectors of the levels above.
    let ofStep (levels: Level[]) (upper: Tensor[]) (step: BaseStep) (work: Work) : IBaseSolution =
        let rule = levels[0].Rule
        let lambda = Linearization.joined upper

        /// Sums shares of the micro-batches' gradients into `gradients`.
        let accumulate (micros: (Stops -> Params[] -> Tensor) list) (theta: Tensor) gradients =
            let share = 1.0 / float micros.Length

            for micro in micros do
                Passes.gradient levels None (Array.append [| theta |] upper) gradients share (micro Replay)
                |> ignore

        let lambdaGradient micros theta =
            Scope.tensor (fun () ->
                let totals = upper |> Array.map torch.zeros_like
                accumulate micros theta (Array.append [| null |] totals)
                Linearization.joined totals)

        { new IBaseSolution with
            member _.Theta = work.After()
            member _.ThetaBefore = step.Theta
            member _.Lambda = lambda
            member _.Gradient = step.Gradient

            member _.SquaredGradient() =
                Scope.tensor (fun () ->
                    match step.Micros with
                    | [ _ ] -> step.Gradient.square ()
                    | micros ->
                        let squares = torch.zeros_like step.Gradient

                        for micro in micros do
                            let one = torch.zeros_like step.Gradient
                            let gradients = Array.append [| one |] (Array.create upper.Length null)

                            Passes.gradient
                                levels
                                None
                                (Array.append [| step.Theta |] upper)
                                gradients
                                1.0
                                (micro Replay)
                            |> ignore

                            squares.addcmul_ (one, one, Number.scalar (1.0 / float micros.Length)) |> ignore

                        squares)

            member _.Elementwise = rule.Elementwise

            member _.Adapt v =
                Scope.tensor (fun () -> adapt rule step v)

            member _.AdaptInPlace v = work.AdaptInPlace v

            member _.AdaptForward w = adaptForward rule step w

            member _.Decay v =
                Autodiff.vjp (updateAt rule step) step.Theta v

            member _.DecayForward w =
                Autodiff.jvp (updateAt rule step) step.Theta w

            member _.Perturbed(centre, scale, v) =
                let from =
                    if centre = Centre.PreUpdate then
                        step.Theta
                    else
                        work.After()

                let scratch = work.Scratch()
                Flat.combine scratch from scale v
                scratch

            member _.ThetaGradient theta =
                Scope.tensor (fun () ->
                    let total = torch.zeros_like theta
                    accumulate step.Micros theta (Array.append [| total |] (Array.create upper.Length null))
                    total)

            member _.LambdaGradient theta = lambdaGradient step.Micros theta

            member _.LambdaGradientOn(theta, count) =
                lambdaGradient (List.take count step.Micros) theta

            member _.LambdaGradientBefore() =
                if isNull step.LambdaGradient then
                    lambdaGradient step.Micros step.Theta
                else
                    step.LambdaGradient.alias ()

            member _.Linearize(theta, followStops) =
                let stops = if followStops then Follow(ResizeArray()) else Replay
                snd (Linearization.at levels step.Micros lambda stops theta)

            member _.Unrolled(o, v) =
                let struct (theta, state, steps) = step.History o.Steps
                let last = if o.Last = 0 then steps.Length else o.Last
                struct (Unrolling.vjp levels lambda o last theta state steps v, last) }
