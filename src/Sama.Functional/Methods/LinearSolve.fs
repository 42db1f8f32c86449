namespace Sama.Functional

open System
open TorchSharp
open Sama

/// What an iterative solver of A x = b reached.
[<NoComparison; NoEquality>]
type internal Solution =
    {
        X: Tensor
        Products: int
        /// ‖b − A x‖/‖b‖
        Residual: float
        /// A is singular, as far as rounding tells, or not positive definite
        Broken: bool
    }

/// Krylov methods for A x = b, A symmetric and given by its products.
module internal LinearSolve =

    let private dot (a: Tensor) (b: Tensor) : float =
        Scope.run (fun _ -> Number.read (a.dot b))

    let private unit (x: Tensor) = torch.finfo(x.dtype).eps

    /// The iterate of least residual along the way: s ← s + ω(x − s), t ← t + ω(r − t) with the ω that makes the residual
    /// t least (Zhou and Walker, Residual Smoothing Techniques for Iterative Methods, SIAM J. Sci. Comput. 1994).
    let private smooth (s: Tensor) (t: Tensor) (x: Tensor) (r: Tensor) : unit =
        Scope.run (fun _ ->
            let move = r - t
            let size = dot move move

            if size > 0.0 then
                let omega = -(dot t move) / size
                t.add_ (move, Number.scalar omega) |> ignore
                s.mul_(Number.scalar (1.0 - omega)).add_ (x, Number.scalar omega) |> ignore)

    /// What tells of conjugate gradients that they divide by rounding, from one iteration to the next.
    [<Sealed>]
    type private Rounding(unit: float) =
        let mutable curved, pp, largest = 0.0, 0.0, 0.0

        /// Whether x may go along p. ‖r‖² is `squared`, β that of p = r + β p₋, of which r is at right angles to p₋; A r =
        /// A p − β A p₋, of which `before` is A p₋: it is overwritten.
        member _.Tells(squared, beta: float, curvature: float, ap: Tensor, before: Tensor, isIndefinite: bool) : bool =
            let size = Method.size ap
            pp <- squared + beta * beta * pp
            largest <- max largest (size / sqrt pp)
            // b beyond the range of A stays in r: what A makes of r is rounding then. ‖A r‖ is at least rᵀA r/‖r‖, and
            // rᵀA r = pᵀA p + β² p₋ᵀA p₋: most often that tells without a vector
            let least = sqrt unit * largest * sqrt squared

            let isOutside =
                (curvature + beta * beta * curved) / sqrt squared <= 2.0 * least
                && Method.size (before.mul_(Number.scalar -beta).add_ ap) <= least

            curved <- curvature
            let flat = if isIndefinite then sqrt unit else 64.0 * unit
            isOutside || not (abs curvature > flat * sqrt pp * size)

    /// Conjugate gradients from 0 (Hestenes and Stiefel, 1952), and whether they have to be given up; they stop at the
    /// residual, or after `iterations`. From the first direction of negative curvature on, x is the smoothed iterate. Given
    /// up where A turns out singular on the Krylov space: pᵀAp is rounding (or, of an indefinite A, near it), or A r is
    /// rounding beside ‖A‖‖r‖. A step would then divide by that rounding. The residual is the recursion's own.
    let private descend
        (a: Tensor -> Tensor)
        (b: Tensor)
        (iterations: int)
        (tolerance: float)
        : struct (Solution * bool) =
        Scope.run (fun keep ->
            let norm = Method.size b
            let x, r, p = torch.zeros_like b, b.clone (), b.clone ()
            let rounding = Rounding(unit b)
            // A p of the iteration before
            let mutable before = torch.zeros_like b
            let mutable smoothed, left = null, null
            let mutable beta = 0.0
            let mutable squared = dot b b
            let mutable products = 0
            let mutable broken = false

            while not broken && products < iterations && sqrt squared > tolerance * norm do
                Scope.run (fun lift ->
                    let ap = lift (a p)
                    let curvature = dot p ap
                    products <- products + 1

                    if curvature < 0.0 && isNull smoothed then
                        smoothed <- lift (x.clone ())
                        left <- lift (r.clone ())

                    broken <- rounding.Tells(squared, beta, curvature, ap, before, not (isNull smoothed))
                    before.Dispose()
                    before <- ap

                    if not broken then
                        let step = squared / curvature
                        x.add_ (p, Number.scalar step) |> ignore
                        r.add_ (ap, Number.scalar -step) |> ignore
                        let next = dot r r
                        beta <- next / squared
                        p.mul_(Number.scalar beta).add_ r |> ignore
                        squared <- next

                        if not (isNull smoothed) then
                            smooth smoothed left x r)

            let indefinite = not (isNull smoothed)
            let residual = if indefinite then Method.size left else sqrt squared

            struct ({ X = keep (if indefinite then smoothed else x)
                      Products = products
                      Residual = Method.relative residual norm
                      Broken = indefinite },
                    broken))

    /// MINRES from 0 (Paige and Saunders, 1975): A may be indefinite or singular, x then has the least residual. It stops
    /// at the residual, after `iterations`, or where the Krylov space is exhausted.
    let private leastResidual (a: Tensor -> Tensor) (b: Tensor) (iterations: int) (tolerance: float) : Solution =
        Scope.run (fun keep ->
            let norm = Method.size b
            let x = torch.zeros_like b
            // Lanczos vectors vₖ, vₖ₋₁ and directions dₖ₋₁, dₖ₋₂
            let v, before = b.clone (), torch.zeros_like b
            let direction, older = torch.zeros_like b, torch.zeros_like b
            // the last two rotations, β and the last entry of the rotated right-hand side
            let mutable c1, s1, c0, s0 = 1.0, 0.0, 1.0, 0.0
            let mutable beta = if norm > 0.0 then 1.0 else 0.0
            let mutable eta = norm
            let mutable largest = 0.0
            let mutable products = 0

            if norm > 0.0 then
                v.div_ (Number.scalar norm) |> ignore

            while beta > 0.0 && products < iterations && abs eta > tolerance * norm do
                Scope.run (fun _ ->
                    let w = (a v).sub_ (before * beta)
                    products <- products + 1
                    let alpha = dot v w
                    w.add_ (v, Number.scalar -alpha) |> ignore
                    let next = Method.size w
                    let rho3, rho2 = s0 * beta, s1 * alpha + c0 * c1 * beta
                    let delta = c1 * alpha - c0 * s1 * beta
                    let rho1 = sqrt (delta * delta + next * next)
                    largest <- max largest (abs alpha + next)

                    // below it the direction would be rounding divided by rounding
                    if rho1 > 64.0 * unit b * largest then
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

                    beta <-
                        if rho1 > 64.0 * unit b * largest && next > 64.0 * unit b * largest then
                            next
                        else
                            0.0)

            let residual = Scope.run (fun _ -> Method.size (b - a x))

            { X = keep x
              Products = products + 1
              Residual = Method.relative residual norm
              Broken = false })

    /// A solver on b times the power of two that brings its largest entry near 1, so that no square is lost: not a bit
    /// changes where none was.
    let private scaled
        (solve: (Tensor -> Tensor) -> Tensor -> int -> float -> Solution)
        (a: Tensor -> Tensor)
        (b: Tensor)
        (iterations: int)
        (tolerance: float)
        : Solution =
        let largest =
            if b.numel () = 0L then
                0.0
            else
                Scope.run (fun _ -> Number.read (b.abs().max ()))

        if not (largest > 0.0 && Double.IsFinite largest) then
            solve a b iterations tolerance
        else
            // what the type holds
            let most = if b.dtype = torch.float64 then 1000 else 120
            let exponent = -(Math.ILogB largest) |> max -most |> min most
            use near = b * Number.scalar (Math.ScaleB(1.0, exponent))
            let solution = solve a near iterations tolerance
            solution.X.mul_ (Number.scalar (Math.ScaleB(1.0, -exponent))) |> ignore
            solution

    /// MINRES: A may be indefinite or singular.
    let minres a b iterations tolerance : Solution =
        scaled leastResidual a b iterations tolerance

    let private whereTheyCan a b iterations tolerance : Solution =
        match descend a b iterations tolerance with
        | struct (first, false) -> first
        | struct (first, true) ->
            first.X.Dispose()
            let second = leastResidual a b iterations tolerance

            { second with
                Products = first.Products + second.Products
                Broken = true }

    /// Conjugate gradients where they can, MINRES from the start where A turns out singular.
    let conjugateGradient a b iterations tolerance : Solution =
        scaled whereTheyCan a b iterations tolerance
