/// Update rules at their fixed points: which hypergradients depend on the rule.
module Sama.Fixtures.Hypergradients.FixedPoints

open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

let private neumann5 =
    Hypergradient.neumannWith
        { NeumannOptions.Default with
            Terms = 5 }

let private conjugateGradient3 =
    Hypergradient.conjugateGradientWith
        { ConjugateGradientOptions.Default with
            Iterations = 3
            Tolerance = 0.0 }

/// u, g and D there; ∂u/∂θ, row i the derivative of uᵢ.
let private stepAt (losses: Suite.Losses) (rule: UpdateRule) (theta: Vec) (lambda: Vec) =
    use _ = torch.NewDisposeScope()
    let layout = Layout.create [ "theta", [| int64 theta.Count |] ]
    let bound = UpdateRule.bind layout rule
    let x, fixedLambda = Suite.ofVector theta, Suite.ofVector lambda
    let state = bound.Init x

    let u (x: Tensor) =
        let g = Autodiff.gradientInGraph (losses.Base x fixedLambda) x
        fst (bound.Step state g x)

    let _, g = Library.valueAndGradient (fun x -> losses.Base x fixedLambda) theta

    let diagonal =
        match bound.Adaptation with
        | Ok adapt -> adapt state (Suite.ofVector g) x (torch.ones_like x)
        | Error reason -> invalidOp reason

    let row i =
        let e = Numbers.zeros theta.Count
        e[i] <- 1.0
        (Suite.toVector (Autodiff.vjp u x (Suite.ofVector e))).ToArray()

    let step = fst (bound.Step state (Suite.ofVector g) x)
    Suite.toVector step, g, Suite.toVector diagonal, Numbers.rows [ for i in 0 .. theta.Count - 1 -> row i ]

let private caseRows (place: Place) losses (start: Vec) lambda (case: JsonElement) =
    let place =
        { place with
            Case = $"""{place.Case} {text "name" case}""" }

    let theta = vector "theta" case
    let rule = Rules.from case
    let u, g, diagonal, uTheta = stepAt losses rule theta lambda
    let here = Library.seenFrom theta lambda rule losses
    let answer = Library.hypergradient here rule theta lambda

    let free =
        let losses = Library.seenFrom theta lambda Library.gradientRule losses
        Library.hypergradient losses Library.gradientRule theta lambda Hypergradient.exact

    let exact = answer Hypergradient.exact

    let _, v =
        Library.valueAndGradient (fun x -> losses.Meta x (Suite.ofVector lambda)) theta

    let total quantity method =
        vectorRow place quantity 1e-11 (answer method).Total (vector quantity case)

    [ // the other is no fixed point
      if not ((text "name" case).Contains "no fixed point") then
          let rate = 1.0 / uTheta.L2Norm()

          let found =
              Library.solve 0.0 20000 (Library.levels losses (Rules.frozen rate rule) start lambda)

          vectorRow place "theta" 1e-11 found theta
      numberRow place "updateNorm" 1e-11 (Numbers.norm u) (number "updateNorm" case)
      numberRow place "baseGradientNorm" 1e-11 (Numbers.norm g) (number "baseGradientNorm" case)
      vectorRow place "adaptationDiagonal" 1e-11 diagonal (vector "adaptationDiagonal" case)
      matrixRow place "uTheta" 1e-11 uTheta (matrix "uTheta" case)
      matrixRow place "uLambda" 1e-11 (Library.updateByLambda losses rule theta lambda) (matrix "uLambda" case)
      vectorRow place "metaGradientTheta" 1e-11 v (vector "metaGradientTheta" case)
      vectorRow place "directGradient" 1e-11 exact.Direct (vector "directGradient" case)
      vectorRow place "hypergradient" 1e-11 exact.Total (vector "hypergradient" case)
      vectorRow place "ruleFreeHypergradientHere" 1e-11 free.Total (vector "ruleFreeHypergradientHere" case)
      numberRow
          place
          "relativeDifferenceToRuleFreeHere"
          1e-11
          (Numbers.relativeError exact.Total free.Total)
          (number "relativeDifferenceToRuleFreeHere" case)
      total "t1t2" Hypergradient.t1t2
      total "neumann5" neumann5
      total "conjugateGradient3" conjugateGradient3 ]

let private problemRows (place: Place) (problem: JsonElement) =
    use _ = torch.NewDisposeScope()
    let losses = Data.losses problem
    let theta, lambda = vector "theta" problem, vector "lambda" problem

    let exact =
        Library.hypergradient losses Library.gradientRule theta lambda Hypergradient.exact

    let place =
        { place with
            Case = (text "problem" problem).Substring(0, 2) }

    [ vectorRow
          place
          "theta"
          1e-11
          (Points.solve losses (Library.hessian losses theta lambda) (0.0 * theta) lambda)
          theta
      vectorRow place "hypergradient" 1e-11 exact.Total (vector "hypergradient" problem) ]
    @ (items "rules" problem |> List.collect (caseRows place losses theta lambda))

let rows (place: Place) (file: JsonElement) : Row.Row list =
    items "problems" file |> List.collect (problemRows place)
