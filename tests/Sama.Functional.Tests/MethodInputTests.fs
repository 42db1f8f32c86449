/// Mistakes under every kind of method: managed exceptions that name the thing, and the process lives on.
module Sama.Tests.MethodInputTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures.Hypergradients
open Sama.Tests.Problems

let private methods =
    [ Hypergradient.exact
      Hypergradient.conjugateGradient 3
      Hypergradient.neumann 3 0.1
      Hypergradient.fixedPoint 3 0.1
      Hypergradient.nystrom 2
      Hypergradient.t1t2
      Hypergradient.truncated 1
      Hypergradient.f2sa
      Hypergradient.sama
      Hypergradient.samaNa
      Hypergradient.samaFisher ]

let private at (method: HypergradientMethod) (baseLoss: Params -> Params -> Tensor) =
    use _ = torch.NewDisposeScope()

    Library.ofLevels
        method
        [ Level.create
              "base"
              [ "w", torch.ones (3L, dtype = f64); "b", torch.ones (3L, dtype = f64) ]
              (sgd 0.1)
              ignore
              (fun _ theta lambda () -> baseLoss theta lambda)
          Level.create
              "meta"
              [ "x", torch.ones (3L, dtype = f64); "y", torch.ones (3L, dtype = f64) ]
              (sgd 0.1)
              ignore
              (fun _ theta _ () -> square(theta["w"]).sum () + square(theta["b"]).sum ()) ]

let private good (theta: Params) (lambda: Params) =
    (square theta["w"] * (square lambda["x"] + 1.0)).sum ()
    + square(theta["b"] - lambda["y"]).sum ()

/// The mistake, words that the message has, and the base loss.
let private mistakes: (string * string list * (Params -> Params -> Tensor)) list =
    [ "a loss that is not one number", [ "one number"; "3" ], (fun t l -> t["w"] * l["x"] + t["b"] * l["y"])
      "a loss without a gradient", [ "no parameter" ], (fun t l -> (good t l).detach ())
      "a parameter of another name", [ "'v'"; "w" ], (fun t l -> (t["v"] * l["x"]).sum ())
      "shapes that do not fit", [ "size" ], (fun t l -> good t l + (t["w"] + torch.ones (4L, dtype = f64)).sum ())
      "matrices that do not fit",
      [ "shape" ],
      (fun t l ->
          good t l
          + (t["w"].view (1L, 3L)).mm(torch.ones ([| 4L; 1L |], dtype = f64)).sum ()) ]

/// Attention by libtorch's fused kernel, which has no second derivative.
let private attention (method: HypergradientMethod) =
    use _ = torch.NewDisposeScope()
    let shape = [| 1L; 1L; 4L; 8L |]

    let loss (_: Pass) (theta: Params) (lambda: Params) () =
        let q = theta["q"] * lambda["scale"]
        square(torch.nn.functional.scaled_dot_product_attention (q, theta["q"], theta["q"])).sum ()

    Library.ofLevels
        method
        [ Level.create "base" [ "q", torch.randn (shape, dtype = torch.float32) ] (sgd 0.1) ignore loss
          Level.create "meta" [ "scale", torch.ones (1L, dtype = torch.float32) ] (sgd 0.1) ignore (fun _ theta _ () ->
              square(theta["q"]).sum ()) ]

let tests =
    testList
        "mistakes under every method"
        [ for method in methods do
              testCase $"{method}"
              <| fun _ ->
                  for mistake, words, loss in mistakes do
                      Expect.throwsC (fun () -> at method loss |> ignore) (fun e ->
                          for word in words do
                              Expect.stringContains (e.ToString()) word mistake)

                  Expect.isTrue (Seq.forall Double.IsFinite (at method good).Total) "and a good loss still works"

          for method in
              [ Hypergradient.conjugateGradient 3
                Hypergradient.exact
                Hypergradient.neumann 3 0.1
                Hypergradient.truncated 1 ] do
              testCase $"{method}: an operator without a second derivative is a managed exception"
              <| fun _ ->
                  Expect.throwsC (fun () -> attention method |> ignore) (fun e ->
                      Expect.stringContains e.Message "derivative" "")

          testCase "SAMA needs no second derivative there"
          <| fun _ -> Expect.isTrue (Seq.forall Double.IsFinite (attention Hypergradient.sama).Total) ""

          testCase "options out of range are refused by name"
          <| fun _ ->
              let refused (name: string) (make: unit -> HypergradientMethod) =
                  Expect.throwsC (make >> ignore) (function
                      | :? ArgumentException as e -> Expect.equal e.ParamName name ""
                      | e -> failtest $"{e}")

              let cg = ConjugateGradientOptions.Default
              refused "Terms" (fun () -> Hypergradient.neumann 0 1.0)
              refused "Step" (fun () -> Hypergradient.neumann 1 0.0)
              refused "Iterations" (fun () -> Hypergradient.conjugateGradient 0)
              refused "Tolerance" (fun () -> Hypergradient.conjugateGradientWith { cg with Tolerance = nan })
              refused "Damping" (fun () -> Hypergradient.conjugateGradientWith { cg with Damping = -1.0 })
              refused "Rank" (fun () -> Hypergradient.nystrom 0)

              refused "Rho" (fun () ->
                  Hypergradient.nystromWith
                      { NystromOptions.Default with
                          Rho = 0.0 })

              refused "Sigma" (fun () ->
                  Hypergradient.f2saWith
                      { F2saOptions.Default with
                          Sigma = -1.0 })

              refused "MaxSize" (fun () ->
                  Hypergradient.exactWith
                      { ExactOptions.Default with
                          MaxSize = 0L })

              refused "Step" (fun () -> Hypergradient.fixedPoint 1 nan)

              refused "Last" (fun () ->
                  Hypergradient.unrolledWith
                      { UnrolledOptions.Default with
                          Steps = 2
                          Last = 3 })

          testCase "a start of another length and columns outside θ are managed exceptions"
          <| fun _ ->
              let start =
                  Hypergradient.fixedPointWith
                      { FixedPointOptions.Default with
                          Start = Suite.ofVector (Numbers.zeros 2) }

              let columns =
                  Hypergradient.nystromWith
                      { NystromOptions.Default with
                          Columns = [| 0L; 17L |] }

              for method in [ start; columns ] do
                  Expect.throws (fun () -> at method good |> ignore) $"{method}" ]
