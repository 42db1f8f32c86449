namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// Products with the derivatives of a level's gradient g by central differences of first-order gradients:
/// (∂g/∂θ)ᵀ w ≈ [∂θL(θ + δw, λ) − ∂θL(θ − δw, λ)]/2δ, (∂g/∂λ)ᵀ w likewise with ∂λL: one pair of passes for both, in the
/// memory of a plain step. δ as SAMA's ε (`Perturbation`).
module internal Differenced =

    /// What passes at θ itself know: g, and the stop-features of each micro-batch; none where perturbed passes replay those
    /// of the base pass.
    [<NoComparison; NoEquality>]
    type Origin =
        { Gradient: Tensor
          Features: Tensor[] list
          Replays: bool }

        /// Every tensor of it.
        member from.Tensors: Tensor list =
            [ from.Gradient
              for features in from.Features do
                  yield! features ]

    let private none (s: Linearization.Subject) : Tensor[] = Array.create s.Vectors.Length null

    let private at (s: Linearization.Subject) (theta: Tensor) : Tensor[] = Array.updateAt s.Index theta s.Vectors

    let private follow kind features =
        { Kind = kind; Stops = Follow features }

    /// What the base step of that gradient knows, whose features perturbed passes replay.
    let replaying (gradient: Tensor) : Origin =
        { Gradient = gradient
          Features = []
          Replays = true }

    /// g at θ, with the features as they are there; in the caller's scope.
    let origin (s: Linearization.Subject) (micros: Micro list) mode (theta: Tensor) : Origin =
        let gradients = none s
        gradients[s.Index] <- torch.zeros_like theta

        let features =
            [ for micro in micros ->
                  let met = ResizeArray<struct (Tensor * Tensor)>()

                  let mode = if mode.Stops.IsReplay then mode else follow mode.Kind met

                  // the graph dies here, before anything else needs memory
                  Scope.run (fun keep ->
                      Passes.gradient
                          s.Problem
                          s.Precision
                          (at s theta)
                          gradients
                          (1.0 / float micros.Length)
                          (micro.Loss mode)
                      |> ignore

                      [| for struct (leaf, _) in met -> keep (leaf.detach ()) |]) ]

        { Gradient = gradients[s.Index]
          Features = features
          Replays = mode.Stops.IsReplay }

    /// First-order gradients at `move 1` less those at `move −1`, the sum over the micro-batches, added to `gradients`; and by
    /// the features. `move` may give the same vectors again.
    let private add (s: Linearization.Subject) (from: Origin) (micros: Micro list) (move: float -> Tensor[]) gradients =
        let byFeature =
            if from.Replays then
                [ for _ in micros -> [||] ]
            else
                [ for own in from.Features ->
                      [| for feature in own -> feature.to_type(s.Vectors[s.Index].dtype).clone().requires_grad_ true |] ]

        for sign in [ 1.0; -1.0 ] do
            let vectors = move sign

            for micro, leaves in List.zip micros byFeature do
                let mode =
                    { Kind = PassKind.Perturbed
                      Stops = if from.Replays then Stops.Replay else Given(Queue leaves) }

                Scope.run (fun _ ->
                    Passes.gradientBeside
                        leaves
                        s.Problem
                        None
                        vectors
                        gradients
                        (sign / float micros.Length)
                        (micro.Loss mode)
                    |> ignore)

        byFeature

    /// What the features' own derivatives make of the derivatives by them, added to `gradients`.
    let private through
        (s: Linearization.Subject)
        kind
        (micros: Micro list)
        theta
        (byFeature: Tensor[] list)
        gradients
        =
        for micro, leaves in List.zip micros byFeature do
            let seeds = [| for leaf in leaves -> leaf.grad |]

            if seeds |> Array.exists (isNull >> not) then
                let value (parameters: Params[]) =
                    let met = ResizeArray<struct (Tensor * Tensor)>()
                    micro.Loss (follow kind met) parameters |> ignore

                    [ for struct (_, feature), seed in Seq.zip met seeds do
                          if not (isNull seed) then
                              (feature * seed).sum () ]
                    |> List.reduce (+)

                Scope.run (fun _ -> Passes.gradient s.Problem None (at s theta) gradients 1.0 value |> ignore)

    /// What products at one θ are formed from.
    [<NoComparison; NoEquality>]
    type private Frame =
        {
            Subject: Linearization.Subject
            Micros: Micro list
            Mode: Mode
            Theta: Tensor
            From: Origin
            /// a vector to overwrite
            Lend: unit -> Tensor
            /// of α
            Step: float
            Passes: int ref
        }

    /// The sums by the slots of `gradients`, over ±αw/‖w‖, times ‖w‖/2α.
    let private difference (f: Frame) (w: Tensor) norm (move: Tensor -> Tensor[]) (gradients: Tensor[]) =
        let alpha = f.Step * Perturbation.ofProducts w
        let scale = Perturbation.scale alpha norm w
        f.Passes.Value <- f.Passes.Value + 2

        let byFeature =
            add f.Subject f.From f.Micros (fun sign -> move (scale * sign)) gradients

        if f.Mode.Stops.IsFollow then
            through f.Subject f.Mode.Kind f.Micros f.Theta byFeature gradients

        for gradient in gradients do
            if not (isNull gradient) then
                gradient.mul_ ((norm / (2.0 * alpha)).to_type gradient.dtype) |> ignore

    /// A product; where it is asked for, with half the step too, and how far the two are apart: where the gradient jumps
    /// within reach (the kinks of ReLU or a maximum) each step gives another product, and rounding does too.
    let private compared (f: Frame) (product: Frame -> Tensor[]) : Tensor[] =
        let found = product f

        f.Subject.Disagreement
        |> Option.iter (fun disagreement ->
            Scope.run (fun _ ->
                // passes of the method alone are counted
                let halved =
                    product
                        { f with
                            Step = f.Step / 2.0
                            Passes = ref 0 }

                for own, other in Array.zip found halved do
                    if not (isNull own) then
                        Linearization.compare disagreement own other))

        found

    /// The difference along w in θ, of the gradients by the wanted levels.
    let private along (wanted: int list) (w: Tensor) (f: Frame) : Tensor[] =
        Scope.run (fun keep ->
            let gradients = none f.Subject

            for i in wanted do
                gradients[i] <- torch.zeros_like f.Subject.Vectors[i]

            let norm, _ = Perturbation.bounded (Flat.norms w f.From.Gradient)

            let moved = f.Lend()

            let move scale =
                Flat.combine moved f.Theta scale w
                at f.Subject moved

            difference f w norm move gradients
            gradients |> Array.map (fun g -> if isNull g then null else keep g))

    /// The difference along d in λ, of the gradient by θ.
    let private alongLambda (d: Tensor) (f: Frame) : Tensor[] =
        Scope.run (fun keep ->
            let s = f.Subject
            let gradients = none s
            gradients[s.Index] <- torch.zeros_like f.Theta
            let lambda = Linearization.lambdaOf s

            let move (scale: Tensor) =
                let moved = Passes.parted s.Problem s.Upper (lambda + d * scale)

                (at s f.Theta, List.zip s.Upper (List.ofArray moved))
                ||> List.fold (fun vectors (j, own) -> Array.updateAt j own vectors)

            difference f d (Flat.norm d) move gradients
            [| keep gradients[s.Index] |])

    /// g at (θ, λ) and products with its derivatives. What is not `known` is found by a pass. `lend` gives a vector to
    /// overwrite. Pairs of passes are counted.
    let linearize passes (s: Linearization.Subject) micros mode lend known theta : Tensor * ILinearization =
        let from = known |> Option.defaultWith (fun () -> origin s micros mode theta)

        let frame =
            { Subject = s
              Micros = micros
              Mode = mode
              Theta = theta
              From = from
              Lend = lend
              Step = 1.0
              Passes = passes }

        let along wanted w = compared frame (along wanted w)

        let ofLambda (gradients: Tensor[]) =
            Passes.joined [| for j in s.Upper -> gradients[j] |]

        from.Gradient,
        { new ILinearization with
            member _.ThetaVjp w = (along [ s.Index ] w)[s.Index]

            member _.LambdaVjp w =
                Scope.tensor (fun () -> ofLambda (along s.Upper w))

            member _.Vjps w =
                Scope.run (fun keep ->
                    let all = along (s.Index :: s.Upper) w
                    struct (keep all[s.Index], keep (ofLambda all)))

            member _.LambdaJvp d = (compared frame (alongLambda d))[0] }
