/// The problem suite P1 to P7 as losses of tensors, on the data of Sama.Reference.
module Sama.Suite

open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference

/// Base and meta loss of flat θ and λ, 0-D.
[<NoComparison; NoEquality>]
type Losses =
    { Base: Tensor -> Tensor -> Tensor
      Meta: Tensor -> Tensor -> Tensor }

/// float64 tensors of the oracle's vectors and matrices; the caller's scope owns them.
let tensor (values: float seq) : Tensor =
    torch.tensor (Array.ofSeq values, dtype = torch.float64)

let ofVector (v: Vec) : Tensor = tensor v

let ofMatrix (m: Mat) : Tensor =
    torch.tensor (m.ToArray(), dtype = torch.float64)

let toVector (t: Tensor) : Vec =
    Numbers.vector (t.detach().to_type(torch.float64).cpu().data<float>().ToArray())

let private square (x: Tensor) = x * x
let private scalar (x: float) : Scalar = Scalar.op_Implicit x

/// xᵀMx
let private form (m: Tensor) (x: Tensor) = x.dot (m.mv x)

let leastSquares (p: LeastSquares) : Losses =
    let a, b = ofMatrix p.MetaMatrix, ofVector p.MetaTarget
    let c, d, e = ofMatrix p.CrossMatrix, ofMatrix p.BaseMatrix, ofVector p.BaseTarget

    { Base = fun theta lambda -> square(c.mv lambda + d.mv theta - e).sum ()
      Meta = fun theta _ -> square(a.mv theta - b).sum () }

let quadratic (p: Quadratic) : Losses =
    let half (f: QuadraticForm) =
        let a, b, c = ofMatrix f.Theta, ofMatrix f.Lambda, ofMatrix f.Cross
        let linearTheta, linearLambda = ofVector f.LinearTheta, ofVector f.LinearLambda

        fun (theta: Tensor) (lambda: Tensor) ->
            (form a theta + form b lambda) * 0.5
            + lambda.dot (c.mv theta)
            + linearTheta.dot theta
            + linearLambda.dot lambda

    { Base = half p.Base
      Meta = half p.Meta }

let private crossEntropy (x: Tensor) (y: Tensor) (w: Tensor) =
    let z = x.mv w
    (torch.logaddexp (z, torch.zeros_like z) - y * z).mean ()

let logistic (p: Regression) : Losses =
    let x, y = ofMatrix p.TrainInputs, ofVector p.TrainTargets

    let validationX, validationY =
        ofMatrix p.ValidationInputs, ofVector p.ValidationTargets

    { Base = fun theta lambda -> crossEntropy x y theta + (lambda * theta).dot theta * 0.5
      Meta = fun theta _ -> crossEntropy validationX validationY theta }

let ridge (p: Regression) : Losses =
    let half (x: Mat) (y: Vec) =
        let x, y = ofMatrix x, ofVector y
        fun (theta: Tensor) -> square(x.mv theta - y).mean () * 0.5

    let train, validation =
        half p.TrainInputs p.TrainTargets, half p.ValidationInputs p.ValidationTargets

    { Base = fun theta lambda -> train theta + (theta.dot theta * lambda).sum () * 0.5
      Meta = fun theta _ -> validation theta }

let penaltyToy: Losses =
    { Base = fun y x -> (square (x + y) + x * square (torch.sin (x + y))).sum ()
      Meta =
        fun y x ->
            (torch.cos (y * 4.0 + 2.0) * torch.sigmoid (x * 4.0 - 2.0)
             + torch.log (square (x * 4.0 - 2.0) + 1.0) * 0.5)
                .sum () }

let dataCleaning (p: DataCleaning) : Losses =
    let inputs, cleanInputs = ofMatrix p.Inputs, ofMatrix p.CleanInputs

    let labels (values: int[]) =
        torch.tensor (values |> Array.map int64, dtype = torch.int64)

    let train, clean = labels p.Labels, labels p.CleanLabels

    let losses (x: Tensor) (y: Tensor) (theta: Tensor) =
        let logits = x.mm (theta.view(int64 p.Classes, -1L).t ())
        torch.nn.functional.cross_entropy (logits, y, reduction = torch.nn.Reduction.None)

    { Base =
        fun theta lambda ->
            (torch.sigmoid lambda * losses inputs train theta).mean ()
            + square(theta).sum () * DataCleaning.decay
      Meta = fun theta _ -> (losses cleanInputs clean theta).mean () }

let smooth (p: Smooth) : Losses =
    let axes, spectrum, stretch =
        ofMatrix p.Axes, ofVector p.Spectrum, ofMatrix p.Stretch

    let linear, linearLambda = ofVector p.Linear, ofMatrix p.LinearLambda

    let weights, coshTheta, coshLambda =
        ofVector p.CoshWeights, ofMatrix p.CoshTheta, ofMatrix p.CoshLambda

    let matrix, target = ofMatrix p.MetaMatrix, ofVector p.MetaTarget

    let metaTheta, metaLambda, sine =
        ofVector p.MetaTheta, ofVector p.MetaLambda, ofVector p.MetaSine

    let along = axes.t ()

    { Base =
        fun theta lambda ->
            let a = coshTheta.mv theta + coshLambda.mv lambda
            let logCosh = torch.logaddexp (a, -a) - log 2.0

            (spectrum * torch.exp (stretch.mv lambda)).dot (square (along.mv theta)) * 0.5
            + (linear + linearLambda.mv lambda).dot theta
            + weights.dot logCosh
      Meta =
        fun theta lambda ->
            square(matrix.mv theta - target).sum () * 0.5
            + metaTheta.dot theta * metaLambda.dot lambda
            + sine.dot (torch.sin lambda) }

/// λ′ = (λ, s) and L_base − s·θ: ∂g/∂s = −I, so that the hypergradient's last n entries are the adjoint q itself.
let withAdjoint (n: int) (losses: Losses) : Losses =
    let split (lambda: Tensor) =
        let m = lambda.numel () - int64 n
        lambda.narrow (0L, 0L, m), lambda.narrow (0L, m, int64 n)

    { Base =
        fun theta lambda ->
            let lambda, shift = split lambda
            losses.Base theta lambda - shift.dot theta
      Meta = fun theta lambda -> losses.Meta theta (fst (split lambda)) }

/// Levels "base" (parameter "theta") and "meta" (parameter "lambda"), both flat; the meta rule is SGD.
let levels (losses: Losses) (rule: UpdateRule) (theta: Tensor) (lambda: Tensor) : Level list =
    [ Level.create "base" [ "theta", theta ] rule ignore (fun _ theta lambda () ->
          losses.Base theta["theta"] lambda["lambda"])
      Level.create "meta" [ "lambda", lambda ] (sgd 0.1) ignore (fun _ theta lambda () ->
          losses.Meta theta["theta"] lambda["lambda"]) ]
