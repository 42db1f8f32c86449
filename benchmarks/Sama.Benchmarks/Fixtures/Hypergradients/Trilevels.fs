/// Three levels: scalars with closed forms, quadratics.
module Sama.Fixtures.Hypergradients.Trilevels

open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

/// A loss of (θ₁, θ₂, θ₃).
type private Loss = Tensor -> Tensor -> Tensor -> Tensor

let private level name (start: Vec) (loss: Loss) : Level =
    Level.general name [ "x", Suite.ofVector start ] (sgd 1.0) ignore (fun _ levels () ->
        loss levels["lowest"].["x"] levels["middle"].["x"] levels["top"].["x"])

/// dL₃/dθ₃ with both lower levels responding.
let private total (l1: Loss) (l2: Loss) (l3: Loss) (at: Vec list) : Vec =
    use _ = torch.NewDisposeScope()

    [ level "lowest" at[0] l1; level "middle" at[1] l2; level "top" at[2] l3 ]
    |> Library.ofLevels Hypergradient.exact
    |> _.Total

/// A two-level problem of θ₁ and one level above it: `base` and `meta` losses of both.
let private pair (baseLoss: Tensor -> Tensor -> Tensor) (metaLoss: Tensor -> Tensor -> Tensor) : Suite.Losses =
    { Base = baseLoss; Meta = metaLoss }



/// θ₁ and θ₂ for a given θ₃, by Newton's iteration on θ₂'s total gradient; its Jacobian by differences, exact for
/// quadratics; and that Jacobian.
let private solve (l1: Loss) (l2: Loss) (theta3: Vec) (step: float) (iterations: int) n1 n2 =
    use _ = torch.NewDisposeScope()
    let fixed3 = Suite.ofVector theta3
    let losses = pair (fun a b -> l1 a b fixed3) (fun a b -> l2 a b fixed3)
    let hessian = Library.hessian losses (Numbers.zeros n1) (Numbers.zeros n2)

    let respond theta2 =
        Points.solve losses hessian (Numbers.zeros n1) theta2

    let gradient theta2 =
        (Library.hypergradient losses Library.gradientRule (respond theta2) theta2 Hypergradient.exact).Total

    let jacobian (theta2: Vec) =
        let column i =
            let e = Numbers.zeros n2
            e[i] <- step
            (gradient (theta2 + e) - gradient (theta2 - e)) / (2.0 * step)

        Mat.Build.DenseOfColumnVectors [| for i in 0 .. n2 - 1 -> column i |]

    let theta2 =
        (Numbers.zeros n2, [ 1..iterations ])
        ||> List.fold (fun theta2 _ -> theta2 - (jacobian theta2).Solve(gradient theta2))

    respond theta2, theta2, jacobian theta2

/// d(θ₁ or θ₂)/dθ₃, row by row, as the hypergradients of meta losses that pick one coordinate.
let private responseOf (l1: Loss) (l2: Loss) (at: Vec list) (index: int) : Mat =
    Numbers.rows
        [ for i in 0 .. at[index].Count - 1 ->
              let pick: Loss =
                  fun a b _ -> (if index = 0 then a else b).narrow(0L, int64 i, 1L).sum ()

              (total l1 l2 pick at).ToArray() ]

/// dθ₁/dθ₂, or dθ₁/dθ₃ at fixed θ₂.
let private responseOfLowest (l1: Loss) (at: Vec list) (upper: int) : Mat =
    use _ = torch.NewDisposeScope()
    let other = Suite.ofVector at[3 - upper]

    let losses =
        pair (fun a x -> if upper = 1 then l1 a x other else l1 a other x) (fun a _ -> a.sum ())

    Library.responseRows Hypergradient.exact losses Library.gradientRule at[0] at[upper]

let private partials (l3: Loss) (at: Vec list) : Vec =
    let n1, n2 = at[0].Count, at[1].Count

    let loss (x: Tensor) =
        let parts = x.split ([| int64 n1; int64 n2; int64 at[2].Count |], 0L)
        l3 parts[0] parts[1] parts[2]

    snd (Library.valueAndGradient loss (Numbers.vector (Seq.concat at)))

let private one (name: string) json = Numbers.vector [ number name json ]

let private scalarRows (place: Place) (s: JsonElement) =
    let bend: Tensor -> Tensor =
        match text "L1" s with
        | "½(θ₁ − θ₂)²" -> id
        | "½(θ₁ − sin θ₂)²" -> torch.sin
        | other -> invalidArg "L1" $"a fixture holds the loss '{other}'"

    let square (x: Tensor) = (x * x).sum ()
    let l1: Loss = fun a b _ -> square (a - bend b) * 0.5
    let l2: Loss = fun a b c -> (square a + square (b - c)) * 0.5

    let l3: Loss =
        fun a b c -> (torch.sin a + a * b).sum () + square (b - 1.0) * 0.5 + square c * 0.1

    let place =
        { place with
            Case = $"""scalar {text "L1" s} theta3={number "theta3" s}""" }

    let at = [ one "theta1" s; one "theta2" s; one "theta3" s ]
    let theta1, theta2, _ = solve l1 l2 at[2] 1e-3 8 1 1

    let row quantity (found: Vec) =
        vectorRow place quantity 1e-11 found (one quantity s)

    [ row "theta1" theta1
      row "theta2" theta2
      row "dTheta1dTheta2" ((responseOfLowest l1 at 1).Row 0)
      row "dTheta2dTheta3" ((responseOf l1 l2 at 1).Row 0)
      row "dTheta1dTheta3" ((responseOf l1 l2 at 0).Row 0)
      vectorRow place "partialsOfL3" 1e-11 (partials l3 at) (vector "partialsOfL3" s)
      row "hypergradient" (total l1 l2 l3 at) ]

let private quadraticRows (place: Place) (index: int) (s: JsonElement) =
    use _ = torch.NewDisposeScope()

    let loss i : Loss =
        let q, linear = Suite.ofMatrix (matrix $"Q{i}" s), Suite.ofVector (vector $"q{i}" s)

        fun a b c ->
            let x = torch.cat [| a; b; c |]
            x.dot (q.mv x) * 0.5 + linear.dot x

    let l1, l2, l3 = loss 1, loss 2, loss 3

    let place =
        { place with
            Case = $"quadratic[{index}]" }

    let at = [ vector "theta1" s; vector "theta2" s; vector "theta3" s ]
    let theta1, theta2, middle = solve l1 l2 at[2] 1.0 2 at[0].Count at[1].Count

    let row quantity (found: Mat) =
        matrixRow place quantity 1e-11 found (matrix quantity s)

    [ vectorRow place "theta1" 1e-11 theta1 at[0]
      vectorRow place "theta2" 1e-11 theta2 at[1]
      row "middleTotalHessian" middle
      row "dTheta1dTheta2" (responseOfLowest l1 at 1)
      row "dTheta1dTheta3Direct" (responseOfLowest l1 at 2)
      row "dTheta2dTheta3" (responseOf l1 l2 at 1)
      row "dTheta1dTheta3Total" (responseOf l1 l2 at 0)
      vectorRow place "partialsOfL3" 1e-11 (partials l3 at) (vector "partialsOfL3" s)
      vectorRow place "hypergradient" 1e-11 (total l1 l2 l3 at) (vector "hypergradient" s) ]

let rows (place: Place) (file: JsonElement) : Row.Row list =
    (items "scalar" file |> List.collect (scalarRows place))
    @ (items "quadratic" file |> List.mapi (quadraticRows place) |> List.concat)
