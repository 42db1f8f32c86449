/// Encoders as levels: SAMA and the methods of second order.
module Sama.Language.Tests.BilevelTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language
open Sama.Language.Tests.Tiny

/// Losses of noisy rows, re-weighted by a number a row; the meta loss is that of other rows.
let private problem (model: Encoder) (rule: UpdateRule) (method: HypergradientMethod) : BilevelProblem =
    let noisy, clean, labels =
        batch model.Config.Family 20L, batch model.Config.Family 21L, labels ()

    let baseLoss (_: Pass) (theta: Params) (lambda: Params) () =
        let losses = model.Losses(theta, noisy, labels, true)
        (torch.sigmoid lambda["rows"] * losses).mean ()

    let metaLoss (_: Pass) (theta: Params) (_: Params) () = model.Loss(theta, clean, labels)

    Problem.create
        BilevelOptions.Default
        method
        [ Level.create "encoder" [ for struct (name, value) in model.Parameters -> name, value ] rule ignore baseLoss
          Level.create "weights" [ "rows", torch.zeros (3L, dtype = torch.float64) ] (sgd 0.1) ignore metaLoss ]

let private samaAt alpha =
    Hypergradient.samaWith
        { SamaOptions.Default with
            Alpha = Nullable alpha }

let private hypergradient problem : Tensor =
    (Hypergradient.compute problem (fst (Bilevel.step problem (Bilevel.start 1L problem)))).Total

let private distance (a: Tensor) (b: Tensor) =
    ((a - b).norm () / b.norm ()).item<float> ()

let tests =
    testList
        "levels"
        [ for family in families do
              for name, rule in [ "sgd", sgd 0.05; "adam", adam 0.01 ] do
                  testCase
                      $"{family}, {name}: SAMA with fused attention and dropout → one-step unrolled with plain attention"
                  <| fun _ ->
                      // dropout within fused attention draws other masks than outside it
                      let settings =
                          { config family with
                              AttentionDropout = 0.0 }

                      use fused = exact 1L settings Head.Classifier
                      use plain = fused.WithAttention Attention.Plain
                      let expected = hypergradient (problem plain rule Hypergradient.t1t2)

                      let error alpha =
                          distance (hypergradient (problem fused rule (samaAt alpha))) expected

                      Expect.isLessThan (error 1e-4) 1e-6 "at 1e-4"
                      Expect.isLessThan (error 1e-2) (error 1e-1 / 30.0) "falls with α²"

              testCase $"{family}: adapters and frozen layers as levels"
              <| fun _ ->
                  use model = exact 2L (config family) Head.Classifier
                  use plain = model.WithAttention Attention.Plain
                  use lora = plain.WithLora(LoraOptions(rank = 2), 3L)
                  use frozen = plain.FreezeLayers 1

                  for part in [ lora; frozen ] do
                      let expected = hypergradient (problem part (sgd 0.05) Hypergradient.t1t2)
                      let found = hypergradient (problem part (sgd 0.05) (samaAt 1e-4))
                      Expect.isLessThan (distance found expected) 1e-5 "SAMA = one-step unrolled" ]
