namespace Sama.Functional

open System
open TorchSharp
open Sama

/// SAMA (Choe et al., Making Scalable Meta Learning Practical, NeurIPS 2023), and hypergradient methods of one's own.
[<RequireQualifiedAccess>]
module Hypergradient =

    /// A method from its best-response vjp, `solution v ↦ (vector, report)`.
    let create
        name
        (needs: Need list)
        (bestResponse: IBaseSolution -> Tensor -> Tensor * Report)
        : HypergradientMethod =
        let respond at v =
            let vector, report = bestResponse at v

            { Vector = vector
              Move = None
              Report = report }

        { Name = name
          Needs = needs
          BestResponse = respond }

    let private defaultAlpha (v: Tensor) =
        if v.dtype = torch.float64 then 1e-5 else 1e-2

    /// ‖v‖ and ‖v‖_A, A the coordinates with g ≠ 0; ‖v‖ where ‖v‖_A is 0. float64, 0-D.
    let private norms (v: Tensor) (g: Tensor) =
        let all = Number.norm v
        let active = Number.norm (v * g.ne(Number.scalar 0.0).to_type v.dtype)
        all, torch.where (active.gt (Number.scalar 0.0), active, all)

    /// ε = α/‖v‖; −[∂λ L(c + εv, λ) − ∂λ L(c − εv, λ)] ‖v‖/2α, nothing divided by ‖v‖ = 0.
    let private difference (o: SamaOptions) name (at: IBaseSolution) (v: Tensor) : Response =
        Scope.run (fun keep ->
            let alpha = if o.Alpha.HasValue then o.Alpha.Value else defaultAlpha v
            let all, active = norms v at.Gradient
            let norm = if o.Norm = PerturbationNorm.Active then active else all

            let centre =
                if o.Centre = Centre.PreUpdate then
                    at.ThetaBefore
                else
                    at.Theta

            let floored = norm.clamp_min (Number.scalar (Number.tiny v))
            let step = v * (alpha / floored).to_type v.dtype
            let plus = at.LambdaGradient(centre + step)
            let minus = at.LambdaGradient(if o.OneSided then centre else centre - step)
            let width = if o.OneSided then alpha else 2.0 * alpha
            let size = Number.read norm

            { Vector = keep ((minus - plus) * (norm / width).to_type v.dtype)
              Move = if o.Nudge = 0.0 then None else Some(keep (step * -o.Nudge))
              Report =
                { Report.empty name with
                    Norm = Nullable(Number.read all)
                    ActiveNorm = Nullable(Number.read active)
                    Epsilon = (if size > 0.0 then Nullable(alpha / size) else Nullable())
                    Passes = 2 } })

    let private check (o: SamaOptions) =
        if o.Alpha.HasValue && not (o.Alpha.Value > 0.0 && Double.IsFinite o.Alpha.Value) then
            invalidArg "Alpha" $"alpha is a positive number, not {o.Alpha.Value}"

        if not (Double.IsFinite o.Nudge) then
            invalidArg "Nudge" $"the nudge is a finite number, not {o.Nudge}"

    let private adapted (at: IBaseSolution) (v: Tensor) =
        let adapted = at.Adapt v
        use lost = adapted.eq(Number.scalar 0.0).logical_and (v.ne (Number.scalar 0.0))
        adapted, Scope.run (fun _ -> lost.sum().item<int64> ())

    /// SAMA: ∂u/∂θ ≈ I, v adapted by the base rule: a hypergradient for three first-order backward passes.
    let samaWith (options: SamaOptions) : HypergradientMethod =
        check options

        { Name = "sama"
          Needs = [ Adaptation ]
          BestResponse =
            fun at v ->
                let adapted, zeros = adapted at v
                use adapted = adapted
                let response = difference options "sama" at adapted

                { response with
                    Report =
                        { response.Report with
                            AdaptedToZero = zeros } } }

    /// SAMA with its default options.
    let sama: HypergradientMethod = samaWith SamaOptions.Default

    /// SAMA without adaptation: v is the meta gradient itself.
    let samaNaWith (options: SamaOptions) : HypergradientMethod =
        check options

        { Name = "samaNa"
          Needs = []
          BestResponse = difference options "samaNa" }

    /// SAMA-NA with default options.
    let samaNa: HypergradientMethod = samaNaWith SamaOptions.Default

    /// Through the last base step, exactly: (dθₜ/dλ)ᵀ v = −(∂g/∂λ)ᵀ (∂u/∂g)ᵀ v at θₜ₋₁; what SAMA tends to as ε → 0.
    let oneStepUnrolled: HypergradientMethod =
        create "truncated" [ Adaptation; SecondDerivatives ] (fun at v ->
            let adapted, zeros = adapted at v
            use adapted = adapted

            Scope.tensor (fun () -> -at.MixedVjp adapted),
            { Report.empty "truncated" with
                Passes = 1
                Products = 1
                AdaptedToZero = zeros })
