namespace Sama.Reference

open System
open Numbers

/// P4: base ½mean((Xθ − y)²) + ½λ‖θ‖², meta ½mean of the squared validation residuals; λ is one number.
module Ridge =

    let draw (seed: int) samples dimension : Regression =
        let rng = Random seed
        let truth = normal rng dimension
        let inputs () = normalMatrix rng samples dimension
        let targets (x: Mat) = x * truth + 0.1 * normal rng samples
        let train, validation = inputs (), inputs ()

        { TrainInputs = train
          TrainTargets = targets train
          ValidationInputs = validation
          ValidationTargets = targets validation }

    let private half (x: Mat) (y: Vec) (w: Vec) =
        let r = x * w - y
        0.5 * (r * r) / float x.RowCount

    let private slope (x: Mat) (y: Vec) (w: Vec) : Vec = (x * w - y) * x / float x.RowCount

    let private hessian (p: Regression) (lambda: Vec) =
        p.TrainInputs.TransposeThisAndMultiply p.TrainInputs
        / float p.TrainInputs.RowCount
        + lambda[0] * identity p.TrainInputs.ColumnCount

    let problem (p: Regression) : ReferenceProblem =
        let x, y = p.TrainInputs, p.TrainTargets

        { Name = "P4"
          Start = zeros x.ColumnCount
          Lambda = vector [ 5.0 ]
          BaseLoss = fun w lambda -> half x y w + 0.5 * lambda[0] * (w * w)
          MetaLoss = fun w _ -> half p.ValidationInputs p.ValidationTargets w
          Base =
            fun w lambda ->
                { Gradient = slope x y w + lambda[0] * w
                  Hessian = hessian p lambda
                  Cross = w.ToColumnMatrix() }
          Meta = fun w lambda -> slope p.ValidationInputs p.ValidationTargets w, 0.0 * lambda
          Solution = Some(fun lambda -> (hessian p lambda).Solve(y * x / float x.RowCount)) }

    /// dw/dλ = −(XᵀX/n + λI)⁻¹w
    let closedForm (p: Regression) (lambda: Vec) (w: Vec) : Vec =
        let response = -((hessian p lambda).Solve w)
        vector [ response * slope p.ValidationInputs p.ValidationTargets w ]
