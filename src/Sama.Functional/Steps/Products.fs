namespace Sama.Functional

open Sama

/// How products with the derivatives of a level's gradient are formed, chosen once.
module internal Products =

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
