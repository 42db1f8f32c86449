namespace Sama.Functional

open TorchSharp
open Sama

/// How products with the derivatives of a level's gradient are formed, chosen once.
module internal Products =

    /// What to know of products by differences on a level's module: where it has kinks, they see them. Null for nothing.
    let note (form: ProductForm) (level: Level) : string =
        let kinked (m: torch.nn.Module) =
            match m with
            | :? Modules.ReLU
            | :? Modules.ReLU6
            | :? Modules.LeakyReLU
            | :? Modules.PReLU
            | :? Modules.MaxPool2d -> true
            | _ -> false

        match level.Module with
        | Some m when form = ProductForm.Differences ->
            match m :: List.ofSeq (m.modules ()) |> List.tryFind kinked with
            | Some found ->
                $"the gradient of level '{level.Name}' jumps at the kinks of {found.GetType().Name}: products by differences see them and can be far off; take smooth activations (GELU, SiLU, tanh), a function of Params with exact products, or sama"
            | None -> null
        | _ -> null

    /// g at (θ, λ) and products with its derivatives, in the form that the level's method asks for; `known` is g there or
    /// null. Passes beside the one of a graph are counted. Of several ranks, g is this one's and the products are all's.
    let at
        (passes: int ref)
        (s: Linearization.Subject)
        (micros: Micro list)
        (mode: Mode)
        (known: Tensor)
        (theta: Tensor)
        : Tensor * ILinearization =
        let g, own =
            match Structure.productForm s.Problem s.Index with
            | Some ProductForm.Differences -> Differenced.linearize passes s micros mode known theta
            | _ -> Linearization.at s micros mode theta

        g, Across.linearization s.Problem own
