namespace Sama.Reference

open Numbers

/// P5: base g = (x+y)² + x sin²(x+y), meta f = cos(4y+2)/(1+e^{2−4x}) + ½ln((4x−2)²+1), x ∈ [0, 3]. λ = x, θ = y; each
/// coordinate is a problem of its own. The solution set is y = −x.
module PenaltyToy =

    /// x ~ U(0, 3.5), y ~ U(−5, 8.5)
    let starts (seed: int) count : Vec * Vec =
        let rng = System.Random seed
        3.5 * uniform rng count, 13.5 * uniform rng count - 5.0

    let private gate x = sigmoid (4.0 * x - 2.0)

    let private map2 (f: float -> float -> float) (a: Vec) (b: Vec) : Vec =
        a.Map2(System.Func<float, float, float>(f), b)

    /// As many toys as λ has entries, at the solution set nearest to 0.
    let problem (x: Vec) : ReferenceProblem =
        let baseLoss y x = (x + y) ** 2.0 + x * sin (x + y) ** 2.0

        let metaLoss y x =
            cos (4.0 * y + 2.0) * gate x + 0.5 * log ((4.0 * x - 2.0) ** 2.0 + 1.0)

        { Name = "P5"
          Start = -x
          Lambda = x
          BaseLoss = fun y x -> (map2 baseLoss y x).Sum()
          MetaLoss = fun y x -> (map2 metaLoss y x).Sum()
          Base =
            fun y x ->
                let gradient y x = 2.0 * (x + y) + x * sin (2.0 * (x + y))
                let hessian y x = 2.0 + 2.0 * x * cos (2.0 * (x + y))
                let cross y x = hessian y x + sin (2.0 * (x + y))

                { Gradient = map2 gradient y x
                  Hessian = diagonal (map2 hessian y x)
                  Cross = diagonal (map2 cross y x) }
          Meta =
            fun y x ->
                let byTheta y x = -4.0 * sin (4.0 * y + 2.0) * gate x

                let byLambda y x =
                    4.0 * cos (4.0 * y + 2.0) * gate x * (1.0 - gate x)
                    + 4.0 * (4.0 * x - 2.0) / ((4.0 * x - 2.0) ** 2.0 + 1.0)

                map2 byTheta y x, map2 byLambda y x
          Solution = Some(fun x -> -x) }

    /// dF/dx of F(x) = f(x, −x): along y = −x the response is −1.
    let closedForm (x: Vec) : Vec =
        let v, d = (problem x).Meta -x x
        d - v

    /// |x − Π(x − F′(x))| over [0, 3]: 0 at a stationary point of the constrained problem.
    let projectedGradient (x: Vec) : Vec =
        map2 (fun x slope -> abs (x - min 3.0 (max 0.0 (x - slope)))) x (closedForm x)
