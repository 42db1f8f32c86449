/// Every algorithm on P1 to P5 and P7: error against work.
module Sama.Benchmarks.Exactness.Measurements

open System
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Benchmarks.Exactness.Subject

let private conjugateGradient iterations =
    Hypergradient.conjugateGradientWith
        { ConjugateGradientOptions.Default with
            Iterations = iterations
            Tolerance = 1e-14 }

let private unrolled steps =
    Hypergradient.unrolledWith
        { UnrolledOptions.Default with
            Steps = steps }

let private upTo limit = List.filter (fun k -> k < limit)

/// Work of the iterative methods, up to what their theory needs for 1e-13 at that condition number.
let private works (conditionNumber: float) =
    let enough = int (ceil (32.0 * conditionNumber)) + 40
    upTo enough [ 1; 2; 5; 10; 20; 50; 100; 200; 500; 1000 ] @ [ enough ]

/// Neumann and unrolled are in u = g/λ_max, where their step is 1.
let private iterative (s: Subject) =
    let rule = sgd s.Step
    let measure = measure s "sgd" rule
    let n = s.Theta.Count

    [ for k in works s.ConditionNumber do
          measure "neumann" $"terms={k}" 1 s.Theta (Hypergradient.neumann k 1.0)

          measure
              "fixedPoint"
              $"iterations={k}"
              1
              s.Theta
              (Hypergradient.fixedPointWith
                  { FixedPointOptions.Default with
                      Iterations = k
                      Tolerance = 0.0 })

          measure "unrolled" $"steps={k} from θ₀" k s.Oracle.Start (unrolled k)

      for k in upTo n [ 1; 2; 3; 5; 8; 13; 21; 34; 55; 89 ] @ [ 4 * n ] do
          measure "conjugateGradient" $"iterations={k}" 1 s.Theta (conjugateGradient k)

      for k in [ 1; 5 ] do
          measure "truncated" $"last={k}" k s.Theta (Hypergradient.truncated k) ]

let private differences (s: Subject) ruleName rule =
    let sama alpha =
        Hypergradient.samaWith
            { SamaOptions.Default with
                Alpha = Nullable alpha }

    [ for alpha in [ 1.0; 1e-2; 1e-5 ] do
          measure s ruleName rule "sama" $"alpha={alpha}" 1 s.Theta (sama alpha)

      measure s ruleName rule "samaNa" "" 1 s.Theta Hypergradient.samaNa ]

/// Methods that look at the solution once.
let private direct (s: Subject) =
    let n = s.Theta.Count

    [ for ruleName, rule in [ "sgd", sgd s.Step; "adam", settledAdam n ] do
          measure s ruleName rule "exact" "" 1 s.Theta Hypergradient.exact
          measure s ruleName rule "conjugateGradient" $"iterations={4 * n}" 1 s.Theta (conjugateGradient (4 * n))
          measure s ruleName rule "t1t2" "" 1 s.Theta Hypergradient.t1t2
          yield! differences s ruleName rule

      for rank in [ max 1 (n / 2); n ] do
          measure
              s
              "sgd"
              (sgd s.Step)
              "nystrom"
              $"rank={rank} rho=0.01"
              1
              s.Theta
              (Hypergradient.nystromWith
                  { NystromOptions.Default with
                      Rank = rank
                      Rho = 0.01 })

      for sigma in [ 1e2; 1e4; 1e6 ] do
          measure
              s
              "sgd"
              (sgd s.Step)
              "f2sa"
              $"sigma={sigma}"
              1
              s.Theta
              (Hypergradient.f2saWith
                  { F2saOptions.Default with
                      Sigma = sigma
                      Iterations = 5000
                      Step = s.Step
                      Tolerance = 1e-6 }) ]

/// P3 as it is usually run: 100 steps of 0.1, which is not converged.
/// The empirical Fisher matrix is measured here: at a solution its diagonal, the gradient's square, is 0.
let private usualLogistic (p: Regression) losses =
    let oracle = Logistic.problem p
    let s = solve (Some(99, 0.1)) oracle losses
    let s = { s with Name = "P3, T = 100" }

    [ measure s "sgd" (sgd 0.1) "exact" "" 1 s.Theta Hypergradient.exact
      measure s "sgd" (sgd 0.1) "unrolled" "steps=100 from θ₀" 100 oracle.Start (unrolled 100)
      measure s "sgd" (sgd 0.1) "samaFisher" "" 1 s.Theta Hypergradient.samaFisher
      measure s "sgd" (sgd 0.1) "sama" "" 1 s.Theta Hypergradient.sama ]

/// SAMA, T1–T2 and Neumann against the condition number.
let private conditionNumbers () =
    [ for condition in [ 1.0; 10.0; 100.0; 1000.0 ] do
          let data, lambda = Smooth.draw 7 12 5 condition

          let s =
              solve None (Smooth.problem data lambda) (Suite.smooth data)
              |> fun s ->
                  { s with
                      Name = $"P7, κ = {s.ConditionNumber:F0}" }

          yield! direct s
          measure s "sgd" (sgd s.Step) "neumann" "terms=5" 1 s.Theta (Hypergradient.neumann 5 1.0)
          measure s "sgd" (sgd s.Step) "conjugateGradient" "iterations=5" 1 s.Theta (conjugateGradient 5) ]

/// All rows, on data drawn by one seed.
let rows (seed: int) : Row list =
    let p1 = LeastSquares.draw seed 1000 10 10
    let p2 = Quadratic.draw (seed + 1) 1024 100 100
    let p3 = Logistic.draw (seed + 2) 1000 20
    let p4 = Ridge.draw (seed + 3) 10 3
    let p5 = Numbers.vector [ 0.1; 0.4; 0.9; 1.7; 2.6 ]
    let logistic = Suite.logistic p3

    [ for oracle, losses in
          [ LeastSquares.problem p1, Suite.leastSquares p1
            Quadratic.problem p2, Suite.quadratic p2
            Logistic.problem p3, logistic
            Ridge.problem p4, Suite.ridge p4
            PenaltyToy.problem p5, Suite.penaltyToy ] do
          let s = solve None oracle losses
          yield! direct s
          yield! iterative s

      yield! usualLogistic p3 logistic
      yield! conditionNumbers () ]
