/// The oracle against itself: derivatives by hand, closed forms, dense algebra and central differences agree.
module Sama.Tests.ReferenceTests

open Expecto
open Sama.Reference
open Sama.Reference.Numbers

let private close tolerance what (a: Vec) (b: Vec) =
    Expect.isLessThan (norm (a - b)) (tolerance * (norm b + 1.0)) what

let private closeMatrix tolerance what (a: Mat) (b: Mat) =
    Expect.isLessThan ((a - b).FrobeniusNorm()) (tolerance * (b.FrobeniusNorm() + 1.0)) what

/// Name, problem, closed form of the hypergradient where there is one, its twin in tensors.
let suite =
    let p1 = LeastSquares.draw 1 40 6 4
    let p2 = Quadratic.draw 2 64 6 5
    let p3 = Logistic.draw 3 60 5
    let p4 = Ridge.draw 4 10 3
    let p5 = vector [ 0.1; 0.4; 0.9; 1.7; 2.6 ]
    let p6 = DataCleaning.draw 6 12 10 3 3 0.5
    let p7, lambda7 = Smooth.draw 7 8 4 30.0
    let scalar7, scalarLambda = Smooth.draw 8 1 1 1.0

    [ LeastSquares.problem p1, Some(fun _ theta -> LeastSquares.closedForm p1 theta), Sama.Suite.leastSquares p1
      Quadratic.problem p2, Some(Quadratic.closedForm p2), Sama.Suite.quadratic p2
      Logistic.problem p3, Some(Logistic.closedForm p3), Sama.Suite.logistic p3
      Ridge.problem p4, Some(Ridge.closedForm p4), Sama.Suite.ridge p4
      PenaltyToy.problem p5, Some(fun x _ -> PenaltyToy.closedForm x), Sama.Suite.penaltyToy
      DataCleaning.problem p6, None, Sama.Suite.dataCleaning p6
      Smooth.problem p7 lambda7, None, Sama.Suite.smooth p7
      { Smooth.problem scalar7 scalarLambda with
          Name = "P7, one dimension" },
      None,
      Sama.Suite.smooth scalar7 ]

let private somewhere (problem: ReferenceProblem) =
    let rng = System.Random 11
    0.5 * normal rng problem.Start.Count, problem.Lambda + 0.1 * normal rng problem.Lambda.Count

let private derivatives (problem: ReferenceProblem) =
    testCase $"{problem.Name}: derivatives by hand = central differences"
    <| fun _ ->
        let theta, lambda = somewhere problem
        let at = problem.Base theta lambda
        let v, d = problem.Meta theta lambda
        let g theta lambda = (problem.Base theta lambda).Gradient
        let step = 1e-2
        close 1e-8 "g" at.Gradient (gradientByDifferences (fun x -> problem.BaseLoss x lambda) step theta)
        closeMatrix 1e-8 "H" at.Hessian (differences (fun x -> g x lambda) step theta)
        closeMatrix 1e-8 "C" at.Cross (differences (g theta) step lambda)
        close 1e-7 "v" v (gradientByDifferences (fun x -> problem.MetaLoss x lambda) step theta)
        close 1e-7 "d" d (gradientByDifferences (problem.MetaLoss theta) step lambda)

let private exact (problem: ReferenceProblem, closed) =
    testCase $"{problem.Name}: exact = closed form = central differences of the re-solved problem"
    <| fun _ ->
        let point = Exact.point problem problem.Lambda
        Expect.isLessThan (norm point.Derivatives.Gradient) 1e-11 "g(θ*) = 0"
        close 1e-7 "differences" point.Hypergradient (Exact.byDifferences problem 1e-2 problem.Lambda)

        match closed with
        | Some closed -> close 1e-11 "closed form" point.Hypergradient (closed problem.Lambda point.Theta)
        | None -> ()

let private twin (problem: ReferenceProblem, losses: Sama.Suite.Losses) =
    testCase $"{problem.Name}: the losses of tensors are those of the oracle"
    <| fun _ ->
        use _ = TorchSharp.torch.NewDisposeScope()
        let theta, lambda = somewhere problem
        let at = problem.Base theta lambda
        let v, d = problem.Meta theta lambda

        let gradients (loss: Sama.Tensor -> Sama.Tensor -> Sama.Tensor) =
            let x, l =
                (Sama.Suite.ofVector theta).requires_grad_ true, (Sama.Suite.ofVector lambda).requires_grad_ true

            let value = loss x l
            value.backward ()

            let read (t: Sama.Tensor) =
                if isNull t.grad then
                    0.0 * Sama.Suite.toVector t
                else
                    Sama.Suite.toVector t.grad

            value.item<float> (), read x, read l

        let value, g, _ = gradients losses.Base
        let meta, byTheta, byLambda = gradients losses.Meta
        close 1e-12 "L_base" (vector [ value ]) (vector [ problem.BaseLoss theta lambda ])
        close 1e-12 "L_meta" (vector [ meta ]) (vector [ problem.MetaLoss theta lambda ])
        close 1e-12 "g" g at.Gradient
        close 1e-12 "v" byTheta v
        close 1e-12 "d" byLambda d

let private approximations =
    testCase "P7: adjoint approximations reach the exact adjoint"
    <| fun _ ->
        let drawn, lambda = Smooth.draw 3 6 3 10.0
        let point = Exact.point (Smooth.problem drawn lambda) lambda
        let h, v = point.Derivatives.Hessian, point.MetaGradient
        let step = 1.0 / h.L2Norm()
        let all = [| 0 .. v.Count - 1 |]
        close 1e-10 "neumann" (Adjoint.neumann 2000 step h v) point.Adjoint
        close 1e-10 "fixedPoint" (Adjoint.fixedPoint 2000 step v h v) point.Adjoint
        close 1e-10 "conjugateGradient" (Adjoint.conjugateGradient 6 0.0 h v) point.Adjoint
        close 1e-6 "nystrom" (Adjoint.nystrom all 1e-8 h v) point.Adjoint
        close 1e-12 "one term" (Adjoint.neumann 1 step h v) (step * v)
        close 1e-12 "one product" (Adjoint.conjugateGradient 1 0.0 h v) (v * (v * v / (v * (h * v))))
        Expect.isGreaterThan (Adjoint.residual h v (Adjoint.neumann 5 step h v)) 1e-3 "5 terms are not enough"

let private unrolled =
    testCase "P7: forward-mode unrolling = central differences of the run"
    <| fun _ ->
        let drawn, lambda = Smooth.draw 4 5 3 10.0
        let problem = Smooth.problem drawn lambda
        let start = problem.Start

        let state =
            { Count = 3
              First = vector [ 0.1; -0.2; 0.05; 0.3; -0.1 ]
              Second = vector [ 0.04; 0.01; 0.09; 0.02; 0.05 ] }

        for rule in [ Sgd(0.5, 0.0); Sgd(0.3, 0.8); Adam(0.05, 0.9, 0.999, 1e-8) ] do
            let run lambda =
                let theta, _ = Unrolled.hypergradient rule problem lambda state start 8 8
                problem.MetaLoss theta lambda

            let _, h = Unrolled.hypergradient rule problem lambda state start 8 8
            close 1e-7 $"{rule}" h (gradientByDifferences run 1e-3 lambda)
            let middle, _ = Unrolled.hypergradient rule problem lambda state start 8 1
            let theta, _ = Unrolled.hypergradient rule problem lambda state start 8 8
            Expect.equal middle theta "the truncated run is the same run"

let private trilevel =
    testCase "three levels: hypergradient = central differences of the composed problem"
    <| fun _ ->
        let p = Trilevel.draw 9 (3, 3, 2)
        let theta3 = vector [ 0.7; -0.4 ]

        let value theta3 =
            let at = Trilevel.solve p theta3
            let x = vector (Seq.concat [ at.Theta1; at.Theta2; theta3 ])
            0.5 * (x * (p.Q[2] * x)) + p.Linear[2] * x

        // level 2 at fixed θ₃, θ₁ responding
        let middle theta2 =
            let at = Trilevel.solve p theta3
            let theta1 = at.Theta1 + at.Response12 * (theta2 - at.Theta2)
            let x = vector (Seq.concat [ theta1; theta2; theta3 ])
            0.5 * (x * (p.Q[1] * x)) + p.Linear[1] * x

        let at = Trilevel.solve p theta3
        close 1e-9 "θ₂ is stationary" (gradientByDifferences middle 1e-2 at.Theta2) (zeros 3)
        close 1e-9 "h" at.Hypergradient (gradientByDifferences value 1e-2 theta3)
        closeMatrix 1e-9 "dθ₂/dθ₃" at.Response23 (differences (fun t -> (Trilevel.solve p t).Theta2) 1e-2 theta3)

let private bound =
    testCase "P1: the a-posteriori bound holds along a run of heavy ball"
    <| fun _ ->
        let p = LeastSquares.draw 5 60 8 8
        let problem = LeastSquares.problem p
        let lambda = problem.Lambda
        let exact = (Exact.point problem lambda).Hypergradient
        let h = (problem.Base problem.Start lambda).Hessian

        let low, high =
            h.Evd().EigenValues |> Seq.map _.Real |> (fun e -> Seq.min e, Seq.max e)

        let rate = 4.0 / (sqrt high + sqrt low) ** 2.0
        let momentum = ((sqrt high - sqrt low) / (sqrt high + sqrt low)) ** 2.0

        for steps in [ 20; 60; 100 ] do
            let theta, _ =
                Unrolled.hypergradient (Sgd(rate, momentum)) problem lambda (Unrolled.zeroState 8) problem.Start steps 1

            let at = Exact.at problem lambda theta

            for q in
                [ at.Adjoint
                  Adjoint.conjugateGradient 1 0.0 h at.MetaGradient
                  Adjoint.conjugateGradient 3 0.0 h at.MetaGradient ] do
                let r = norm (at.MetaGradient - h * q)
                let error = norm (Adjoint.hypergradient at q - exact)
                let bound = LeastSquares.bound p r (norm at.Derivatives.Gradient)
                Expect.isLessThan error (bound + 1e-10 * norm exact) $"{steps} steps"

let private measures =
    testCase "AUROC counts ordered pairs, ties one half"
    <| fun _ ->
        let p =
            { DataCleaning.draw 1 4 2 2 2 0.5 with
                Corrupted = [| true; false; true; false |] }

        Expect.equal (DataCleaning.auroc p (vector [ 0.0; 1.0; 0.5; 2.0 ])) 1.0 "ordered"
        Expect.equal (DataCleaning.auroc p (vector [ 0.0; 0.0; 0.0; 0.0 ])) 0.5 "ties"
        Expect.equal (DataCleaning.auroc p (vector [ 3.0; 1.0; 0.0; 2.0 ])) 0.5 "half of the pairs"

let tests =
    testList
        "reference"
        [ for problem, closed, losses in suite do
              derivatives problem
              exact (problem, closed)
              twin (problem, losses)
          approximations
          unrolled
          trilevel
          bound
          measures ]
