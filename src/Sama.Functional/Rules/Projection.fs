namespace Sama.Functional

open TorchSharp
open Sama

/// Rules for constrained parameters: the step is taken, then each parameter is projected.
[<AutoOpen>]
module Projection =

    /// The rule's own update, then P; with u₀ the rule's own update and P′ taken at θ − u₀: ∂u/∂g = P′ ∂u₀/∂g,
    /// ∂u/∂θ = I − P′ (I − ∂u₀/∂θ).
    let private jacobians (project: Tensor -> Tensor) (inner: BoundRule) : Result<Jacobian, string> * Jacobian =
        let landing state g theta =
            let u, _ = inner.Take state g theta
            (theta - u).detach ()

        let pull state g theta v =
            Autodiff.vjp project (landing state g theta) v

        let push state g theta w =
            Autodiff.jvp project (landing state g theta) w

        inner.ByGradient
        |> Result.map (fun own ->
            { Pull = fun state g theta v -> own.Pull state g theta (pull state g theta v)
              Push = fun state g theta w -> push state g theta (own.Push state g theta w) }),
        { Pull =
            fun state g theta v ->
                let w = pull state g theta v
                v - w + inner.ByTheta.Pull state g theta w
          Push = fun state g theta w -> w - push state g theta (w - inner.ByTheta.Push state g theta w) }

    let private inPlace (project: Tensor -> Tensor) (inner: BoundRule) : InPlace =
        let landOn (theta: Tensor) (out: Tensor) =
            Scope.run (fun _ -> out.copy_ (theta - project (theta - out)) |> ignore)

        let previewed state (g: Tensor) theta =
            let u = torch.empty_like g
            inner.InPlace.Preview state g theta u
            u

        { Sound =
            fun state g theta ->
                Scope.tensor (fun () ->
                    let u = previewed state g theta
                    landOn theta u
                    (BoundRule.finite [ u ]).logical_and (inner.InPlace.Sound state g theta))
          Preview =
            fun state g theta out ->
                inner.InPlace.Preview state g theta out
                landOn theta out
          Advance =
            fun state g theta out ->
                let next = inner.InPlace.Advance state g theta out
                landOn theta out
                next
          AdaptInto =
            fun state g theta v ->
                Scope.run (fun _ ->
                    let u = previewed state g theta
                    v.copy_ (Autodiff.vjp project (theta - u) v) |> ignore)

                inner.InPlace.AdaptInto state g theta v }

    /// A step is θ − (θ − P): where θ is far outside, rounding takes P away.
    let private requireNear (name: string) (onto: Tensor -> Tensor) (layout: Layout) (theta: Tensor) : unit =
        Scope.run (fun _ ->
            use _ = torch.no_grad ()

            for slice, own in Seq.zip layout.Slices (Layout.views layout theta) do
                let wanted = onto own
                let size (x: Tensor) = Number.read (Flat.norm (x.reshape -1L))
                let off = size (own - (own - wanted) - wanted)

                if off > 1e-2 * size wanted then
                    invalidArg
                        "parameters"
                        $"parameter '{slice.Name}' is so far outside the set of rule '{name}' that a step into it is lost in rounding; start it inside")

    let rec private projected name elementwise (onto: Tensor -> Tensor) (rule: UpdateRule) : UpdateRule =
        let whole = $"{rule.Name} → {name}"

        let on (layout: Layout) =
            let project z =
                Slices.each layout (fun _ views -> onto views[0]) [ z ]

            let around (inner: BoundRule) =
                let step state g theta =
                    let u, next = inner.Take state g theta
                    theta - project (theta - u), next

                let byGradient, byTheta = jacobians project inner

                let start theta =
                    requireNear whole onto layout theta
                    inner.Start theta

                { BoundRule.create whole start step byGradient byTheta (elementwise && inner.Elementwise) with
                    Groups = inner.Groups
                    InPlace = inPlace project inner }

            BoundRule.changed around (rule.Bind layout)

        { Name = whole
          Bind = on
          Rescale = Some(fun schedule -> projected name elementwise onto (UpdateRule.scheduled schedule rule))
          Learn = rule.Learn >> projected name elementwise onto }

    /// u = θ − P(θ − rule's u), P a differentiable function of each parameter in its own shape; the adaptation goes
    /// through P by differentiation. θ − u is P up to one rounding. InvalidOperationException when P returns a tensor of
    /// another shape or type.
    let project (onto: Tensor -> Tensor) (rule: UpdateRule) : UpdateRule =
        let what = $"the projection of rule '{rule.Name}'"

        let onto (x: Tensor) =
            Contract.run what (fun () -> onto x) |> Contract.like what "the parameter" x

        projected "project" false onto rule

    /// Every coordinate stays in [lower, upper]; those that are stopped have adaptation 0. ArgumentException for an
    /// empty box or NaN; bounds may be infinite.
    let projectBox (lower: float) (upper: float) (rule: UpdateRule) : UpdateRule =
        if not (lower <= upper) then
            invalidArg (nameof upper) $"the box [{lower}, {upper}] is empty"

        let clamp (x: Tensor) =
            x.clamp (Number.scalar lower, Number.scalar upper)

        projected "box" true clamp rule

    /// The nearest point with coordinates ≥ 0 that sum to 1: max(x − τ, 0), τ = (Σ_A x − 1)/|A|, A the largest set of
    /// leading coordinates in order of size that stay positive (Duchi et al., 2008). Any shape; without coordinates
    /// there is no point to move.
    let simplex (x: Tensor) : Tensor =
        if x.numel () = 0L then
            x
        else
            let flat = x.reshape -1L
            // the point is the same for x + c: near 0 the cumulative sums lose nothing
            let shift = flat.detach().max ()
            let flat = flat - shift
            let struct (sorted, _) = flat.sort (0L, descending = true)
            let size = torch.arange (1L, flat.numel () + 1L, dtype = x.dtype, device = x.device)
            let level = (sorted.cumsum 0L - 1.0) / size
            let active = (sorted - level).gt(Number.scalar 0.0).sum().item<int64> ()
            let tau = level.select (0L, max 0L (active - 1L))
            (flat - tau).clamp_min(Number.scalar 0.0).view_as x

    /// Each parameter stays a point of the simplex.
    let projectSimplex (rule: UpdateRule) : UpdateRule = projected "simplex" false simplex rule
