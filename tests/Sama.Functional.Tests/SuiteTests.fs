/// P1 to P5 through the library: what is exact is exact, what bounds the error bounds it.
module Sama.Tests.SuiteTests

open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Benchmarks.Exactness
open Sama.Fixtures.Hypergradients

let private conjugateGradient iterations =
    Hypergradient.conjugateGradientWith
        { ConjugateGradientOptions.Default with
            Iterations = iterations
            Tolerance = 1e-14 }

let private exactOnes (oracle: ReferenceProblem, make: unit -> Suite.Losses) =
    testCase $"{oracle.Name}: exact, conjugate gradients, long Neumann and unrolled runs are within 1e-8, converged"
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        let s = Subject.solve None oracle (make ())
        let enough = 40 + int (32.0 * s.ConditionNumber)
        let measure = Subject.measure s "sgd" (sgd s.Step)

        let unrolled =
            Hypergradient.unrolledWith
                { UnrolledOptions.Default with
                    Steps = enough }

        let rows =
            [ measure "exact" "" 1 s.Theta Hypergradient.exact
              measure "conjugateGradient" "" 1 s.Theta (conjugateGradient (4 * s.Theta.Count))
              measure "neumann" "" 1 s.Theta (Hypergradient.neumann enough 1.0)
              measure "unrolled" "" enough oracle.Start unrolled ]

        for row in rows do
            Expect.isTrue row.Converged $"{row.Algorithm}: residual {row.Residual}"
            Expect.isLessThan row.RelativeError 1e-8 row.Algorithm

        let early = measure "neumann" "" 1 s.Theta (Hypergradient.neumann 1 1.0)
        Expect.isFalse early.Converged "one term"

let private problems =
    let p1, p2 = LeastSquares.draw 1 200 6 5, Quadratic.draw 2 256 12 10
    let p3, p4 = Logistic.draw 3 200 6, Ridge.draw 4 10 3
    let p5 = Numbers.vector [ 0.1; 0.9; 2.6 ]

    [ LeastSquares.problem p1, (fun () -> Suite.leastSquares p1)
      Quadratic.problem p2, (fun () -> Suite.quadratic p2)
      Logistic.problem p3, (fun () -> Suite.logistic p3)
      Ridge.problem p4, (fun () -> Suite.ridge p4)
      PenaltyToy.problem p5, (fun () -> Suite.penaltyToy) ]

let private bound =
    testCase "P1: the a-posteriori bound holds for every run that has an adjoint iterate"
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        let p = LeastSquares.draw 1 200 6 5
        let oracle, losses = LeastSquares.problem p, Suite.leastSquares p
        let exact = Exact.point oracle oracle.Lambda
        let step = 1.0 / exact.Derivatives.Hessian.L2Norm()

        let methods =
            [ for k in [ 1; 3; 6 ] do
                  conjugateGradient k
                  Hypergradient.neumann (5 * k) 1.0
                  Hypergradient.fixedPoint (5 * k) 1.0
              Hypergradient.exact ]

        for steps in [ 5; 50; 500 ] do
            let before, _ =
                Library.advance (steps - 1) (Library.levels losses (sgd step) oracle.Start oracle.Lambda)

            for method in methods do
                // P1's curvature is constant: the point is where the tried step ends
                let answer = Library.hypergradient losses (sgd step) before oracle.Lambda method
                let theta = before - step * (oracle.Base before oracle.Lambda).Gradient
                let at = Exact.at oracle oracle.Lambda theta
                let residual = answer.Report.Residual.Value * Numbers.norm at.MetaGradient
                let bound = LeastSquares.bound p residual (Numbers.norm at.Derivatives.Gradient)
                let error = Numbers.norm (answer.Total - exact.Hypergradient)
                Expect.isLessThan error (bound + 1e-9) $"{method}, {steps} steps"

let private cleaning =
    testCase "P6: exact = oracle, and SAMA's weights tell clean samples from flipped ones"
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        let p = DataCleaning.draw 3 60 40 3 3 0.5
        let oracle, losses = DataCleaning.problem p, Suite.dataCleaning p
        let point = Exact.point oracle oracle.Lambda

        let found =
            Library.hypergradient losses (sgd 1.0) point.Theta oracle.Lambda Hypergradient.exact

        Expect.isLessThan (Numbers.relativeError found.Total point.Hypergradient) 1e-9 "exact"

        let levels =
            [ (Library.levels losses (sgd 0.5) oracle.Start oracle.Lambda).Head
              Level.create "meta" [ "lambda", Suite.ofVector oracle.Lambda ] (adam 0.1) ignore (fun _ theta lambda () ->
                  losses.Meta theta["theta"] lambda["lambda"]) ]

        let problem = Problem.create BilevelOptions.Default Hypergradient.sama levels
        use run = new BilevelRun(problem, Bilevel.start 1L problem)

        for _ in 1..150 do
            run.Step() |> ignore

        let auroc = DataCleaning.auroc p (Suite.toVector run.Lambda.Vector)
        // of weights that know nothing it is ½ with standard deviation √((a + b + 1)/12ab), a and b the group sizes
        let bad = p.Corrupted |> Array.filter id |> Array.length |> float
        let clean = float p.Corrupted.Length - bad
        let deviation = sqrt ((clean + bad + 1.0) / (12.0 * clean * bad))
        Expect.isGreaterThan auroc (0.5 + 3.0 * deviation) "AUROC of the weights"

let tests =
    testList "suite" ((problems |> List.map exactOnes) @ [ bound; cleaning ])
