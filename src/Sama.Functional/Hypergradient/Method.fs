namespace Sama

/// What a method asks of the problem it is used in.
type Need =
    /// the base rule's adaptation
    | Adaptation
    /// models that are functions of Params
    | SecondDerivatives

/// (dθ*/dλ)ᵀ v; the move that θ is left with, if any; what was done. Tensors are the caller's.
[<NoComparison; NoEquality>]
type Response =
    internal
        { Vector: Tensor
          Move: Tensor option
          Report: Report }

/// A best-response vjp v ↦ (dθ*/dλ)ᵀ v, and what it needs.
[<NoComparison; NoEquality>]
type HypergradientMethod =
    internal
        { Name: string
          Needs: Need list
          BestResponse: IBaseSolution -> Tensor -> Response }

    override self.ToString() = self.Name

/// Where SAMA's difference is centred: θₜ₋₁, where it tends to the one-step-unrolled response, or θₜ.
type Centre =
    | PreUpdate = 0
    | PostUpdate = 1

/// The coordinates over which ε = α/‖v‖ takes its norm: those whose loss gradient is not zero, or all.
type PerturbationNorm =
    | Active = 0
    | All = 1

/// Options of SAMA.
[<NoComparison>]
type SamaOptions =
    {
        /// α of ε = α/‖v‖; null: 1e-2, in float64 1e-5
        Alpha: System.Nullable<float>
        Norm: PerturbationNorm
        Centre: Centre
        /// one pass at c + εv against the centre's own gradient
        OneSided: bool
        /// κ: afterwards θ moves by −κεv; 0 is off
        Nudge: float
    }

    /// Central difference at θₜ₋₁, norm over active coordinates, no nudge.
    static member Default =
        { Alpha = System.Nullable()
          Norm = PerturbationNorm.Active
          Centre = Centre.PreUpdate
          OneSided = false
          Nudge = 0.0 }
