namespace Sama.Functional

open TorchSharp
open Sama

/// Best responses chained along three levels. With p the partial derivatives of L₃,
/// h = p₃ + (∂θ₁/∂θ₃)ᵀ p₁ + (dθ₂/dθ₃)ᵀ [p₂ + (∂θ₁/∂θ₂)ᵀ p₁].
///
/// The middle level's gradient is its total one, θ₁ responding: h₂ = ∂₂𝓛, 𝓛 = L₂ − ⟨q, g₁⟩, H q = ∂₁L₂, H = ∂g₁/∂θ₁. Its
/// derivative by second-order adjoints: with H b = −(∂g₁/∂θ₂) w and H a = −∂₁(⟨w, ∂₂𝓛⟩ + ⟨b, ∂₁𝓛⟩),
/// (∂h₂/∂θᵢ)ᵀ w = ∂ᵢ(⟨w, ∂₂𝓛⟩ + ⟨b, ∂₁𝓛⟩ + ⟨a, g₁⟩), q, a and b held. The method's own solver is used for H throughout.
module internal Chain =

    /// h₂, and products with its derivatives.
    let private total
        (problem: BilevelProblem)
        (middle: Params[] -> Tensor)
        (micros: _ list)
        (adjoint: Adjoint)
        (at: IBaseSolution)
        (vectors: Tensor[])
        =
        let levels = problem.Levels
        let centre = Method.theta at adjoint.Centre
        let linear = at.Linearize(centre, adjoint.FollowStops)
        let solve v = fst (adjoint.Solve at linear v)
        let x = [| centre; vectors[1]; vectors[2] |] |> Array.map Autodiff.leaf

        let seen =
            Array.map2 (fun (level: Level) v -> Params.traced level.Layout v) levels x

        let upper = middle seen
        let lower: Tensor = Linearization.loss levels micros Replay x[0] (torch.cat x[1..])
        let one = torch.ones_like upper
        let g = Autodiff.pullAll Autodiff.Extended [ lower, one ] x[..1]
        let q = solve (Autodiff.pull Autodiff.Kept upper one x[0])
        let lagrangian = upper - g[0].dot q
        let f = Autodiff.pullAll Autodiff.Extended [ lagrangian, one ] x[..1]

        let product index (w: Tensor) =
            Scope.tensor (fun () ->
                let b = (solve (Autodiff.pull Autodiff.Kept g[1] w x[0])).neg_ ()
                let terms = [ f[1], w; f[0], b ]
                let t = Autodiff.pullAll Autodiff.Kept terms x
                let a = (solve t[0]).neg_ ()
                t[index] + Autodiff.pull Autodiff.Kept g[0] a x[index])

        f[1].detach (),
        { new ILinearization with
            member _.ThetaVjp w = product 1 w
            member _.LambdaVjp w = product 2 w }

    /// The middle level as a solution for the methods that solve for their adjoint: they ask for no first-order pass.
    let private middleSolution (rule: BoundRule) state (theta: Tensor) lambda (h2: Tensor) linear : IBaseSolution =
        let step =
            { Micros = []
              Theta = theta
              State = state
              Gradient = h2
              LambdaGradient = null
              History = fun _ -> invalidOp "a middle level keeps no history" }

        let first () =
            invalidOp "a middle level has no first-order passes of its own"

        { new IBaseSolution with
            member _.Theta = theta
            member _.ThetaBefore = theta
            member _.Lambda = lambda
            member _.Gradient = h2
            member _.SquaredGradient() = h2.square ()
            member _.Elementwise = rule.Elementwise

            member _.Adapt v =
                Scope.tensor (fun () -> BaseSolution.adapt rule step v)

            member _.AdaptInPlace v =
                v.copy_ (BaseSolution.adapt rule step v) |> ignore

            member _.AdaptForward w = BaseSolution.adaptForward rule step w

            member _.Decay v =
                Autodiff.vjp (BaseSolution.updateAt rule step) theta v

            member _.DecayForward w =
                Autodiff.jvp (BaseSolution.updateAt rule step) theta w

            member _.Perturbed(_, _, _) = first ()
            member _.ThetaGradient _ = first ()
            member _.LambdaGradient _ = first ()
            member _.LambdaGradientOn(_, _) = first ()
            member _.LambdaGradientBefore() = first ()
            member _.Linearize(_, _) = linear
            member _.Unrolled(_, _) = first () }

    /// The response of θ₃ to L₃ through both levels below. `gradients` holds L₃'s partial derivatives at `vectors`.
    let respond
        (problem: BilevelProblem)
        middle
        micros
        state
        (at: IBaseSolution)
        (vectors: Tensor[])
        (gradients: Tensor[])
        : Response =
        Scope.run (fun keep ->
            let method = problem.Method
            let below = method.BestResponse at gradients[0]
            let parts = below.Vector.split ([| vectors[1].numel (); vectors[2].numel () |], 0L)
            let h2, linear = total problem middle micros method.Adjoint.Value at vectors

            let solution =
                middleSolution problem.Levels[1].Rule state vectors[1] vectors[2] h2 linear

            let above = method.BestResponse solution (gradients[1] + parts[0])

            { above with
                Vector = keep (parts[1] + above.Vector) })
