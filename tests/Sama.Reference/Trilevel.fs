namespace Sama.Reference

open System
open Numbers

/// Lᵢ = ½xᵀQᵢx + qᵢ·x over x = (θ₁, θ₂, θ₃), i = 1, 2, 3.
type Trilevel =
    { Sizes: int * int * int
      Q: Mat list
      Linear: Vec list }

/// Solution and hypergradient of three quadratic levels.
type TrilevelPoint =
    {
        Theta1: Vec
        Theta2: Vec
        /// dθ₁/dθ₂ and dθ₁/dθ₃ at fixed θ₂
        Response12: Mat
        Response13: Mat
        /// dθ₂/dθ₃, θ₁ responding
        Response23: Mat
        Hypergradient: Vec
    }

module Trilevel =

    let private parts (p: Trilevel) =
        let n1, n2, n3 = p.Sizes
        [ 0, n1; n1, n2; n1 + n2, n3 ]

    let private block (p: Trilevel) (q: Mat) i j =
        let (r, h), (c, w) = (parts p)[i - 1], (parts p)[j - 1]
        q.SubMatrix(r, h, c, w)

    let private part (p: Trilevel) (x: Vec) i =
        let start, length = (parts p)[i - 1]
        x.SubVector(start, length)

    /// Symmetric draws; the diagonal blocks are shifted until every level is strongly convex.
    let draw (seed: int) (n1, n2, n3) : Trilevel =
        let rng = Random seed
        let n = n1 + n2 + n3

        let symmetric shift =
            let q = normalMatrix rng n n
            0.5 * (q + q.Transpose()) + shift * identity n

        { Sizes = n1, n2, n3
          Q = [ symmetric 6.0; symmetric 40.0; symmetric 0.0 ]
          Linear = [ for _ in 1..3 -> normal rng n ] }

    /// L₁ gives θ₁(θ₂, θ₃); L₂ with θ₁ responding gives θ₂(θ₃); h = dL₃/dθ₃ along both.
    let solve (p: Trilevel) (theta3: Vec) : TrilevelPoint =
        let q1, q2, q3 = p.Q[0], p.Q[1], p.Q[2]

        let respond j =
            -((block p q1 1 1).Solve(block p q1 1 j))

        let j12, j13 = respond 2, respond 3
        let offset1 = -((block p q1 1 1).Solve(part p p.Linear[0] 1))
        let _, n2, n3 = p.Sizes
        // x = S₂θ₂ + S₃θ₃ + s
        let stack (a: Mat) (b: Mat) (c: Mat) = a.Stack(b).Stack(c)
        let s2 = stack j12 (identity n2) (Mat.Build.Dense(n3, n2))
        let s3 = stack j13 (Mat.Build.Dense(n2, n3)) (identity n3)
        let s = vector (Seq.concat [ offset1; zeros n2; zeros n3 ])
        let middle = s2.TransposeThisAndMultiply(q2 * s2)
        let response = -(middle.Solve(s2.TransposeThisAndMultiply(q2 * s3)))

        let theta2 =
            response * theta3
            - middle.Solve(s2.TransposeThisAndMultiply(q2 * s + p.Linear[1]))

        let x = s2 * theta2 + s3 * theta3 + s
        let partials = q3 * x + p.Linear[2]

        { Theta1 = vector (part p x 1)
          Theta2 = theta2
          Response12 = j12
          Response13 = j13
          Response23 = response
          Hypergradient = (s2 * response + s3).TransposeThisAndMultiply partials }
