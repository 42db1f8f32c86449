/// Exact points and every approximation there.
module Sama.Fixtures.Hypergradients.Points

open System
open System.Text.Json
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

/// θ* by Nesterov's accelerated gradient steps: `h` is the curvature at θ*, away from it up to twice as strong.
let solve losses (h: Mat) (start: Vec) lambda =
    let low, high =
        h.Evd().EigenValues |> Seq.map _.Real |> (fun e -> Seq.min e, Seq.max e)

    let root = sqrt (low / (2.0 * high))

    let rule =
        sgdWith
            { SgdOptions.Default with
                LearningRate = 0.5 / high
                Momentum = (1.0 - root) / (1.0 + root)
                Nesterov = true }

    let steps = 200 + int (40.0 / root)
    Library.solve 0.0 steps (Library.levels losses rule start lambda)

let private adjointMethod (a: JsonElement) : HypergradientMethod option =
    match text "method" a with
    | "t1t2" -> Some Hypergradient.t1t2
    | "neumann" ->
        Hypergradient.neumannWith
            { NeumannOptions.Default with
                Terms = integer "terms" a
                Step = number "step" a }
        |> Some
    | "conjugateGradient" ->
        Hypergradient.conjugateGradientWith
            { ConjugateGradientOptions.Default with
                Iterations = integer "iterations" a
                Tolerance = 1e-15
                Damping = numberOr 0.0 "damping" a }
        |> Some
    | "fixedPoint" ->
        Hypergradient.fixedPointWith
            { FixedPointOptions.Default with
                Iterations = integer "iterations" a
                Step = number "step" a
                Tolerance = 0.0
                Start = Suite.ofVector (vector "start" a) }
        |> Some
    | "nystrom" ->
        Hypergradient.nystromWith
            { NystromOptions.Default with
                Columns = integers "columns" a |> Array.map int64
                Rho = number "rho" a }
        |> Some
    | _ -> None

let private tolerance n (a: JsonElement) =
    match text "method" a with
    | "conjugateGradient" when integer "iterations" a < n -> 1e-9
    | "conjugateGradient" when integer "iterations" a = n -> 2e-5
    | "nystrom" -> 1e-9
    | "samaNa" -> max 1e-11 (1e-12 / number "alpha" a)
    | "unrolled"
    | "truncated" -> 1e-12
    | _ -> 1e-11

/// The options that tell runs of one method apart.
let private describe (a: JsonElement) =
    let known =
        [ "terms"
          "step"
          "iterations"
          "damping"
          "rho"
          "alpha"
          "steps"
          "lastSteps" ]

    [ text "method" a
      for key in known do
          match Row.tryGet key a with
          | Some value -> $"{key}={value}"
          | None -> ()
      match Row.tryGet "rule" a with
      | Some rule ->
          text "name" rule

          match Row.tryGet "momentum" rule, Row.tryGet "count" (item "stateBefore" a) with
          | Some momentum, _ -> $"momentum={momentum}"
          | _, Some count -> $"count={count}"
          | _ -> ()
      | None -> () ]
    |> String.concat " "

/// A run through base steps, from the state and θ₀ of the json.
let unrolledAnswer losses (lambda: Vec) (a: JsonElement) =
    let steps, last = integer "steps" a, integer "lastSteps" a
    let levels = Library.levels losses (Rules.from a) (vector "theta0" a) lambda

    let method =
        Hypergradient.unrolledWith
            { UnrolledOptions.Default with
                Steps = steps
                Last = last }

    Library.ofRun steps method levels, fst (Library.advance steps levels)

let private unrolledRows place losses (point: JsonElement) (a: JsonElement) =
    let answer, final = unrolledAnswer losses (vector "lambda" point) a

    [ vectorRow place "thetaFinal" 1e-11 final (vector "thetaFinal" a)
      vectorRow place "directGradient" 1e-11 answer.Direct (vector "directGradient" a)
      vectorRow place "bestResponseVjp" 1e-12 answer.Response (vector "bestResponseVjp" a) ],
    answer

/// The answer of a method at the point, and its adjoint q.
let private withAdjoint (losses: Suite.Losses) (point: JsonElement) method : Library.Answer * Vec =
    let theta, lambda = vector "theta" point, vector "lambda" point
    let n, m = theta.Count, lambda.Count
    let extended = Numbers.vector (Seq.append lambda (Numbers.zeros n))

    let answer =
        Library.hypergradient (Suite.withAdjoint n losses) Library.gradientRule theta extended method

    { answer with
        Total = answer.Total.SubVector(0, m)
        Direct = answer.Direct.SubVector(0, m)
        Response = answer.Response.SubVector(0, m) },
    answer.Total.SubVector(m, n)

/// `h` and `v` the library's own ∂g/∂θ and ∂L_meta/∂θ there.
let private adjointRows place losses (point: JsonElement) (h: Mat) (v: Vec) (a: JsonElement) tolerance method =
    let answer, q = withAdjoint losses point method
    let residual = Adjoint.residual h v q

    [ vectorRow place "adjoint" tolerance q (vector "adjoint" a)
      numberRow place "adjointResidual" tolerance residual (number "adjointResidual" a)
      // the report's residual is that of the system that was solved, damping included
      if answer.Report.Residual.HasValue && (Row.tryGet "damping" a).IsNone then
          numberRow place "report.Residual" tolerance answer.Report.Residual.Value (number "adjointResidual" a) ],
    answer

let private samaNaRows place losses (point: JsonElement) (a: JsonElement) tolerance =
    let theta, lambda = vector "theta" point, vector "lambda" point

    let run method =
        Library.hypergradient losses Library.gradientRule theta lambda method

    let answer =
        run (
            Hypergradient.samaNaWith
                { SamaOptions.Default with
                    Alpha = Nullable(number "alpha" a)
                    Norm = PerturbationNorm.All }
        )

    let error = Numbers.relativeError answer.Response (run Hypergradient.t1t2).Response

    [ numberRow place "responseErrorToT1T2" tolerance error (number "responseErrorToT1T2" a) ], answer

let private approximationRows (place: Place) losses (point: JsonElement) h v (exact: Library.Answer) (a: JsonElement) =
    let place =
        { place with
            Case = $"{place.Case} {describe a}" }

    let n = (vector "theta" point).Count
    let tolerance = tolerance n a

    let rows, answer =
        match adjointMethod a with
        | Some method -> adjointRows place losses point h v a tolerance method
        | None when text "method" a = "samaNa" -> samaNaRows place losses point a tolerance
        | None -> unrolledRows place losses point a

    rows
    @ [ vectorRow place "hypergradient" tolerance answer.Total (vector "hypergradient" a) ]
    @ comparisonRows place "" tolerance answer.Total exact.Total a
    @ (match Row.tryGet "response" a with
       | Some response -> comparisonRows place "response." tolerance answer.Response exact.Response response
       | None -> [])

/// Every quantity of a point.
let rows (place: Place) (losses: Suite.Losses) (point: JsonElement) : Row.Row list =
    let theta, lambda = vector "theta" point, vector "lambda" point
    let fixedLambda = Suite.ofVector lambda
    let loss, g = Library.valueAndGradient (fun x -> losses.Base x fixedLambda) theta
    let meta, v = Library.valueAndGradient (fun x -> losses.Meta x fixedLambda) theta
    let h = Library.hessian losses theta lambda
    let c = Library.cross losses theta lambda
    let exact, q = withAdjoint losses point Hypergradient.exact

    let jacobian =
        Library.responseRows Hypergradient.exact losses Library.gradientRule theta lambda

    [ vectorRow place "theta" 1e-11 (solve losses h (0.0 * theta) lambda) theta
      numberRow place "baseLoss" 1e-11 loss (number "baseLoss" point)
      numberRow place "metaLoss" 1e-11 meta (number "metaLoss" point)
      numberRow place "baseGradientNorm" 1e-11 (Numbers.norm g) (number "baseGradientNorm" point)
      vectorRow place "metaGradientTheta" 1e-11 v (vector "metaGradientTheta" point)
      vectorRow place "directGradient" 1e-11 exact.Direct (vector "directGradient" point)
      vectorRow place "adjoint" 1e-11 q (vector "adjoint" point)
      vectorRow place "hypergradient" 1e-11 exact.Total (vector "hypergradient" point)
      matrixRow place "baseHessian" 1e-11 h (matrix "baseHessian" point)
      matrixRow place "crossDerivative" 1e-11 c (matrix "crossDerivative" point)
      numberRow place "conditionNumber" 1e-11 exact.Report.ConditionNumber.Value (number "conditionNumber" point)
      matrixRow place "bestResponseJacobian" 1e-11 jacobian (matrix "bestResponseJacobian" point) ]
    @ (items "approximations" point
       |> List.collect (approximationRows place losses point h v exact))
