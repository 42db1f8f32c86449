namespace Sama

/// Options of T1–T2.
[<NoComparison>]
type T1T2Options =
    {
        /// where the derivatives are taken
        Centre: Centre
        /// by SAMA's central difference instead of a second derivative
        FiniteDifference: bool
        /// α of the difference; null: SAMA's default
        Alpha: System.Nullable<float>
    }

    /// The exact mixed second derivative at θₜ₋₁.
    static member Default =
        { Centre = Centre.PreUpdate
          FiniteDifference = false
          Alpha = System.Nullable() }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// T1–T2 (Luketina et al., Scalable Gradient-Based Tuning of Continuous Regularization Hyperparameters, ICML 2016):
/// ∂u/∂θ ≈ I, (dθ*/dλ)ᵀ v ≈ −(∂u/∂λ)ᵀ v = −(∂g/∂λ)ᵀ (∂u/∂g)ᵀ v. At θₜ₋₁ it is the one-step-unrolled response, the limit of
/// SAMA as ε → 0.
module internal T1T2 =

    let private exact (o: T1T2Options) =
        Method.ofAdjoint
            "t1t2"
            []
            { Centre = o.Centre
              FollowStops = false
              Solve =
                fun at _ v ->
                    let p = at.Adapt v

                    p,
                    { Report.empty "t1t2" with
                        Passes = 1
                        Products = 1
                        Zeros = p.numel () - p.count_nonzero().item<int64> () } }

    let method (o: T1T2Options) : HypergradientMethod =
        if not o.FiniteDifference then
            exact o
        else
            let difference =
                SamaMethod.sama
                    { SamaOptions.Default with
                        Alpha = o.Alpha
                        Centre = o.Centre }

            let respond at v =
                let response = difference.BestResponse at v

                { response with
                    Report =
                        lazy
                            { response.Report.Value with
                                Method = "t1t2" } }

            { difference with
                Name = "t1t2"
                BestResponse = respond }
