/// Methods alone, on a hand-written solution: L = ½θᵀHθ − θᵀBλ in closed form, a rule u = Mg + Eθ by its matrices, no
/// level, rule or run of the library.
module Sama.Tests.HandWrittenTests

open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// H, B, M, E and the point.
type private Quadratic =
    { H: Tensor
      B: Tensor
      M: Tensor
      E: Tensor
      Theta: Tensor
      Lambda: Tensor
      Elementwise: bool }

let private gradient q (theta: Tensor) = q.H.mv theta - q.B.mv q.Lambda

/// (dθ/dλ)ᵀ through `steps` steps that end at θ.
let private unrolled (q: Quadratic) steps (v: Tensor) =
    let stay = torch.eye (v.numel (), dtype = f64) - (q.M.mm q.H + q.E)

    ((torch.zeros_like v, v), [ 1..steps ])
    ||> List.fold (fun (total, a) _ -> total + a, stay.t().mv a)
    |> fst
    |> fun (total: Tensor) -> q.B.t().mv (q.M.t().mv total)

let private solution q : IBaseSolution =
    let ofLambda (theta: Tensor) = -(q.B.t().mv theta)

    { new IBaseSolution with
        member _.Kept = torch.zeros_like q.Theta
        member _.Elementwise = q.Elementwise
        member _.Adapt v = q.M.t().mv v
        member _.AdaptInPlace v = v.copy_ (q.M.t().mv v) |> ignore
        member _.AdaptForward w = q.M.mv w
        member _.Decay v = q.E.t().mv v
        member _.DecayForward w = q.E.mv w
        member _.LearnsOptions = false
        member _.OptionsVjp _ = torch.zeros_like q.Lambda
        member _.OptionsJvp _ = torch.zeros_like q.Theta
        member _.Theta = q.Theta - q.M.mv (gradient q q.Theta) - q.E.mv q.Theta
        member _.ThetaBefore = q.Theta
        member _.Lambda = q.Lambda
        member _.Gradient = gradient q q.Theta
        member _.SquaredGradient() = (gradient q q.Theta).square ()

        member at.Perturbed(centre, scale, v) =
            (if centre = Centre.PreUpdate then q.Theta else at.Theta) + v * scale

        member _.ThetaGradient theta = gradient q theta
        member _.LambdaGradient theta = ofLambda theta
        member _.LambdaGradient(theta: Tensor, _: int) = ofLambda theta

        member _.Linearize(_, _) =
            { new ILinearization with
                member _.ThetaVjp w = q.H.t().mv w
                member _.LambdaVjp w = -(q.B.t().mv w)
                member _.Vjps w = struct (q.H.t().mv w, -(q.B.t().mv w))
                member _.LambdaJvp d = -(q.B.mv d) }

        member _.Unrolled(o, v) = struct (unrolled q o.Steps v, o.Steps) }

let private drawn elementwise : Quadratic =
    use generator = new torch.Generator(7UL)

    let normal (shape: int64[]) =
        torch.randn (shape, dtype = f64, generator = generator)

    let n, m = 6L, 4L
    let a = normal [| n; n |]
    let eye = torch.eye (n, dtype = f64)

    let diagonal () =
        (normal([| n |]).square () + 0.5).diag ()

    { H = a.mm (a.t ()) / 6.0 + eye
      B = normal [| n; m |]
      M =
        if elementwise then
            diagonal () * 0.1
        else
            (eye + normal [| n; n |] * 0.2) * 0.1
      E = if elementwise then diagonal () * 0.02 else eye * 0.03
      Theta = normal [| n |]
      Lambda = normal [| m |]
      Elementwise = elementwise }

/// Bᵀ Mᵀ (MH + E)⁻ᵀ v
let private implicit q (v: Tensor) =
    q.B.t().mv (q.M.t().mv (torch.linalg.solve ((q.M.mm q.H + q.E).t (), v)))

let private neumann terms (step: float) (q: Quadratic) (v: Tensor) =
    let stay = torch.eye (v.numel (), dtype = f64) - (q.M.mm q.H + q.E) * step

    ((torch.zeros_like v, v), [ 1..terms ])
    ||> List.fold (fun (total, term) _ -> total + term, stay.t().mv term)
    |> fst
    |> fun (total: Tensor) -> q.B.t().mv (q.M.t().mv total) * step

let private adapted q (v: Tensor) = q.B.t().mv (q.M.t().mv v)

/// The method, whether it needs an elementwise rule, its tolerance, and what it has to give.
let private cases: (HypergradientMethod * bool * float * (Quadratic -> Tensor -> Tensor)) list =
    let all =
        { ConjugateGradientOptions.Default with
            Iterations = 40
            Tolerance = 1e-13 }

    [ Hypergradient.exact, false, 1e-10, implicit
      Hypergradient.conjugateGradientWith all, false, 1e-8, implicit
      Hypergradient.fixedPointWith
          { FixedPointOptions.Default with
              Iterations = 20000
              Tolerance = 1e-12 },
      false,
      1e-8,
      implicit
      Hypergradient.nystromWith
          { NystromOptions.Default with
              Rank = 6
              Rho = 1e-7 },
      true,
      1e-4,
      implicit
      Hypergradient.f2saWith
          { F2saOptions.Default with
              Sigma = 1e3
              Iterations = 20000
              Tolerance = 1e-10 },
      true,
      1e-6,
      implicit
      Hypergradient.neumann 4 0.7, false, 1e-12, neumann 4 0.7
      Hypergradient.t1t2, false, 1e-12, adapted
      Hypergradient.unrolledWith
          { UnrolledOptions.Default with
              Steps = 3 },
      false,
      1e-12,
      (fun q -> unrolled q 3)
      // the gradient by λ is linear in θ: differences have no error but rounding
      Hypergradient.sama, false, 1e-8, adapted
      for centre in [ Centre.PreUpdate; Centre.PostUpdate ] do
          for oneSided in [ true; false ] do
              Hypergradient.samaWith
                  { SamaOptions.Default with
                      Centre = centre
                      OneSided = oneSided },
              false,
              1e-8,
              adapted
      Hypergradient.samaNa, false, 1e-8, (fun q v -> q.B.t().mv v)
      Hypergradient.samaFisherWith
          { SamaFisherOptions.Default with
              Damping = 0.3 },
      false,
      1e-8,
      (fun q v ->
          let fisher = (gradient q q.Theta).square ()
          q.B.t().mv (v / (fisher + 0.3 * fisher.mean ()))) ]

/// Conjugate gradients where H has eigenvalues of both signs: the residual by iterations, products, and the last response.
let private indefinite () =
    let q = drawn true

    let shifted =
        { q with
            H = q.H - 2.0 * torch.eye (6L, dtype = f64) }

    let v = torch.linspace (-1.0, 2.0, 6L, dtype = f64)

    let found =
        [ for iterations in 1..6 do
              let method =
                  Hypergradient.conjugateGradientWith
                      { ConjugateGradientOptions.Default with
                          Iterations = iterations
                          Tolerance = 1e-12 }

              method.BestResponse (solution shifted) (v.clone ()) ]

    shifted, v, found

let tests =
    testList
        "methods alone"
        [ for number, (method, onlyElementwise, tolerance, expected) in List.indexed cases do
              for elementwise in [ true; false ] do
                  if elementwise || not onlyElementwise then
                      let kind = if elementwise then "an elementwise" else "a coupled"

                      test $"{number}, {method}, gives its definition under {kind} rule" {
                          use _ = torch.NewDisposeScope()
                          let q = drawn elementwise
                          let v = torch.linspace (-1.0, 2.0, 6L, dtype = f64)
                          let wanted = expected q v
                          let found = method.BestResponse (solution q) (v.clone ())
                          let off = Method.relative (Method.size (found.Vector - wanted)) (Method.size wanted)
                          Expect.isLessThan off tolerance $"{found.Report.Value}"
                      }

          test "conjugate gradients pass directions of negative curvature at one product an iteration" {
              use _ = torch.NewDisposeScope()
              let q, v, found = indefinite ()
              let residuals = [ for response in found -> response.Report.Value.Residual.Value ]

              for before, after in List.pairwise (1.0 :: residuals) do
                  Expect.isLessThanOrEqual after (before * (1.0 + 1e-9)) "the residual of more iterations"

              for i, response in List.indexed found do
                  Expect.equal response.Report.Value.Products (i + 2) "one product more for λ"

              let wanted = implicit q v

              let off =
                  Method.relative (Method.size (found[5].Vector - wanted)) (Method.size wanted)

              Expect.isLessThan off 1e-8 "the whole Krylov space"
          }

          test "coordinates without a gradient hold ε down to a fiftieth of their part of v" {
              use _ = torch.NewDisposeScope()
              let q = drawn true
              let only = torch.tensor [| 0.0; 0.0; 0.0; 0.0; 0.0; 1e-6 |]

              let q =
                  { q with
                      H = torch.eye (6L, dtype = f64)
                      B = torch.zeros_like q.B
                      Theta = only }

              let report (last: float) =
                  let v = torch.tensor [| 1.0; 1.0; 1.0; 1.0; 1.0; last |]
                  (Hypergradient.samaNa.BestResponse (solution q) v).Report.Value

              let bounded, free = report 1e-3, report 1.0
              Expect.floatClose Accuracy.high bounded.Epsilon.Value (1e-5 / (sqrt 5.0 / 50.0)) "bounded"
              Expect.equal bounded.Capped 5L "said"
              Expect.floatClose Accuracy.high free.Epsilon.Value 1e-5 "‖v‖_A is large enough"
              Expect.equal free.Capped 0L "not said"
          }

          test "MINRES has the least residual over the Krylov space after every product" {
              use _ = torch.NewDisposeScope()
              let q = drawn true
              let b = torch.linspace (-1.0, 2.0, 6L, dtype = f64)
              // regular, indefinite, singular
              for shift in [ 0.0; 2.0 ] do
                  for rank in [ 6L; 4L ] do
                      let keep = (torch.arange 6L).lt(torch.tensor rank).to_type(f64).diag ()
                      let a = keep.mm(q.H - torch.eye (6L, dtype = f64) * shift).mm keep
                      let powers = List.scan (fun (x: Tensor) _ -> a.mv x) b [ 1..5 ]

                      for products in 1..6 do
                          let found = LinearSolve.minres a.mv b products 0.0
                          let space = torch.stack (List.toArray (List.take products powers), 1L)
                          let struct (basis, _) = torch.linalg.qr space
                          let image = a.mm basis
                          let least = Method.size (b - image.mv (torch.linalg.pinv(image).mv b))

                          Expect.floatClose
                              Accuracy.medium
                              (found.Residual * Method.size b)
                              least
                              $"shift {shift}, rank {rank}, {products} products"
          } ]
