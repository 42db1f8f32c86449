namespace Sama

/// The coordinates over which ε = α/‖v‖ takes its norm: those whose loss gradient is not zero, or all.
type PerturbationNorm =
    /// coordinates whose loss gradient is not 0
    | Active = 0
    /// all coordinates
    | All = 1

/// Options of SAMA.
[<NoComparison>]
type SamaOptions =
    {
        /// α of ε = α/‖v‖; null: 1e-3, in float64 1e-5
        Alpha: System.Nullable<float>
        /// the coordinates over which ‖v‖ is taken
        Norm: PerturbationNorm
        /// where the difference is centred
        Centre: Centre
        /// one pass at c + εv against the centre's own gradient, at θₜ₋₁ the base pass's
        OneSided: bool
        /// how many of the step's micro-batches the perturbed passes see, the first; 0: all. Cheaper, and noisier
        MicroBatches: int
        /// κ: afterwards θ moves by −κεv; 0 is off
        Nudge: float
    }

    /// Central difference at θₜ₋₁, norm over active coordinates, no nudge.
    static member Default =
        { Alpha = System.Nullable()
          Norm = PerturbationNorm.Active
          Centre = Centre.PreUpdate
          OneSided = false
          MicroBatches = 0
          Nudge = 0.0 }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// SAMA (Choe et al., Making Scalable Meta Learning Practical, NeurIPS 2023): ∂u/∂θ ≈ I, p = (∂u/∂g)ᵀ v, and
/// (dθ*/dλ)ᵀ v ≈ −[∂λ L(c + εp, λ) − ∂λ L(c − εp, λ)]/2ε, ε = α/‖p‖: three first-order backward passes.
module internal SamaMethod =

    let private defaultAlpha (v: Tensor) =
        if v.dtype = torch.float64 then 1e-5 else 1e-3

    let check (o: SamaOptions) =
        if o.Alpha.HasValue then
            Method.positive "Alpha" o.Alpha.Value

        Method.atLeast 0 "MicroBatches" o.MicroBatches

        if not (Double.IsFinite o.Nudge) then
            invalidArg "Nudge" $"the nudge is a finite number, not {o.Nudge}"

    /// The base pass's own λ-gradient serves as the centre's.
    let private reuses (o: SamaOptions) =
        o.OneSided && o.Centre = Centre.PreUpdate && o.MicroBatches = 0

    /// The difference along p, which loses no bit where ‖p‖ = 0: p is perturbed by αp/max(‖p‖, tiny), the difference
    /// multiplied by ‖p‖/2α. Nothing waits for the norm before the last pass.
    let difference (o: SamaOptions) name (at: IBaseSolution) (p: Tensor) : Response =
        Scope.run (fun keep ->
            let length = p.numel ()
            let alpha = if o.Alpha.HasValue then o.Alpha.Value else defaultAlpha p
            let all, active, nonZero = Flat.norms p at.Gradient
            let norm = if o.Norm = PerturbationNorm.Active then active else all
            let scale = (alpha / norm.clamp_min (Number.scalar (Number.tiny p))).to_type p.dtype

            let gradient theta =
                if o.MicroBatches = 0 then
                    at.LambdaGradient theta
                else
                    at.LambdaGradientOn(theta, o.MicroBatches)

            let plus = gradient (at.Perturbed(o.Centre, scale, p))

            let minus =
                if not o.OneSided then
                    gradient (at.Perturbed(o.Centre, -scale, p))
                elif reuses o then
                    at.LambdaGradientBefore()
                else
                    gradient (Method.theta at o.Centre)

            let width = if o.OneSided then alpha else 2.0 * alpha

            { Vector = keep ((minus - plus) * (norm / width).to_type p.dtype)
              Move =
                if o.Nudge = 0.0 then
                    None
                else
                    Some(keep (p * scale * -o.Nudge))
              Report =
                // read behind the scope
                let all, active, nonZero = keep all, keep active, keep nonZero

                lazy
                    (let numbers = Number.readAll [ all; active; nonZero ]

                     let size =
                         if o.Norm = PerturbationNorm.Active then
                             numbers[1]
                         else
                             numbers[0]

                     { Report.empty name with
                         Norm = Nullable numbers[0]
                         ActiveNorm = Nullable numbers[1]
                         Epsilon = (if size > 0.0 then Nullable(alpha / size) else Nullable())
                         Passes = (if reuses o then 1 else 2)
                         Zeros = length - int64 numbers[2] }) })

    /// What the difference asks for.
    let needs (o: SamaOptions) =
        [ if reuses o then
              BaseLambdaGradient
          if o.MicroBatches > 0 then
              MicroBatches o.MicroBatches ]

    let sama (o: SamaOptions) : HypergradientMethod =
        check o

        { Name = "sama"
          Needs = Adaptation :: needs o
          Adjoint = None
          BestResponse =
            fun at v ->
                at.AdaptInPlace v
                difference o "sama" at v }

    /// Without adaptation: p = v.
    let samaNa (o: SamaOptions) : HypergradientMethod =
        check o

        { Name = "samaNa"
          Needs = needs o
          Adjoint = None
          BestResponse = difference o "samaNa" }
