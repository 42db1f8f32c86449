/// What the hypergradients of the matrix must be: first-order gradients, rules' steps and differences of both, in float64.
/// Nothing here uses the library's second derivatives, adaptations, engines or methods.
module Sama.Benchmarks.Matrix.Oracle

open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Benchmarks.Matrix.Rules
open Sama.Benchmarks.Matrix.Subject
open Sama.Benchmarks.Matrix.Windows

/// Dense derivatives at the last base step, and what the window's end sees.
[<NoComparison; NoEquality>]
type Point =
    {
        /// ∂L_meta/∂θ at θₜ, and ∂L_meta/∂λ
        V: Vec
        Direct: Vec
        /// g = ∂L_base/∂θ at θₜ₋₁, and the mean of the micro-batches' squares
        Gradient: Vec
        Fisher: Vec
        /// ∂u/∂g and ∂u/∂θ
        G: Mat
        E: Mat
        /// ∂g/∂θ and ∂g/∂λ, features held; and with the features' own derivative
        H: Mat
        C: Mat
        Followed: Lazy<Mat * Mat>
        /// ∂g/∂λ at θₜ, features held
        CrossAfter: Lazy<Mat>
        /// gradients of the base loss by θ and λ, features held
        ThetaGradient: Vec -> Vec
        LambdaGradient: Vec -> Vec
        Theta: Vec
        /// dθₜ/dλ through the last so many steps
        Unrolled: int -> Mat
    }

/// Row by row by reverse mode.
let private jacobian (f: Tensor -> Tensor) (at: Tensor) : Mat =
    let n = at.numel ()

    Numbers.rows
        [ for i in 0L .. n - 1L ->
              local (fun () ->
                  let e = torch.zeros_like at
                  e[i] <- torch.ones ([||], dtype = at.dtype)
                  (vec (Autodiff.vjp f at e)).ToArray()) ]

/// Everything the methods are held against. In the caller's scope.
let point (rule: Rule) (way: Way) (state: RunState) : Point =
    let steps = window rule way state
    let final = List.last steps
    let passes = if way.Narrow then torch.bfloat16 else torch.float64

    let own (t: Tensor) =
        if way.Narrow then t.detach () else wide t

    let v, direct = gradients passes metaLoss final.After (own state.Lambda)
    let bound = UpdateRule.bind layout.Value rule.Derivative
    let theta, g = wide final.Theta, wide final.Gradient
    let s = RuleState.map wide final.State
    let lambda = vec state.Lambda
    let held = featuresAt way torch.float64 final.Batches theta (ten lambda)

    let gradient pick feature theta lambda =
        local (fun () ->
            baseGradients way torch.float64 final.Batches feature (ten theta) (ten lambda)
            |> List.map pick
            |> mean
            |> vec)

    let derivatives feature =
        Numbers.differences (fun x -> gradient fst feature x lambda) 1e-3 (vec theta),
        Numbers.differences (fun l -> gradient fst feature (vec theta) l) 1e-3 lambda

    let h, c = derivatives held

    { V = vec v
      Direct = vec direct
      Gradient = vec g
      Fisher = final.Gradients |> List.map (fun g -> wide g * wide g) |> mean |> vec
      G = jacobian (fun g -> fst (bound.Step s g theta)) g
      E = jacobian (fun theta -> fst (bound.Step s g theta)) theta
      H = h
      C = c
      Followed = lazy (if way.Stop then derivatives Fresh else (h, c))
      CrossAfter = lazy (Numbers.differences (fun l -> gradient fst held (vec final.After) l) 1e-3 lambda)
      ThetaGradient = fun x -> gradient fst held x lambda
      LambdaGradient = fun x -> gradient snd held x lambda
      Theta = vec theta
      Unrolled = unrolled rule way steps lambda }

/// dθ*/dλ, transposed, times v: J dθ*/dλ = −G C, J = G H + E. A coordinate whose row of J is 0 does not respond (frozen,
/// clipped).
let implicitly (p: Point) (h: Mat, c: Mat) : Vec =
    let j, u = p.G * h + p.E, p.G * c

    let rows =
        [ for i in 0 .. j.RowCount - 1 do
              if j.Row(i).L2Norm() > 0.0 then
                  i ]

    let own = Numbers.rows [ for i in rows -> [| for k in rows -> j[i, k] |] ]
    let right = Numbers.rows [ for i in rows -> u.Row(i).ToArray() ]
    let z = -(own.Solve right)
    z.TransposeThisAndMultiply(Numbers.vector [ for i in rows -> p.V[i] ])

/// The condition number of the base Hessian.
let condition (p: Point) : float = p.H.ConditionNumber()

/// −Cᵀ p.
let along (p: Point) (direction: Vec) : Vec =
    -(p.C.TransposeThisAndMultiply direction)

/// The limit of SAMA's difference along p: −Cᵀ p at its centre.
let difference (way: Way) (p: Point) (direction: Vec) : Vec =
    if way.After then
        -(p.CrossAfter.Value.TransposeThisAndMultiply direction)
    else
        along p direction

/// −(G C)ᵀ q.
let adjoint (p: Point) (q: Vec) : Vec =
    along p (p.G.TransposeThisAndMultiply q)

/// What a method with a memory finds in it: any vector will do.
let remembered (p: Point) : Vec =
    Numbers.vector [ for i in 1 .. p.V.Count -> 0.4 * cos (2.0 * float i) ]

/// The memory behind so many steps of η, p ← p − η [D (H p − v) + E p], D = ∂u/∂g and E = ∂u/∂θ diagonal.
let goingOn (steps: int) (eta: float) (p: Point) : Vec =
    let d, e = p.G.Diagonal(), p.E.Diagonal()
    let mutable memory = remembered p

    for _ in 1..steps do
        let miss = Numbers.times d (p.H * memory - p.V) + Numbers.times e memory
        memory <- memory - eta * miss

    memory

/// (A_K + ρI)⁻¹ v on the coordinates that the rule moves, A = H + E/D.
let nystrom (columns: int list) (rho: float) (p: Point) : Vec =
    let n = p.V.Count
    let d, e = p.G.Diagonal(), p.E.Diagonal()
    let stays i = d[i] <> 0.0

    let a i k =
        if stays i && stays k then
            p.H[i, k] + (if i = k then e[i] / d[i] else 0.0)
        else
            0.0

    // the column of a coordinate that stays where it is is 0
    let columns = List.filter stays columns

    let approximated =
        if columns.IsEmpty then
            rho * Numbers.identity n
        else
            let c = Numbers.rows [ for i in 0 .. n - 1 -> [| for k in columns -> a i k |] ]
            let w = Numbers.rows [ for i in columns -> [| for k in columns -> a i k |] ]
            c * w.Inverse() * c.Transpose() + rho * Numbers.identity n

    let v = Numbers.vector [ for i in 0 .. n - 1 -> if stays i then p.V[i] else 0.0 ]
    along p (approximated.Solve v)

/// σ [∂λL(θ_σ) − ∂λL(θ)] behind so many gradient steps of η from θ.
let penalised (sigma: float) (count: int) (eta: float) (p: Point) : Vec =
    let d, e = p.G.Diagonal(), p.E.Diagonal()
    let stay = d.Map(fun d -> if d = 0.0 then 0.0 else 1.0)

    let decay =
        Numbers.vector [ for i in 0 .. d.Count - 1 -> if d[i] = 0.0 then 0.0 else e[i] / d[i] ]

    let start = p.ThetaGradient p.Theta

    let mutable x = p.Theta

    for _ in 1..count do
        let force =
            Numbers.times stay (p.ThetaGradient x - start + p.V / sigma)
            + Numbers.times decay (x - p.Theta)

        x <- x - eta * force

    (p.LambdaGradient x - p.LambdaGradient p.Theta) * sigma
