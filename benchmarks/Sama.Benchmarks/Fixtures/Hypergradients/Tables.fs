/// Inexact solutions: heavy ball in P1 with its a-posteriori bound, gradient descent in P3.
module Sama.Fixtures.Hypergradients.Tables

open System.Text.Json
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

let private adjoint (name: string) : HypergradientMethod =
    if name = "exact" then
        Hypergradient.exact
    else
        Hypergradient.conjugateGradientWith
            { ConjugateGradientOptions.Default with
                Iterations = int (name.Substring 2)
                Tolerance = 0.0 }

/// θ after `steps` steps, and the hypergradient there: the library tries the last of them itself and takes v behind it.
/// The curvature of P1 is the same everywhere.
let private heavyBallRow (place: Place) data losses (exact: Vec) (table: JsonElement) lambda (row: JsonElement) =
    let steps, name = integer "steps" row, text "adjoint" row

    let place =
        { place with
            Case = $"{place.Case} {name}"
            T = Some steps }

    let rule =
        sgdWith
            { SgdOptions.Default with
                LearningRate = number "learningRate" table
                Momentum = number "momentum" table }

    let levels = Library.levels losses rule (vector "theta0" table) lambda
    let theta, _ = Library.advance steps levels
    let before, state = Library.advance (steps - 1) levels

    let last =
        Library.levels losses (Rules.startingAt state rule) before lambda
        |> Library.ofLevels (adjoint name)

    let fixedLambda = Suite.ofVector lambda
    let _, g = Library.valueAndGradient (fun x -> losses.Base x fixedLambda) theta
    let _, v = Library.valueAndGradient (fun x -> losses.Meta x fixedLambda) theta
    let residual = last.Report.Residual.Value * Numbers.norm v
    let error = Numbers.norm (last.Total - exact)

    // its factor of ‖g‖ is some thousand, by which the rounding of θ and g is beyond the tolerance
    let precise = LeastSquares.preciseGradient data (vector "theta" row) lambda

    let bound =
        number "crossNorm" table / number "mu" table
        * (residual
           + number "metaLipschitz" table * Numbers.norm precise / number "mu" table)

    [ vectorRow place "theta" 1e-11 theta (vector "theta" row)
      vectorRow place "hypergradient" 1e-11 last.Total (vector "hypergradient" row)
      numberRow place "baseGradientNorm" 1e-11 (Numbers.norm g) (number "baseGradientNorm" row)
      scaledRow (Numbers.norm v) place "adjointResidualNorm" 1e-11 residual (number "adjointResidualNorm" row)
      scaledRow (Numbers.norm last.Total) place "errorNorm" 1e-11 error (number "errorNorm" row)
      numberRow place "bound" 1e-11 bound (number "bound" row) ]

let private heavyBall place (data: LeastSquares) losses (point: JsonElement) (table: JsonElement) =
    let place =
        { place with
            Case = $"{place.Case} heavyBall" }

    let lambda = vector "lambda" point

    let exact =
        Library.hypergradient losses Library.gradientRule (vector "theta" point) lambda Hypergradient.exact

    let constant quantity found =
        numberRow place quantity 1e-11 found (number quantity table)

    [ constant "mu" (LeastSquares.convexity data)
      constant "metaLipschitz" (LeastSquares.lipschitz data)
      constant "crossNorm" (Library.cross losses (vector "theta" point) lambda |> _.L2Norm()) ]
    @ (items "rows" table
       |> List.collect (heavyBallRow place data losses exact.Total table lambda))

/// θ after the steps; the implicit hypergradient with every derivative there, and the unrolled one.
let private gradientDescent place losses (point: JsonElement) (table: JsonElement) =
    let steps = integer "steps" table

    let place =
        { place with
            Case = $"{place.Case} gradientDescent"
            T = Some steps }

    let lambda, rule = vector "lambda" point, sgd (number "learningRate" table)
    let levels = Library.levels losses rule (vector "theta0" table) lambda
    let theta, _ = Library.advance steps levels
    let exact = vector "hypergradient" point

    let implicit =
        Library.hypergradient (Library.seenFrom theta lambda rule losses) rule theta lambda Hypergradient.exact

    let unrolled = levels |> Library.ofRun steps (Hypergradient.truncated steps)

    let _, g =
        Library.valueAndGradient (fun x -> losses.Base x (Suite.ofVector lambda)) theta

    [ vectorRow place "theta" 1e-11 theta (vector "theta" table)
      numberRow place "baseGradientNorm" 1e-11 (Numbers.norm g) (number "baseGradientNorm" table)
      vectorRow place "implicitAtTheta" 1e-11 implicit.Total (vector "implicitAtTheta" table)
      vectorRow place "unrolledHypergradient" 1e-12 unrolled.Total (vector "unrolledHypergradient" table) ]
    @ comparisonRows place "implicit." 1e-11 implicit.Total exact (item "implicit" table)
    @ comparisonRows place "unrolled." 1e-11 unrolled.Total exact (item "unrolled" table)

/// The tables of a file, if it has any.
let rows place losses (file: JsonElement) : Row.Row list =
    let point = (items "points" file).Head

    [ match Row.tryGet "heavyBall" file with
      | Some table -> yield! heavyBall place (Data.leastSquares (item "data" file)) losses point table
      | None -> ()
      match Row.tryGet "gradientDescent" file with
      | Some table -> yield! gradientDescent place losses point table
      | None -> () ]
