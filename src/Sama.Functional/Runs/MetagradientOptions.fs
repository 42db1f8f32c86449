namespace Sama

open System

/// How the steps of a training are gone through backwards.
[<NoComparison>]
type MetagradientOptions =
    {
        /// states kept in memory beside the one that is given, at least 0; with 20 each of 10,000 steps is taken four times
        /// at most
        Memory: int
        /// a folder of its own for more states: a training that was broken off goes on from what it holds. Null for none
        Folder: string
        /// states kept in the folder, the ones that stay longest, at least 1
        Disk: int
        /// how products with second derivatives are formed
        Products: ProductForm
    }

    /// 20 states in memory; with a folder 20 more in it; exact products for models that are functions of Params.
    static member Default =
        { Memory = 20
          Folder = null
          Disk = 20
          Products = ProductForm.Default }

/// What a metagradient cost.
[<NoComparison>]
type MetagradientReport =
    {
        /// T, base steps of the training
        Steps: int
        /// base steps taken in all, those taken again among them; by this call, where it went on from a folder
        Taken: int64
        /// states that were in memory at once, beside the one given
        InMemory: int
        /// states that were in the folder at once
        OnDisk: int
        /// how products were formed
        ProductForm: ProductForm
        /// true if the call went on from what a folder held
        Resumed: bool
    }

    override report.ToString() =
        let resumed = if report.Resumed then ", gone on from a folder" else ""

        $"{report.Steps} steps, {report.Taken} taken in all, states in memory {report.InMemory}, in a folder {report.OnDisk}, products {report.ProductForm}{resumed}"

/// The derivative of the meta loss behind a training by everything that the training began with: flat vectors, which the
/// owner of this object disposes with it.
[<ReferenceEquality>]
type MetagradientResult =
    {
        /// L_meta(θ_T, λ)
        Loss: float
        /// dL_meta(θ_T(λ, θ₀), λ)/dλ, the direct part in it
        Lambda: Tensor
        /// ∂L_meta/∂λ at θ_T, the direct part
        Direct: Tensor
        /// dL_meta(θ_T(λ, θ₀), λ)/dθ₀, at the rule state that the training began with
        Theta: Tensor
        /// what it cost
        Report: MetagradientReport
    }

    /// Frees the vectors.
    member result.Dispose() : unit =
        result.Lambda.Dispose()
        result.Direct.Dispose()
        result.Theta.Dispose()

    interface IDisposable with
        member result.Dispose() = result.Dispose()
