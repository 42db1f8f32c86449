/// Products with second derivatives by central differences: where they run, what they say, what they leave behind.
module Sama.Tests.ProductTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private forming: (string * HypergradientMethod) list =
    [ "neumann", Hypergradient.neumann 4 0.2
      "conjugateGradient", Hypergradient.conjugateGradient 6
      "fixedPoint", Hypergradient.fixedPoint 5 0.2
      "nystrom", Hypergradient.nystrom 3
      "unrolled", Hypergradient.unrolled
      "truncated", Hypergradient.truncated 2 ]

let private by form method = Hypergradient.withProducts form method

let private unroll =
    { BilevelOptions.Default with
        Unroll = 3 }

/// Attention over θ scaled by λ, by libtorch's fused kernel, which has no second derivative, or by plain products.
let private attention fused method =
    let y = normal 71L [| 1L; 1L; 4L; 8L |]

    let attend (q: Tensor) (v: Tensor) =
        if fused then
            torch.nn.functional.scaled_dot_product_attention (q, v, v)
        else
            torch.nn.functional.softmax(q.matmul (v.transpose (-2L, -1L)) / scalar (sqrt 8.0), -1L).matmul v

    Problem.create
        unroll
        method
        [ Level.create "base" [ "q", normal 70L [| 1L; 1L; 4L; 8L |] ] (adam 0.05) ignore (fun _ theta lambda () ->
              square(attend (theta["q"] * lambda["scale"]) theta["q"] - y).sum ()
              + square(theta["q"]).sum () * 0.1)
          Level.create "meta" [ "scale", torch.full (1L, 0.7, dtype = f64) ] (sgd 0.1) ignore (fun _ theta _ () ->
              square(theta["q"] - 0.3).sum ()) ]

/// A module with dropout and batch norm, and the same losses as functions of Params: its buffers do not reach the loss.
let private twins method =
    torch.random.manual_seed 73L |> ignore

    let net =
        torch.nn.Sequential
            [ struct ("a", torch.nn.Linear(3L, 4L, dtype = f64) :> torch.nn.Module<Tensor, Tensor>)
              struct ("n", torch.nn.BatchNorm1d(4L, dtype = f64))
              struct ("t", torch.nn.Tanh())
              struct ("d", torch.nn.Dropout 0.3)
              struct ("b", torch.nn.Linear(4L, 1L, dtype = f64)) ]

    let start =
        [ for struct (name, p) in net.named_parameters () -> name, p.detach().clone () ]

    let x = normal 72L [| 12L; 3L |]

    let logits (p: Params) =
        let linear name (h: Tensor) =
            torch.nn.functional.linear (h, p[$"{name}.weight"], p[$"{name}.bias"])

        let h = linear "a" x
        let mean = h.mean ([| 0L |], keepdim = true)
        let variance = (square (h - mean)).mean ([| 0L |], keepdim = true)

        let normed = (h - mean) / (variance + 1e-5).sqrt () * p["n.weight"] + p["n.bias"]

        linear "b" (torch.nn.functional.dropout (normed.tanh (), 0.3, true))

    let baseLoss (pass: Pass) (out: Tensor) (w: Tensor) =
        let losses = square (out.squeeze 1L - 1.0)
        ((pass.Stop("losses", losses) * w).sigmoid () * losses).mean ()

    let meta =
        Level.general "meta" [ "w", torch.full (1L, 0.5, dtype = f64) ] (sgd 0.1) ignore

    let ofNet =
        Problem.create
            unroll
            method
            [ Level.ofModuleGeneral "net" net (adam 0.02) ignore (fun pass levels () ->
                  baseLoss pass (net.call x) levels["meta"].["w"])
              meta (fun _ _ () -> square(net.call x).mean ()) ]

    let ofParams =
        Problem.create
            unroll
            method
            [ Level.general "net" start (adam 0.02) ignore (fun pass levels () ->
                  baseLoss pass (logits levels["net"]) levels["meta"].["w"])
              meta (fun _ levels () -> square(logits levels["net"]).mean ()) ]

    net, ofNet, ofParams

let private hypergradient problem =
    use state = Bilevel.start 5L problem
    let found = Hypergradient.compute problem state
    found.Total, found.Report

let private throws words (body: unit -> unit) =
    Expect.throwsC body (fun e ->
        for word: string in words do
            Expect.stringContains e.Message word "")

let private methodTests =
    [ for name, method in forming do
          testCase $"{name} by differences on fused attention is the exact one on plain attention"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let exact, said = hypergradient (attention false method)

              let other, report =
                  hypergradient (attention true (by ProductForm.Differences method))

              Expect.isLessThan (distance other exact) 1e-7 ""
              Expect.equal said.ProductForm (Nullable ProductForm.Exact) "what the report says of exact ones"
              Expect.equal report.ProductForm (Nullable ProductForm.Differences) "and of differences"
              Expect.stringContains (report.ToString()) "by differences" ""

          testCase $"{name} on fused attention, exactly, says what to take instead"
          <| fun _ ->
              throws [ "second derivative"; "withProducts" ] (fun () ->
                  use _ = torch.NewDisposeScope()
                  hypergradient (attention true method) |> ignore)

          testCase
              $"{name} takes a module with dropout, batch norm and a stop-feature by differences, and leaves it as it was"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              // a column without curvature (a bias before a batch norm) would be noise: named ones have it
              let method =
                  if name = "nystrom" then
                      Hypergradient.nystromWith
                          { NystromOptions.Default with
                              Columns = [| 0L; 4L; 8L |] }
                  else
                      method

              let net, modules, functions = twins method
              let before = [ for struct (_, b) in net.named_buffers () -> b.clone () ]
              let exact, _ = hypergradient functions
              let other, report = hypergradient modules
              Expect.isLessThan (distance other exact) 1e-6 ""
              Expect.equal report.ProductForm (Nullable ProductForm.Differences) "the default of modules"

              for old, struct (name, now) in List.zip before (List.ofSeq (net.named_buffers ())) do
                  Expect.isTrue (old.Equals now) name

          testCase $"{name} asked for exact products of a module is refused when the problem is composed"
          <| fun _ ->
              throws [ name; "differentiated twice"; "ProductForm.Differences" ] (fun () ->
                  twins (by ProductForm.Exact method) |> ignore) ]

let tests =
    testList
        "products by differences"
        [ yield! methodTests

          testCase "methods that have no choice refuse one"
          <| fun _ ->
              for method in
                  [ Hypergradient.sama
                    Hypergradient.f2sa
                    Hypergradient.t1t2
                    Hypergradient.exact ] do
                  throws [ $"{method}"; "no choice" ] (fun () -> by ProductForm.Differences method |> ignore)

          testCase "a product's passes are counted: a pair for each, none for a graph"
          <| fun _ ->
              let passes method =
                  use _ = torch.NewDisposeScope()
                  (snd (hypergradient (attention false method))).Passes

              let neumann =
                  Hypergradient.neumannWith
                      { NeumannOptions.Default with
                          Terms = 4
                          Step = 0.2
                          MeasureResidual = false }

              Expect.equal (passes neumann) 1 "the graph's"
              Expect.equal (passes (by ProductForm.Differences neumann)) (2 * 4) "three products and λ's"

              Expect.equal
                  (passes (by ProductForm.Differences Hypergradient.unrolled))
                  (3 * 3)
                  "a step's own and a pair"

          testCase "16 bits are refused"
          <| fun _ ->
              throws [ "neumann"; "float32" ] (fun () ->
                  Problem.create
                      BilevelOptions.Default
                      (by ProductForm.Differences (Hypergradient.neumann 2 0.1))
                      [ Level.create
                            "base"
                            [ "w", torch.ones (2L, dtype = torch.bfloat16) ]
                            (sgd 0.1)
                            ignore
                            (fun _ w l () -> square(w["w"] - l["x"]).sum ())
                        Level.create
                            "meta"
                            [ "x", torch.ones (2L, dtype = torch.bfloat16) ]
                            (sgd 0.1)
                            ignore
                            (fun _ w _ () -> square(w["w"]).sum ()) ]
                  |> ignore)

          testCase "a level between others says that its products are differences"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let level name above rule (loss: Tensor -> Tensor -> Tensor) =
                  Level.general name [ "x", torch.full (2L, 0.4, dtype = f64) ] rule ignore (fun _ levels () ->
                      loss levels[name].["x"] levels[above].["x"])

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      (Hypergradient.conjugateGradient 4)
                      [ level "a" "b" (sgd 0.1) (fun a b -> (square (a - b) + square a).sum ())
                        level "b" "c" (sgd 0.1) (fun b c -> (square (b - c) + square b).sum ())
                        level "c" "a" (sgd 0.1) (fun c a -> (square (c - 1.0) + square a).sum ()) ]

              use state = Bilevel.start 1L problem
              use run = new BilevelRun(problem, state)
              let report = run.Step()
              let forms = [ for meta in report.Metas -> meta.Response.ProductForm ]

              Expect.equal
                  forms
                  [ Nullable ProductForm.Exact; Nullable ProductForm.Differences ]
                  "of the lowest level, and of the one above it"

          testCase "products that change with half the step say so, whatever made the kinks"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let relu (x: Tensor) = torch.nn.functional.relu x

              let kinked: (string * (Tensor -> Tensor)) list =
                  [ "relu", relu
                    "abs", (fun x -> x.abs ())
                    "maximum", (fun x -> x.clamp_min (scalar 0.1))
                    "clipped", (fun x -> x.clamp (scalar -0.2, scalar 0.2)) ]

              let smooth: (string * (Tensor -> Tensor)) list =
                  [ "tanh", (fun x -> x.tanh ())
                    "gelu", (fun x -> torch.nn.functional.gelu x)
                    "sigmoid", (fun x -> x.sigmoid ()) ]

              /// notes of the first two meta steps over 4,000 units, as a module or a function of Params
              let notes asModule (dtype: torch.ScalarType) method (activation: Tensor -> Tensor) =
                  torch.random.manual_seed 5L |> ignore
                  let net = torch.nn.Linear(4L, 40L, dtype = Nullable dtype)
                  let x = (normal 76L [| 100L; 4L |]).to_type dtype

                  let start =
                      [ for struct (n, p) in net.named_parameters () -> n, p.detach().clone () ]

                  let loss (out: Tensor) =
                      (activation out).square().mean () + (activation (out + 0.05)).mean () * 0.1

                  let level =
                      if asModule then
                          Level.ofModuleGeneral "net" net (sgd 0.1) ignore (fun _ levels () ->
                              loss (net.call x) * levels["meta"].["s"].sum ())
                      else
                          Level.general "net" start (sgd 0.1) ignore (fun _ levels () ->
                              let own = levels["net"]

                              loss (torch.nn.functional.linear (x, own["weight"], own["bias"]))
                              * levels["meta"].["s"].sum ())

                  let meta =
                      Level.general
                          "meta"
                          [ "s", torch.ones (1L, dtype = Nullable dtype) ]
                          (sgd 1e-3)
                          ignore
                          (fun _ levels () ->
                              (if asModule then
                                   net.call x
                               else
                                   torch.nn.functional.linear (x, levels["net"].["weight"], levels["net"].["bias"]))
                                  .tanh()
                                  .square()
                                  .mean ())

                  use run =
                      new BilevelRun(Problem.create BilevelOptions.Default method [ level; meta ], 0L)

                  [ for _ in 1..2 -> (run.Step()).Meta.Response.Note ]
                  |> List.filter (isNull >> not)

              let methods =
                  [ Hypergradient.neumann 3 0.1; Hypergradient.unrolled ]
                  |> List.map (by ProductForm.Differences)

              for method in methods do
                  for asModule in [ false; true ] do
                      for name, activation in kinked do
                          let found = notes asModule torch.float32 method activation
                          Expect.isNonEmpty found $"{name}, {method}, module {asModule}"
                          Expect.stringContains found.Head "half the step" ""

                      for dtype in [ torch.float32; f64 ] do
                          for name, activation in smooth do
                              Expect.isEmpty (notes asModule dtype method activation) $"{name}, {method}, {dtype}"

              // exact products do not see them
              Expect.isEmpty (notes false torch.float32 (Hypergradient.neumann 3 0.1) relu) "exact"

          testCase "no tensor is left behind"
          <| fun _ ->
              let _, problem, _ = twins (Hypergradient.neumann 3 0.1)
              use run = new BilevelRun(problem, 1L)
              let other = attention true (by ProductForm.Differences Hypergradient.unrolled)
              use second = new BilevelRun(other, 1L)

              let steps () =
                  for _ in 1..9 do
                      run.Step() |> ignore
                      second.Step() |> ignore

              steps ()
              GC.Collect()
              GC.WaitForPendingFinalizers()
              let live = Tensor.TotalCount
              steps ()
              Expect.equal Tensor.TotalCount live "live tensors" ]
