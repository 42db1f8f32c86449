/// Problems with known answers, tolerances and measures of distance that the suites share.
module Sama.Tests.Problems

open TorchSharp
open Sama
open Sama.Functional

let f64 = torch.float64
let scalar (x: float) : Scalar = Scalar.op_Implicit x
let square (x: Tensor) = x * x

/// ‖a − b‖/‖b‖
let distance (a: Tensor) (b: Tensor) : float =
    ((a - b).norm () / (b.norm () + 1e-300)).item<float> ()

let generator (seed: int64) = new torch.Generator(uint64 seed)

let normal (seed: int64) (shape: int64[]) : Tensor =
    use g = generator seed
    torch.randn (shape, dtype = f64, generator = g)

let n, m = 6L, 4L

let A =
    let q = normal 1L [| n; n |]
    q.mm (q.t ()) / 6.0 + torch.eye (n, dtype = f64)

let B, c = normal 2L [| n; m |], normal 3L [| m |]

let unrollBy k =
    { BilevelOptions.Default with
        Unroll = k }

/// ½θᵀAθ − θᵀBλ ; ½‖θ‖² + cᵀλ : θ* = A⁻¹Bλ
let quadraticWith options rule method =
    let zeros = torch.zeros (n, dtype = f64)

    let baseLoss (_: Pass) (theta: Params) (lambda: Params) () =
        let z = torch.cat [| theta["a"]; theta["b"].reshape -1L |]
        (z.dot (A.mv z)) * 0.5 - z.dot (B.mv lambda["x"])

    let metaLoss (_: Pass) (theta: Params) (lambda: Params) () =
        (square(theta["a"]).sum () + square(theta["b"]).sum ()) * 0.5
        + c.dot lambda["x"]

    let parameters =
        [ "a", zeros.narrow (0L, 0L, 2L); "b", zeros.narrow(0L, 2L, 4L).view (2L, 2L) ]

    Problem.create
        options
        method
        [ Level.create "base" parameters rule ignore baseLoss
          Level.create "meta" [ "x", torch.ones (m, dtype = f64) ] (sgd 0.1) ignore metaLoss ]

let quadratic rule k method = quadraticWith (unrollBy k) rule method

/// How the re-weighting net's feature is held: `pass.Stop`, or a detach of one's own, which is wrong.
type Feature =
    | Stopped
    | Detached

/// A two-layer classifier with dropout whose losses a sigmoid net re-weights by the losses themselves.
let reweightingWith options feature dropout rule method =
    let x, meta = normal 10L [| 24L; 5L |], normal 11L [| 16L; 5L |]

    let target (t: Tensor) =
        t.select(1L, 0L).gt(scalar 0.0).to_type torch.int64

    let y, metaY = target (x + normal 12L [| 24L; 5L |]), target meta

    let losses (p: Params) (x: Tensor) (y: Tensor) =
        let hidden = torch.tanh (torch.nn.functional.linear (x, p["W1"], p["b1"]))
        let hidden = torch.nn.functional.dropout (hidden, dropout, true)

        torch.nn.functional.cross_entropy (
            torch.nn.functional.linear (hidden, p["W2"], p["b2"]),
            y,
            reduction = torch.nn.Reduction.None
        )

    let rows (draw: Draw) =
        use g = generator draw.RandomSeed
        torch.randint (24L, [| 8L |], dtype = torch.int64, generator = g)

    let baseLoss (pass: Pass) theta (lambda: Params) (rows: Tensor) =
        let l = losses theta (x.index_select (0L, rows)) (y.index_select (0L, rows))

        let feature =
            match feature with
            | Stopped -> pass.Stop("losses", l)
            | Detached -> l.detach ()

        let hidden = torch.tanh (feature.unsqueeze 1L * lambda["A1"] + lambda["a1"])
        let weight = torch.sigmoid (hidden.mv lambda["A2"])
        (weight * l).mean ()

    let metaLoss _ theta _ () = (losses theta meta metaY).mean ()

    Problem.create
        options
        method
        [ Level.create
              "classifier"
              [ "W1", normal 20L [| 7L; 5L |]
                "b1", normal 21L [| 7L |]
                "W2", normal 22L [| 2L; 7L |]
                "b2", normal 23L [| 2L |] ]
              rule
              rows
              baseLoss
          Level.create
              "weights"
              [ "A1", normal 24L [| 6L |]
                "a1", normal 25L [| 6L |]
                "A2", normal 26L [| 6L |] ]
              (adam 1e-2)
              ignore
              metaLoss ]

let reweighting feature dropout rule method =
    reweightingWith BilevelOptions.Default feature dropout rule method

let samaAt alpha =
    Hypergradient.samaWith
        { SamaOptions.Default with
            Alpha = System.Nullable alpha }

/// The state after some pure steps.
let after steps problem =
    let mutable state = Bilevel.start 5L problem

    for _ in 1..steps do
        state <- fst (Bilevel.step problem state)

    state
