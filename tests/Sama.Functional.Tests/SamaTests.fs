module Sama.Tests.SamaTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let response problem state =
    let h, direct, report = (Hypergradient.compute problem state).Parts
    h - direct, report

let tests =
    testList
        "sama"
        [ testPropertyWithConfig
              { FsCheckConfig.defaultConfig with
                  maxTest = 50 }
              "ravel and views are inverse"
          <| fun (shapes: NonEmptyArray<PositiveInt * PositiveInt>) ->
              use _ = torch.NewDisposeScope()

              let named =
                  [ for i, (PositiveInt r, PositiveInt c) in Array.indexed shapes.Get ->
                        $"p{i}", normal (int64 i) [| int64 (r % 5 + 1); int64 (c % 5 + 1) |] ]

              let layout = Layout.ofNamed named
              let views = Layout.views layout (Layout.ravel named)
              Expect.isTrue (Seq.forall2 (fun (_, t: Tensor) (view: Tensor) -> t.Equals view) named views) ""

          testCase "leaves alias the vector and accumulate into one gradient"
          <| fun _ ->
              let layout = Layout.create [ "a", [| 2L |]; "b", [| 2L; 2L |] ]
              let vector, gradient = normal 1L [| 6L |], torch.zeros (6L, dtype = f64)
              let leaves = Params.leaves layout vector gradient

              for _ in 1..2 do
                  let loss = square(leaves["a"]).sum () + square(leaves["b"]).sum ()
                  Autodiff.backward loss leaves.Views

              Expect.equal (distance gradient (vector * 4.0)) 0.0 "twice 2θ"
              vector.mul_ (scalar 2.0) |> ignore

              Expect.equal
                  (leaves["b"].detach().sum().item<float> ())
                  (vector.narrow(0L, 2L, 4L).sum().item<float> ())
                  "alias"

          testCase "SAMA on a quadratic base = closed form, and lr times SAMA-NA under SGD"
          <| fun _ ->
              // θₜ = θ − lr(Aθ − Bλ), h = c + lr Bᵀθₜ: ∂λL = −Bᵀθ is linear, so that every α is exact
              for alpha in [ 1.0; 1e-2; 1e-5 ] do
                  let problem = quadratic (sgd 0.05) 1 (samaAt alpha)
                  let state = after 3 problem
                  let theta = state.Theta - (A.mv state.Theta - B.mv state.Lambda) * 0.05
                  let h, _, report = (Hypergradient.compute problem state).Parts
                  Expect.isLessThan (distance h (c + B.t().mv theta * 0.05)) 1e-9 $"alpha {alpha}"
                  Expect.isLessThan (abs (report.Norm.Value / (theta.norm().item<float> () * 0.05) - 1.0)) 1e-12 "‖v‖"

                  let na =
                      quadratic
                          (sgd 0.05)
                          1
                          (Hypergradient.samaNaWith
                              { SamaOptions.Default with
                                  Alpha = Nullable alpha })

                  let h, _, _ = (Hypergradient.compute na state).Parts
                  Expect.isLessThan (distance h (c + B.t().mv theta)) 1e-9 $"NA, alpha {alpha}"

          testCase "v = 0 gives the direct gradient"
          <| fun _ ->
              let problem = quadratic (sgd 0.0) 1 Hypergradient.sama
              let state = Bilevel.start 1L problem
              let h, direct, report = (Hypergradient.compute problem state).Parts
              Expect.equal (distance h c) 0.0 "h"
              Expect.equal (distance direct c) 0.0 "direct"
              Expect.equal report.Norm.Value 0.0 "norm"

          for name, rule in
              [ "sgd", sgd 0.1
                "adam", adam 0.05
                "clip → adam", UpdateRule.chain [ clipByGlobalNorm 0.05; adam 0.05 ] ] do
              for steps in [ 0; 2; 9 ] do
                  testCase $"SAMA → one-step-unrolled as ε → 0: {name}, t = {steps + 1}, dropout and a stop-feature"
                  <| fun _ ->
                      let problem method = reweighting Stopped 0.3 rule method
                      let state = after steps (problem Hypergradient.samaNa)
                      let exact, _ = response (problem Hypergradient.t1t2) state

                      let error alpha =
                          distance (fst (response (problem (samaAt alpha)) state)) exact

                      Expect.isLessThan (error 1e-4) 1e-6 "at 1e-4; rounding is 1e-10/α here"
                      Expect.isLessThan (error 1e-2) (error 1e-1 / 30.0) "falls with α²"

          testCase "the one-step-unrolled response = central difference of the step"
          <| fun _ ->
              let problem = reweighting Stopped 0.3 (sgd 0.1) Hypergradient.t1t2
              let state = after 3 problem
              let exact, _ = response problem state

              let metaLoss (lambda: Tensor) =
                  let moved =
                      { state with
                          Levels = [| state.Levels[0]; { state.Levels[1] with Vector = lambda } |] }

                  (snd (Bilevel.step problem moved)).Head.Meta.MetaLoss

              let numeric =
                  [| for i in 0L .. state.Lambda.numel () - 1L ->
                         let d = torch.zeros_like state.Lambda
                         d[i] <- torch.tensor (1e-5, dtype = f64)
                         (metaLoss (state.Lambda + d) - metaLoss (state.Lambda - d)) / 2e-5 |]

              Expect.isLessThan (distance exact (torch.tensor numeric)) 1e-6 ""

          testCase "a bare detach of what depends on θ is wrong at every ε"
          <| fun _ ->
              let problem method =
                  reweighting Detached 0.0 (sgd 0.1) method

              let state = after 2 (problem Hypergradient.samaNa)
              let exact, _ = response (problem Hypergradient.t1t2) state

              for alpha in [ 1e-2; 1e-4 ] do
                  Expect.isGreaterThan (distance (fst (response (problem (samaAt alpha)) state)) exact) 1e-2 ""

          testCase "one-sided tends to the same limit, post-update to another"
          <| fun _ ->
              let problem method =
                  reweighting Stopped 0.3 (sgd 0.5) method

              let state = after 2 (problem Hypergradient.samaNa)
              let exact, _ = response (problem Hypergradient.t1t2) state

              let o =
                  { SamaOptions.Default with
                      Alpha = Nullable 1e-5 }

              let at o =
                  distance (fst (response (problem (Hypergradient.samaWith o)) state)) exact

              Expect.isLessThan (at { o with OneSided = true }) 1e-3 "one-sided"
              Expect.isGreaterThan (at { o with Centre = Centre.PostUpdate }) 1e-3 "post-update"

          testCase "on the first micro-batches it is the mean over these"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let data, w = normal 31L [| 4L; 5L; 3L |], normal 32L [| 3L |]
              let residual (x: Tensor) (w: Tensor) = x.matmul w - 1.0

              let problem =
                  Problem.create
                      { BilevelOptions.Default with
                          Accumulate = 4 }
                      Hypergradient.samaNa
                      [ Level.create "base" [ "w", w ] (sgd 0.1) (fun draw -> data[draw.Step]) (fun _ theta lambda x ->
                            torch.sigmoid(lambda["s"]).squeeze () * square(residual x theta["w"]).mean ())
                        Level.create "meta" [ "s", torch.zeros (1L, dtype = f64) ] (sgd 0.1) ignore (fun _ theta _ () ->
                            square(theta["w"]).sum ()) ]

              // by hand: σ(0) = 1/2, σ'(0) = 1/4, v = 2θₜ
              let gradients =
                  [ for i in 0L .. 3L -> data[i].t().matmul (residual data[i] w) * 0.4 ]

              let mean count =
                  (List.reduce (+) (List.truncate count gradients)) / Number.scalar (float count)

              let v = (w - mean 4 * 0.05) * 2.0
              let state = Bilevel.start 1L problem

              for count in 0..4 do
                  for oneSided in [ false; true ] do
                      let method =
                          Hypergradient.samaNaWith
                              { SamaOptions.Default with
                                  Alpha = Nullable 1e-6
                                  OneSided = oneSided
                                  MicroBatches = count }

                      let got, _ = response (Problem.withMethod method problem) state
                      let expected = (mean (if count = 0 then 4 else count)).dot(v).unsqueeze 0L * -0.25
                      Expect.isLessThan (distance got expected) 1e-5 $"{count} micro-batches"

              Expect.throwsT<ArgumentException>
                  (fun () ->
                      let five =
                          Hypergradient.samaWith
                              { SamaOptions.Default with
                                  MicroBatches = 5 }

                      Problem.withMethod five problem |> ignore)
                  "five of four"

          testCase "the norm of ε leaves out coordinates that the batch did not touch"
          <| fun _ ->
              let table = normal 30L [| 10L; 2L |]

              let baseLoss (_: Pass) (theta: Params) (lambda: Params) () =
                  (square (theta["table"].narrow (0L, 0L, 2L)) * torch.sigmoid lambda["x"]).sum ()
                  + theta["table"].sum () * 0.0

              let metaLoss (_: Pass) (theta: Params) _ () = theta["table"].sum ()

              let problem =
                  Problem.create
                      BilevelOptions.Default
                      Hypergradient.sama
                      [ Level.create "base" [ "table", table ] (sgd 0.1) ignore baseLoss
                        Level.create "meta" [ "x", torch.zeros (2L, dtype = f64) ] (sgd 0.1) ignore metaLoss ]

              let _, report = response problem (Bilevel.start 1L problem)

              Expect.floatClose
                  Accuracy.high
                  (report.Norm.Value / report.ActiveNorm.Value)
                  (sqrt 5.0)
                  "20 to 4 coordinates"

          testCase "θ, λ and the generator are bit-identical after a hypergradient"
          <| fun _ ->
              let problem = reweighting Stopped 0.3 (adam 0.05) Hypergradient.sama
              let state = after 2 problem
              let theta, lambda = state.Theta.clone (), state.Lambda.clone ()
              let rng = torch.get_rng_state ()
              let a, _, _ = (Hypergradient.compute problem state).Parts
              let b, _, _ = (Hypergradient.compute problem state).Parts
              Expect.isTrue (state.Theta.Equals theta && state.Lambda.Equals lambda) "state"
              Expect.isTrue (rng.Equals(torch.get_rng_state ())) "generator"
              Expect.isTrue (a.Equals b) "the same bits twice" ]
