namespace Sama

/// Options of the penalty method.
[<NoComparison>]
type F2saOptions =
    {
        /// σ: the error falls with 1/σ, rounding grows with σ
        Sigma: float
        /// gradient steps towards θ_σ
        Iterations: int
        /// η of these steps
        Step: float
        /// stops at this relative residual, below 1
        Tolerance: float
    }

    /// σ = 100, 100 steps of 0.1 or to 1e-6.
    static member Default =
        { Sigma = 100.0
          Iterations = 100
          Step = 0.1
          Tolerance = 1e-6 }

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// The value-function penalty (Kwon et al., A Fully First-Order Method for Stochastic Bilevel Optimization, ICML 2023), as
/// a vjp: θ_σ = argmin L(θ) − ⟨g(c), θ⟩ + ⟨v, θ⟩/σ by gradient steps from c, the linear term of g making c the minimum
/// for σ → ∞, and (dθ*/dλ)ᵀ v ≈ σ [∂λ L(θ_σ, λ) − ∂λ L(c, λ)]. A rule's decay is added as (E/D)(θ − c).
module internal F2sa =

    let private respond (o: F2saOptions) (at: IBaseSolution) (v: Tensor) : Response =
        Scope.run (fun keep ->
            let stay, decay = Method.diagonals at v
            let centre = at.ThetaBefore.clone ()
            let start = at.ThetaGradient centre
            let pull = (v / Number.scalar o.Sigma - start).mul_ stay
            let target = max (Method.size (v * stay) / o.Sigma) Double.Epsilon
            let theta = centre.clone ()

            let gradient () =
                Scope.tensor (fun () -> at.ThetaGradient theta * stay + (theta - centre) * decay + pull)

            let mutable rest = gradient ()
            let mutable count = 0

            while count < o.Iterations && Method.size rest > o.Tolerance * target do
                theta.add_ (rest, Number.scalar -o.Step) |> ignore
                rest.Dispose()
                rest <- gradient ()
                count <- count + 1

            let residual = Method.size rest / target

            let vector = (at.LambdaGradient theta - at.LambdaGradient centre) * o.Sigma

            // p = H⁻¹v ≈ σ(c − θ_σ)
            if at.LearnsOptions then
                vector.sub_ (at.OptionsVjp(Method.over at ((centre - theta) * o.Sigma)))
                |> ignore

            { Vector = keep vector
              Move = None
              Kept = None
              Report =
                lazy
                    { Report.empty "f2sa" with
                        Passes = count + 4
                        Residual = Nullable residual
                        Converged = Nullable(residual <= o.Tolerance) } })

    let method (o: F2saOptions) : HypergradientMethod =
        Method.positive "Sigma" o.Sigma
        Method.positive "Step" o.Step
        Method.atLeast 1 "Iterations" o.Iterations
        Method.tolerance "Tolerance" o.Tolerance

        { Name = "f2sa"
          Needs = [ Adaptation; ElementwiseRule; Differences; LearnedOptions ]
          Motion = Unknown "f2sa solves a problem of its own"
          Choose = None
          BestResponse = respond o }
