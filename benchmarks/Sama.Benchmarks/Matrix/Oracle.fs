/// What the hypergradients of the matrix must be: first-order gradients, rules' steps and differences of both, in float64.
/// Nothing here uses the library's second derivatives, adaptations, engines or methods.
module Sama.Benchmarks.Matrix.Oracle

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Benchmarks.Matrix.Rules
open Sama.Benchmarks.Matrix.Subject

let private wide (t: Tensor) = t.detach().to_type torch.float64

let private layout =
    lazy (Layout.create [ for name, x in startOf torch.float64 -> name, x.shape ])

/// Gradients by flat θ and λ of a loss, computed in `dtype`.
let private gradients
    (dtype: torch.ScalarType)
    (loss: Model -> Tensor -> Tensor -> Tensor)
    (theta: Tensor)
    (lambda: Tensor)
    =
    let leaf (t: Tensor) =
        t.detach().to_type(dtype).clone().requires_grad_ true

    let theta', lambda' = leaf theta, leaf lambda

    let model =
        modelOf (theta'.narrow(0L, 0L, 6L).view (2L, 3L)) (theta'.narrow (0L, 6L, 2L))

    (loss model (lambda'.narrow (0L, 0L, 2L)) (lambda'.narrow (0L, 2L, 1L))).backward ()
    theta'.grad.to_type theta.dtype, lambda'.grad.to_type lambda.dtype

/// How a stop-feature is had: from the record, or as it is at this θ.
type private Feature =
    | Recorded of Tensor list
    | Fresh

/// The base problem of one base step: its batches.
let private batches (way: Way) (step: int64) : Batch list =
    [ for i in 0 .. way.Accumulate - 1 ->
          batch
              { Seed = seed
                Step = step * int64 way.Accumulate + int64 i
                Stream = 0
                Rank = 0 } ]

/// Features of each batch at θ.
let private featuresAt (way: Way) (dtype: torch.ScalarType) batches (theta: Tensor) (lambda: Tensor) : Feature =
    let seen = ResizeArray<Tensor>()

    if way.Stop then
        for batch in batches do
            let note (l: Tensor) =
                seen.Add(l.detach ())
                l.detach ()

            gradients dtype (fun model x r -> baseLoss model x r (Some note) batch) theta lambda
            |> ignore

    Recorded(List.ofSeq seen)

/// Mean gradients of the base loss by θ and λ.
let private baseGradients
    (way: Way)
    dtype
    (batches: Batch list)
    (feature: Feature)
    theta
    lambda
    : (Tensor * Tensor) list =
    [ for i, batch in List.indexed batches ->
          let stop =
              match way.Stop, feature with
              | false, _ -> None
              | true, Recorded all -> Some(fun (l: Tensor) -> all[i].to_type l.dtype)
              | true, Fresh -> Some(fun (l: Tensor) -> l.detach ())

          gradients dtype (fun model x r -> baseLoss model x r stop batch) theta lambda ]

let private mean (all: Tensor list) =
    (List.reduce (+) all) / Number.scalar (float all.Length)

/// A base step: where it began, what it saw, where it led.
[<NoComparison; NoEquality>]
type private Taken =
    {
        Batches: Batch list
        Theta: Tensor
        State: RuleState
        Gradient: Tensor
        /// each micro-batch's
        Gradients: Tensor list
        Update: Tensor
        After: Tensor
    }

/// The steps of the window, in the state's own type, passes in theirs.
let private window (rule: Rule) (way: Way) (state: RunState) : Taken list =
    let bound = UpdateRule.bind layout.Value rule.Update
    let passes = if way.Narrow then torch.bfloat16 else torch.float64

    let own (t: Tensor) =
        if way.Narrow then t.detach () else wide t

    let lambda = own state.Lambda

    let take (theta: Tensor, s: RuleState) k =
        let batches = batches way (state.Step + int64 k)
        let all = baseGradients way passes batches Fresh theta lambda |> List.map fst
        let g = mean all
        let u, next = bound.Step s g theta

        { Batches = batches
          Theta = theta
          State = s
          Gradient = g
          Gradients = all
          Update = u
          After = theta - u },
        (theta - u, next)

    ((own state.Theta, RuleState.map own state.Levels[0].Rule), [ 0 .. way.Unroll - 1 ])
    ||> List.mapFold take
    |> fst

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

let private vec = Sama.Suite.toVector
let private ten = Sama.Suite.ofVector

let private local (body: unit -> 'a) : 'a =
    use _ = torch.NewDisposeScope()
    body ()

/// Row by row by reverse mode.
let private jacobian (f: Tensor -> Tensor) (at: Tensor) : Mat =
    let n = at.numel ()

    Numbers.rows
        [ for i in 0L .. n - 1L ->
              local (fun () ->
                  let e = torch.zeros_like at
                  e[i] <- torch.ones ([||], dtype = at.dtype)
                  (vec (Autodiff.vjp f at e)).ToArray()) ]

/// θₜ as a function of λ through the last `last` steps: the steps are taken again, each as far from the one that was taken
/// as its gradient and its derivative rule say. What rounding or bfloat16 adds to a gradient, and a surrogate to a sign, stays
/// what it was.
let private unrolled (rule: Rule) (way: Way) (steps: Taken list) (lambda: Vec) (last: int) : Mat =
    let bound = UpdateRule.bind layout.Value rule.Derivative
    let steps = List.skip (steps.Length - last) steps
    let float64s (t: Tensor) = wide t

    let gradient batches theta lambda =
        baseGradients way torch.float64 batches Fresh theta lambda
        |> List.map fst
        |> mean

    let offsets =
        [ for step in steps ->
              let theta, g = wide step.Theta, wide step.Gradient
              let u, _ = bound.Step (RuleState.map float64s step.State) g theta
              g - gradient step.Batches theta (ten lambda), wide step.Update - u ]

    let run (lambda: Vec) =
        local (fun () ->
            let first = steps.Head

            ((wide first.Theta, RuleState.map float64s first.State), List.zip steps offsets)
            ||> List.fold (fun (theta, s) (step, (ofGradient, ofUpdate)) ->
                let g = gradient step.Batches theta (ten lambda) + ofGradient
                let u, next = bound.Step s g theta
                theta - u - ofUpdate, next)
            |> fst
            |> vec)

    Numbers.differences run 1e-3 lambda

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
    let c = Numbers.rows [ for i in 0 .. n - 1 -> [| for k in columns -> a i k |] ]
    let w = Numbers.rows [ for i in columns -> [| for k in columns -> a i k |] ]
    let approximated = c * w.Inverse() * c.Transpose() + rho * Numbers.identity n
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
