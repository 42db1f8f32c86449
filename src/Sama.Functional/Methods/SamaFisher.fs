namespace Sama

/// Options of SAMA with an empirical-Fisher diagonal.
[<NoComparison>]
type SamaFisherOptions =
    {
        /// ρ, added to the diagonal, relative to its mean
        Damping: float
        /// of the difference
        Difference: SamaOptions
    }

    /// ρ = 0.1 of the mean, SAMA's default difference.
    static member Default =
        { Damping = 0.1
          Difference = SamaOptions.Default }

namespace Sama.Functional

open TorchSharp
open Sama

/// SAMA's difference along p = v/(F + ρ mean F), F the mean over micro-batches of their squared gradients: the diagonal
/// of the empirical Fisher matrix stands for H, which an elementwise rule cancels against itself.
module internal SamaFisher =

    let method (o: SamaFisherOptions) : HypergradientMethod =
        Method.positive "Damping" o.Damping
        SamaMethod.check o.Difference

        { Name = "samaFisher"
          Needs = SamaMethod.needs o.Difference
          Motion = Retaken
          Choose = None
          BestResponse =
            fun at v ->
                SamaMethod.besideOptions at v (fun () ->
                    Scope.tensor (fun () ->
                        let fisher = at.SquaredGradient()
                        let mean = fisher.mean ()
                        // at g = 0 the Fisher matrix says nothing, and the identity stands
                        let floor =
                            torch.where (mean.gt (Number.scalar 0.0), mean * o.Damping, torch.ones_like mean)

                        v / (fisher + floor))
                    |> SamaMethod.difference o.Difference "samaFisher" at) }
