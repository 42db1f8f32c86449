namespace Sama.Reference

open System
open Numbers

/// P3: logistic regression with one regulariser a weight. base mean(log(1 + eᶻ) − yz) + ½Σλⱼθⱼ², z = Xθ; meta the mean
/// on the validation half. P4 (ridge) shares the shape of the data.
type Regression =
    { TrainInputs: Mat
      TrainTargets: Vec
      ValidationInputs: Mat
      ValidationTargets: Vec }

module Logistic =

    /// y = 1[x·w₀ + 0.1ε > 0], half of the samples for validation.
    let draw (seed: int) samples dimension : Regression =
        let rng = Random seed
        let truth = normal rng dimension

        let half () =
            normalMatrix rng (samples / 2) dimension

        let labels (x: Mat) =
            each (fun z -> if z > 0.0 then 1.0 else 0.0) (x * truth + 0.1 * normal rng x.RowCount)

        let train, validation = half (), half ()

        { TrainInputs = train
          TrainTargets = labels train
          ValidationInputs = validation
          ValidationTargets = labels validation }

    let private entropy (x: Mat) (y: Vec) (w: Vec) =
        let z = x * w
        ((each softplus z) - times y z).Sum() / float x.RowCount

    let private slope (x: Mat) (y: Vec) (w: Vec) =
        x.TransposeThisAndMultiply(each sigmoid (x * w) - y) / float x.RowCount

    let problem (p: Regression) : ReferenceProblem =
        let x = p.TrainInputs

        { Name = "P3"
          Start = zeros x.ColumnCount
          Lambda = zeros x.ColumnCount + 1.0
          BaseLoss = fun w lambda -> entropy x p.TrainTargets w + 0.5 * (lambda * times w w)
          MetaLoss = fun w _ -> entropy p.ValidationInputs p.ValidationTargets w
          Base =
            fun w lambda ->
                let s = each (fun z -> sigmoid z * (1.0 - sigmoid z)) (x * w)

                { Gradient = slope x p.TrainTargets w + times lambda w
                  Hessian = x.TransposeThisAndMultiply(diagonal s * x) / float x.RowCount + diagonal lambda
                  Cross = diagonal w }
          Meta = fun w lambda -> slope p.ValidationInputs p.ValidationTargets w, 0.0 * lambda
          Solution = None }

    /// ∂h/∂λⱼ = −wⱼvⱼ, v = (XᵀSX/n + diag λ)⁻¹∇E
    let closedForm (p: Regression) (lambda: Vec) (w: Vec) : Vec =
        let x = p.TrainInputs
        let s = each (fun z -> sigmoid z * (1.0 - sigmoid z)) (x * w)

        let h =
            x.TransposeThisAndMultiply(diagonal s * x) / float x.RowCount + diagonal lambda

        -(times w (h.Solve(slope p.ValidationInputs p.ValidationTargets w)))
