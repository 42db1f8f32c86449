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
/// (dθ*/dλ)ᵀ v ≈ −[∂λ L(c + εp, λ) − ∂λ L(c − εp, λ)]/2ε: three first-order backward passes.
/// ε = α/‖p‖ with the norm of `Perturbation`.
module internal SamaMethod =

    let check (o: SamaOptions) =
        if o.Alpha.HasValue then
            Method.positive "Alpha" o.Alpha.Value

        Method.atLeast 0 "MicroBatches" o.MicroBatches
        Options.requireOne "Norm" o.Norm
        Options.requireOne "Centre" o.Centre

        if not (Double.IsFinite o.Nudge) then
            invalidArg "Nudge" $"the nudge is a finite number, not {o.Nudge}"

    /// The base pass's own λ-gradient serves as the centre's.
    let private reuses (o: SamaOptions) =
        o.OneSided && o.Centre = Centre.PreUpdate && o.MicroBatches = 0

    /// What ε divides α by, and whether the coordinates outside A decided it (0-D, 1 or 0).
    let private normOf (o: SamaOptions) (norms: Norms) : Tensor * Tensor =
        if o.Norm = PerturbationNorm.All then
            norms.All, torch.zeros_like norms.All
        else
            Perturbation.bounded norms

    let private report (o: SamaOptions) name (alpha: float) (length: int64) (numbers: float[]) =
        let norm, nonZero = numbers[4], int64 numbers[2]

        { Report.empty name with
            Norm = Nullable numbers[0]
            ActiveNorm = Nullable numbers[1]
            Epsilon = (if norm > 0.0 then Nullable(alpha / norm) else Nullable())
            Passes = (if reuses o then 1 else 2)
            Zeros = length - nonZero
            Capped = (if numbers[5] = 1.0 then int64 numbers[3] else 0L)
            Note =
                if nonZero = 0L then
                    "h has no part through the level below: the meta gradient is 0, or the base rule's adaptation wherever it is not (no base gradient was ever seen there, or the rate is 0)"
                else
                    null }

    /// The difference along p, which loses no bit where ‖p‖ = 0.
    let difference (o: SamaOptions) name (at: IBaseGradients) (p: Tensor) : Response =
        Scope.run (fun keep ->
            let length = p.numel ()

            let alpha =
                if o.Alpha.HasValue then
                    o.Alpha.Value
                else
                    Perturbation.alpha p at.Lambda

            let norms = Flat.norms p at.Gradient
            let norm, capped = normOf o norms
            let scale = Perturbation.scale alpha norm p

            let gradient (theta: Tensor) =
                if o.MicroBatches = 0 then
                    at.LambdaGradient theta
                else
                    at.LambdaGradient(theta, o.MicroBatches)

            let plus = gradient (at.Perturbed(o.Centre, scale, p))

            let minus =
                if not o.OneSided then
                    gradient (at.Perturbed(o.Centre, -scale, p))
                elif o.Centre = Centre.PreUpdate then
                    gradient at.ThetaBefore
                else
                    gradient at.Theta

            let width = if o.OneSided then alpha else 2.0 * alpha

            { Vector = keep ((minus - plus) * (norm / width).to_type minus.dtype)
              Move =
                if o.Nudge = 0.0 then
                    None
                else
                    Some(keep (p * scale * -o.Nudge))
              Kept = None
              Report =
                // read behind the scope
                let values =
                    [ norms.All; norms.Active; norms.NonZero; norms.Outside; norm; capped ]
                    |> List.map keep

                lazy (report o name alpha length (Number.readAll values)) })

    /// A response through g, and −(∂u/∂λ|_g)ᵀ v of learned options beside it; the response may overwrite v.
    let besideOptions (at: IRuleJacobians) (v: Tensor) (response: unit -> Response) : Response =
        if at.LearnsOptions then
            use own = at.OptionsVjp v
            let through = response ()
            through.Vector.sub_ own |> ignore
            through
        else
            response ()

    /// What the difference asks for.
    let needs (o: SamaOptions) =
        [ Differences
          LearnedOptions
          if reuses o then
              BaseLambdaGradient
          if o.MicroBatches > 0 then
              MicroBatches o.MicroBatches
          if o.Nudge <> 0.0 then
              Nudge ]

    let sama (o: SamaOptions) : HypergradientMethod =
        check o

        { Name = "sama"
          Needs = Adaptation :: needs o
          Motion = Retaken
          Choose = None
          BestResponse =
            fun at v ->
                besideOptions at v (fun () ->
                    at.AdaptInPlace v
                    difference o "sama" at v) }

    /// Without adaptation: p = v.
    let samaNa (o: SamaOptions) : HypergradientMethod =
        check o

        { Name = "samaNa"
          Needs = needs o
          Motion = Retaken
          Choose = None
          BestResponse = fun at v -> besideOptions at v (fun () -> difference o "samaNa" at v) }
