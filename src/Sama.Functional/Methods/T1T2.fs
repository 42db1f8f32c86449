namespace Sama.Functional

open TorchSharp
open Sama

/// T1–T2 (Luketina et al., Scalable Gradient-Based Tuning of Continuous Regularization Hyperparameters, ICML 2016):
/// ∂u/∂θ ≈ I, (dθ*/dλ)ᵀ v ≈ −(∂u/∂λ)ᵀ v = −(∂g/∂λ)ᵀ (∂u/∂g)ᵀ v at θₜ₋₁, exactly: the one-step-unrolled response, the limit
/// of SAMA as ε → 0.
module internal T1T2 =

    let method: HypergradientMethod =
        let solve (at: IBaseSolution) (_: ILinearization) (v: Tensor) =
            let p = at.Adapt v
            let zeros = p.numel () - p.count_nonzero().item<int64> ()

            { P = p
              Q = v
              Report =
                { Report.empty "t1t2" with
                    Passes = 1
                    Products = 1
                    Zeros = zeros } }

        { Method.ofAdjoint "t1t2" [ SecondDerivatives ] false solve with
            Motion = Retaken }
