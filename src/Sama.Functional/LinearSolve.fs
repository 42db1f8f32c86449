namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Krylov methods for A x = b, A symmetric and given by its products.
module internal LinearSolve =

    [<NoComparison; NoEquality>]
    type Solution =
        {
            X: Tensor
            Products: int
            /// ‖b − A x‖/‖b‖
            Residual: float
        }

    let private dot (a: Tensor) (b: Tensor) : float =
        Scope.run (fun _ -> Number.read (a.dot b))

    let private size (x: Tensor) : float =
        Scope.run (fun _ -> Number.read (Flat.norm x))

    let private relative (residual: float) (norm: float) =
        if norm = 0.0 then 0.0 else residual / norm

    /// Conjugate gradients from 0 (Hestenes and Stiefel, 1952); stops at the residual, after `iterations`, or on
    /// pᵀA p ≤ 0, where A is not positive definite. The residual is the recursion's own.
    let conjugateGradient (a: Tensor -> Tensor) (b: Tensor) (iterations: int) (tolerance: float) : Solution =
        Scope.run (fun keep ->
            let norm = size b
            let x, r, p = torch.zeros_like b, b.clone (), b.clone ()
            let mutable squared = dot b b
            let mutable products = 0
            let mutable definite = true

            while definite && products < iterations && sqrt squared > tolerance * norm do
                Scope.run (fun _ ->
                    let ap = a p
                    let curvature = dot p ap
                    products <- products + 1
                    definite <- curvature > 0.0

                    if definite then
                        let step = squared / curvature
                        x.add_ (p, Number.scalar step) |> ignore
                        r.add_ (ap, Number.scalar -step) |> ignore
                        let next = dot r r
                        p.mul_(Number.scalar (next / squared)).add_ r |> ignore
                        squared <- next)

            { X = keep x
              Products = products
              Residual = relative (sqrt squared) norm })

    /// MINRES from 0 (Paige and Saunders, 1975): the same for an A that may be indefinite.
    let minres (a: Tensor -> Tensor) (b: Tensor) (iterations: int) (tolerance: float) : Solution =
        Scope.run (fun keep ->
            let norm = size b
            let x = torch.zeros_like b
            // Lanczos vectors vₖ, vₖ₋₁ and directions dₖ₋₁, dₖ₋₂
            let v, before = b.clone (), torch.zeros_like b
            let direction, older = torch.zeros_like b, torch.zeros_like b
            // the last two rotations, β and the last entry of the rotated right-hand side
            let mutable c1, s1, c0, s0 = 1.0, 0.0, 1.0, 0.0
            let mutable beta = if norm > 0.0 then 1.0 else 0.0
            let mutable eta = norm
            let mutable products = 0

            if norm > 0.0 then
                v.div_ (Number.scalar norm) |> ignore

            while beta > 0.0 && products < iterations && abs eta > tolerance * norm do
                Scope.run (fun _ ->
                    let w = (a v).sub_ (before * beta)
                    products <- products + 1
                    let alpha = dot v w
                    w.add_ (v, Number.scalar -alpha) |> ignore
                    let next = size w
                    let rho3, rho2 = s0 * beta, s1 * alpha + c0 * c1 * beta
                    let delta = c1 * alpha - c0 * s1 * beta
                    let rho1 = sqrt (delta * delta + next * next)

                    if rho1 > 0.0 then
                        let c, s = delta / rho1, next / rho1
                        let d = (v - direction * rho2 - older * rho3).div_ (Number.scalar rho1)
                        x.add_ (d, Number.scalar (c * eta)) |> ignore
                        older.copy_ direction |> ignore
                        direction.copy_ d |> ignore
                        before.copy_ v |> ignore

                        if next > 0.0 then
                            v.copy_ (w.div_ (Number.scalar next)) |> ignore

                        c0 <- c1
                        s0 <- s1
                        c1 <- c
                        s1 <- s
                        eta <- -s * eta

                    beta <- if rho1 > 0.0 then next else 0.0)

            { X = keep x
              Products = products
              Residual = relative (abs eta) norm })
