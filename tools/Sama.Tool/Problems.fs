/// P1 to P4: bilevel problems with closed forms, small, float64. Formulas stand at each; data are drawn on the CPU.
module Sama.Tool.Problems

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

/// A problem on a device, its base rule gradient descent with a step that converges, and its exact hypergradient at (θ, λ).
[<NoComparison; NoEquality>]
type Known =
    {
        Name: string
        /// base parameters
        Size: int
        Problem: HypergradientMethod -> BilevelProblem
        Exact: Tensor -> Tensor -> Tensor
    }

let private n, m = 6L, 4L
let private f64 = torch.float64
let private squared (x: Tensor) = (x * x).sum ()
let private half (x: Tensor) = squared x * 0.5

let private problem name (start: Tensor) lambda step baseLoss metaLoss exact : Known =
    { Name = name
      Size = int (start.numel ())
      Exact = exact
      Problem =
        fun method ->
            Problem.create
                BilevelOptions.Default
                method
                [ Level.create "base" [ "theta", start ] (sgd step) ignore (fun _ theta lambda () ->
                      baseLoss theta["theta"] lambda["lambda"])
                  Level.create "meta" [ "lambda", lambda ] (sgd 0.1) ignore (fun _ theta lambda () ->
                      metaLoss theta["theta"] lambda["lambda"]) ] }

/// h = d − Cᵀ H⁻¹ v
let private implicitly (direct: Tensor) (cross: Tensor) (hessian: Tensor) (v: Tensor) =
    direct - cross.t().mv (torch.linalg.solve (hessian, v))

/// base ‖Cλ + Dθ − e‖², meta ‖Aθ − b‖²: h = −2 CᵀD (DᵀD)⁻¹ Aᵀ(Aθ* − b).
let private leastSquares device =
    let draw seed shape = (normal seed device f64 shape) * 0.3
    let a, c = draw 1 [| 20L; n |], draw 2 [| 20L; m |]
    let d = draw 3 [| 20L; n |] + torch.eye (20L, n, dtype = f64, device = device)
    let b, e = draw 4 [| 20L |], draw 5 [| 20L |]

    let zeros (size: int64) =
        torch.zeros (size, dtype = f64, device = device)

    problem
        "P1"
        (zeros n)
        (torch.ones (m, dtype = f64, device = device))
        0.05
        (fun theta lambda -> squared (c.mv lambda + d.mv theta - e))
        (fun theta _ -> squared (a.mv theta - b))
        (fun theta _ -> implicitly (zeros m) (d.t().mm c * 2.0) (d.t().mm d * 2.0) (a.t().mv (a.mv theta - b) * 2.0))

/// base ½θᵀAθ + λᵀCθ + a·θ, meta ½θᵀFθ + ½λᵀHλ + λᵀKθ + f·θ: h = Hλ + Kθ* − C A⁻¹(Fθ* + Kᵀλ + f).
let private quadratic device =
    let draw seed shape = normal seed device f64 shape

    let positive seed size =
        let q = draw seed [| size; size |]
        q.mm (q.t ()) / float size + torch.eye (size, dtype = f64, device = device)

    let a, f, h = positive 11 n, positive 12 n, positive 13 m
    let c, k = draw 14 [| m; n |] * 0.1, draw 15 [| m; n |] * 0.1
    let linear, metaLinear = draw 16 [| n |], draw 17 [| n |]

    problem
        "P2"
        (torch.zeros (n, dtype = f64, device = device))
        (torch.full (m, scalar -2.0, dtype = f64, device = device))
        0.2
        (fun theta lambda -> theta.dot (a.mv theta) * 0.5 + lambda.dot (c.mv theta) + linear.dot theta)
        (fun theta lambda ->
            theta.dot (f.mv theta) * 0.5
            + lambda.dot (h.mv lambda) * 0.5
            + lambda.dot (k.mv theta)
            + metaLinear.dot theta)
        (fun theta lambda ->
            implicitly (h.mv lambda + k.mv theta) (c.t ()) a (f.mv theta + k.t().mv lambda + metaLinear))

/// base mean(softplus(z) − yz) + ½Σλⱼθⱼ², z = Xθ, meta the mean on other rows: hⱼ = −θⱼ qⱼ, q = (XᵀSX/rows + diag λ)⁻¹∇E.
let private logistic device =
    let rows = 50L

    let x, metaX =
        normal 21 device f64 [| rows; n |], normal 22 device f64 [| rows; n |]

    let truth = normal 23 device f64 [| n |]
    let label (x: Tensor) = (x.mv truth).gt(scalar 0.0).to_type f64
    let y, metaY = label x, label metaX

    let entropy (x: Tensor) (y: Tensor) (theta: Tensor) =
        torch.nn.functional.binary_cross_entropy_with_logits (x.mv theta, y)

    problem
        "P3"
        (torch.zeros (n, dtype = f64, device = device))
        (torch.ones (n, dtype = f64, device = device))
        0.5
        (fun theta lambda -> entropy x y theta + (lambda * theta * theta).sum () * 0.5)
        (fun theta _ -> entropy metaX metaY theta)
        (fun theta lambda ->
            let s = torch.sigmoid (x.mv theta)

            let hessian =
                x.t().mm ((s * (1.0 - s)).unsqueeze 1L * x) / float rows + lambda.diag ()

            let v = metaX.t().mv (torch.sigmoid (metaX.mv theta) - metaY) / float rows
            implicitly (torch.zeros_like lambda) (theta.diag ()) hessian v)

/// base ½mean((Xθ − y)²) + ½λ‖θ‖², meta ½mean of other residuals: dθ/dλ = −(XᵀX/rows + λI)⁻¹θ.
let private ridge device =
    let x, metaX =
        normal 31 device f64 [| 10L; 3L |], normal 32 device f64 [| 10L; 3L |]

    let y, metaY = normal 33 device f64 [| 10L |], normal 34 device f64 [| 10L |]

    problem
        "P4"
        (torch.zeros (3L, dtype = f64, device = device))
        (torch.full (1L, scalar 5.0, dtype = f64, device = device))
        0.1
        (fun theta lambda -> half (x.mv theta - y) / 10.0 + lambda.sum () * half theta)
        (fun theta _ -> half (metaX.mv theta - metaY) / 10.0)
        (fun theta lambda ->
            let hessian =
                x.t().mm x / 10.0 + torch.eye (3L, dtype = f64, device = device) * lambda

            implicitly
                (torch.zeros_like lambda)
                (theta.unsqueeze 1L)
                hessian
                (metaX.t().mv (metaX.mv theta - metaY) / 10.0))

let all (device: torch.Device) : Known list =
    [ leastSquares device; quadratic device; logistic device; ridge device ]
