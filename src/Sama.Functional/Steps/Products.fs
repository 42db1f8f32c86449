namespace Sama.Functional

open TorchSharp
open Sama

/// How products with the derivatives of a level's gradient are formed, chosen once.
module internal Products =

    // products of smooth models differ by less from those with half the step
    let private tolerated (level: Level) =
        if level.Type = torch.float64 then 1e-2 else 5e-2

    /// What to know of a level's products by differences that are so far from those with half the step; null for nothing.
    let note (level: Level) (disagreement: float) : string =
        if disagreement <= tolerated level then
            null
        else
            $"products by differences of level '{level.Name}' change by {disagreement:G2} of their length with half the step, so that they can be that far off and more: its gradient jumps within the step (kinks of ReLU, a maximum, a clipped value), or rounding takes the difference away; take smooth activations (GELU, SiLU, tanh), a function of Params with exact products, float64, or sama"

    /// g at (θ, λ) and products with its derivatives, in the form that the level's method asks for; `known` is what passes
    /// there know already, `lend` gives a vector to overwrite. Passes beside the one of a graph are counted. Of several
    /// ranks, g is this one's and the products are all's.
    let at
        (passes: int ref)
        (s: Linearization.Subject)
        (micros: Micro list)
        (mode: Mode)
        (lend: unit -> Tensor)
        (known: Differenced.Origin option)
        (theta: Tensor)
        : Tensor * ILinearization =
        let g, own =
            match Structure.productForm s.Problem s.Index with
            | Some ProductForm.Differences -> Differenced.linearize passes s micros mode lend known theta
            | _ -> Linearization.at s micros mode theta

        g, Across.linearization s.Problem own
