namespace Sama.Functional

open TorchSharp
open Sama

/// How far a difference goes along a vector p: by ±αp/‖p‖, multiplied by ‖p‖/2α afterwards, so that p may be of any length
/// and nothing waits for its norm.
///
/// ‖p‖ is max(‖p‖_A, ‖p‖_B/50), A the coordinates whose base gradient is not 0 and B the others. Embedding rows that no
/// batch touched hold more than 99.95 % of ‖p‖² under Adam (‖p‖_B ≈ 45‖p‖_A) and would starve a norm over all; examples
/// of weight 0 have no gradient though their mixed derivative is none, so B may not be moved without bound.
module internal Perturbation =

    let private reach = 50.0

    /// α of SAMA's difference, the length of the move in A. λ's type is that in which the gradients are told apart.
    let alpha (p: Tensor) (lambda: Tensor) : float =
        if p.dtype = torch.float64 && lambda.dtype = torch.float64 then
            1e-5
        else
            1e-3

    /// α of products, whose rounding a solver carries on: in float32 it is least here on smooth models.
    let ofProducts (p: Tensor) : float =
        if p.dtype = torch.float64 then 1e-5 else 1e-2

    /// ‖p‖, and whether the coordinates outside A decided it (0-D, 1 or 0).
    let bounded (norms: Norms) : Tensor * Tensor =
        let outside =
            (norms.All.square () - norms.Active.square ()).clamp_min(Number.scalar 0.0).sqrt ()
            / reach

        torch.maximum (norms.Active, outside), outside.gt(norms.Active).to_type torch.float64

    /// α/‖p‖ in p's type; 0 · p where ‖p‖ is 0.
    let scale (alpha: float) (norm: Tensor) (p: Tensor) : Tensor =
        (alpha / norm.clamp_min (Number.scalar (Number.tiny p))).to_type p.dtype
