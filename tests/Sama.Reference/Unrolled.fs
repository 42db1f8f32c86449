namespace Sama.Reference

open Numbers

/// Rules whose derivatives the oracle writes out.
type ReferenceRule =
    /// rate, momentum
    | Sgd of float * float
    /// rate, β₁, β₂, ε
    | Adam of float * float * float * float

/// Their state: steps taken, momentum or first moment, second moment.
type ReferenceState = { Count: int; First: Vec; Second: Vec }

/// Runs of base steps with dθ/dλ carried forward.
module Unrolled =

    let zeroState n =
        { Count = 0
          First = zeros n
          Second = zeros n }

    /// θ, the state, and the derivatives of θ, first and second moment by λ (n × m).
    type private Dual =
        { Theta: Vec
          State: ReferenceState
          DTheta: Mat
          DFirst: Mat
          DSecond: Mat }

    let private scale (d: Vec) (m: Mat) = diagonal d * m

    let private step rule (problem: ReferenceProblem) lambda x =
        let at = problem.Base x.Theta lambda
        let g = at.Gradient
        let dg = at.Hessian * x.DTheta + at.Cross
        let t = x.State.Count + 1

        match rule with
        | Sgd(rate, momentum) ->
            let b, db = momentum * x.State.First + g, momentum * x.DFirst + dg

            { x with
                Theta = x.Theta - rate * b
                DTheta = x.DTheta - rate * db
                State = { x.State with Count = t; First = b }
                DFirst = db }
        | Adam(rate, beta1, beta2, epsilon) ->
            let c1, c2 = 1.0 - beta1 ** float t, 1.0 - beta2 ** float t
            let m = beta1 * x.State.First + (1.0 - beta1) * g
            let s = beta2 * x.State.Second + (1.0 - beta2) * times g g
            let dm = beta1 * x.DFirst + (1.0 - beta1) * dg
            let ds = beta2 * x.DSecond + scale (2.0 * (1.0 - beta2) * g) dg
            let root = each sqrt (s / c2)
            let d = root + epsilon
            // u = rate m/(c₁d), ∂d = ∂s/(2c₂√(s/c₂))
            let byFirst = each (fun d -> rate / (c1 * d)) d

            let bySecond =
                (m.PointwiseDivide(times root (times d d))) * (-rate / (2.0 * c1 * c2))

            { Theta = x.Theta - times m byFirst
              DTheta = x.DTheta - scale byFirst dm - scale bySecond ds
              State = { Count = t; First = m; Second = s }
              DFirst = dm
              DSecond = ds }

    /// θ_K and h = d + (dθ_K/dλ)ᵀ v there; before the last steps θ and state are constants, and so are θ₀ and the first
    /// state.
    let hypergradient
        rule
        (problem: ReferenceProblem)
        lambda
        (state: ReferenceState)
        (theta: Vec)
        steps
        last
        : Vec * Vec =
        let still = Mat.Build.Dense(theta.Count, (lambda: Vec).Count)

        let start =
            { Theta = theta
              State = state
              DTheta = still
              DFirst = still
              DSecond = still }

        let forget x =
            { x with
                DTheta = still
                DFirst = still
                DSecond = still }

        let final =
            (start, [ 0 .. steps - 1 ])
            ||> List.fold (fun x k -> (if k = steps - last then forget x else x) |> step rule problem lambda)

        let v, direct = problem.Meta final.Theta lambda
        final.Theta, direct + final.DTheta.TransposeThisAndMultiply v
