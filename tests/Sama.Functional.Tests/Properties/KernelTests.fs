/// Kernels at every length: the ragged last block is computed, and nothing behind it touched.
module Sama.Tests.KernelTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems
open Sama.Benchmarks.Matrix

/// Around a register, a block and several blocks.
let private lengths (dtype: torch.ScalarType) =
    let block = Scratch.Bytes / (if dtype = torch.float32 then 4 else 8)

    [ 1..35 ] @ [ block - 1; block; block + 1; 2 * block - 1; 3 * block + 2 ]
    |> List.map int64

let private rules =
    [ "adamW", adamW 0.1 0.1
      "nadam", nadam 0.1
      "amsgrad", amsgrad 0.1
      "rmsprop", rmsprop 0.1
      "momentum",
      sgdWith
          { SgdOptions.Default with
              Momentum = 0.9
              WeightDecay = 0.1 }
      "adamax", adamax 0.1 ]

let private guard = 11.0

/// A vector between two guards.
let private between (x: Tensor) =
    let padding = torch.full ([| 40L |], scalar guard, dtype = x.dtype)
    let whole = torch.cat [| padding; x; padding |]
    whole, whole.narrow (0L, 40L, x.numel ())

let private untouched what (whole: Tensor) length =
    for start in [ 0L; 40L + length ] do
        let padding = whole.narrow (0L, start, 40L)
        Expect.isTrue (padding.eq(scalar guard).all().item<bool> ()) $"{what}: beyond the vector"

let private close what (a: Tensor) (b: Tensor) =
    let unit = if b.dtype = torch.float32 then 2e-6 else 4e-15

    Expect.isLessThanOrEqual
        ((a - b).abs().max().to_type(f64).item<float> ())
        (unit * (1.0 + b.abs().max().to_type(f64).item<float> ()))
        what

let private drawn (seed: int64) (dtype: torch.ScalarType) length =
    (normal seed [| length |]).to_type dtype

/// No root: the operations of kernels and operators are the same, and so are the bits. Others: `RuleKernelTests` has the
/// ulps, and why.
let private rootless =
    [ "sgd"
      "momentum, dampening, coupled decay"
      "nesterov"
      "maximize"
      "adamax"
      "lion"
      "lion, straight through"
      "asgd"
      "step alone"
      "closed adaptation"
      "closed adaptation, not symmetric"
      "clipByValue → momentum"
      "projectBox"
      "projectSimplex" ]

let tests =
    testList
        "kernels"
        [ for dtype in [ torch.float32; torch.float64 ] do
              for name, rule in rules do
                  testCase $"{name}, {dtype}: every length = the operators, and nothing beyond"
                  <| fun _ ->
                      for length in lengths dtype do
                          use _ = torch.NewDisposeScope()
                          let bound = UpdateRule.bind (Layout.create [ "x", [| length |] ]) rule

                          let theta, g, v =
                              drawn 1L dtype length, drawn 2L dtype length, drawn 3L dtype length
                          // a state that is none's first
                          let _, state = bound.Step (bound.Init theta) (drawn 4L dtype length) theta
                          let u, next = bound.Step state g theta
                          let adapted = bound.Adapt state g theta v

                          let live =
                              [ for t in state.Tensors ->
                                    t.Key, (if t.Value.dim () = 1L then Some(between t.Value) else None), t.Value ]

                          let own =
                              RuleState.create
                                  state.Count
                                  [ for name, guarded, plain in live ->
                                        name,
                                        (match guarded with
                                         | Some(_, inside) -> inside
                                         | None -> plain.clone ()) ]
                                  []

                          let outWhole, out = between g
                          let vWhole, vIn = between v
                          let thetaWhole, thetaIn = between theta
                          bound.InPlace.AdaptInto own g thetaIn vIn
                          close $"{length}: adaptation" vIn adapted
                          let moved = bound.InPlace.Advance own out thetaIn out
                          close $"{length}: u" out u

                          for t in next.Tensors do
                              close $"{length}: {t.Key}" moved[t.Key] t.Value

                          Expect.isTrue (thetaIn.Equals theta) $"{length}: θ is read"

                          for whole in
                              outWhole
                              :: vWhole
                              :: thetaWhole
                              :: [ for _, guarded, _ in live do
                                       match guarded with
                                       | Some(whole, _) -> whole
                                       | None -> () ] do
                              untouched $"{length}" whole length

              testCase $"{dtype}: what is not finite is found at every place, and not behind the vector"
              <| fun _ ->
                  let bound length =
                      UpdateRule.bind (Layout.create [ "x", [| length |] ]) (adam 0.1)

                  for length in lengths dtype do
                      use _ = torch.NewDisposeScope()
                      let rule = bound length
                      let theta = drawn 1L dtype length
                      let whole, g = between (drawn 2L dtype length)
                      whole.narrow(0L, 40L + length, 40L).fill_ (scalar nan) |> ignore
                      whole.narrow(0L, 0L, 40L).fill_ (scalar infinity) |> ignore
                      let state = rule.Init theta

                      let sound () =
                          (rule.InPlace.Sound state g theta).item<bool> ()

                      Expect.isTrue (sound ()) $"{length}: behind the vector"

                      for place in List.distinct [ 0L; length / 2L; length - 1L ] do
                          for bad in [ nan; infinity ] do
                              use before = g.narrow(0L, place, 1L).clone ()
                              g.narrow(0L, place, 1L).fill_ (scalar bad) |> ignore
                              Expect.isFalse (sound ()) $"{length}: {bad} at {place}"
                              g.narrow(0L, place, 1L).copy_ before |> ignore

          for rule in Rules.all do
              for dtype in [ torch.float32; torch.float64 ] do
                  let exact = List.contains rule.Name rootless
                  let how = if exact then "the same bits" else "to rounding"

                  testCase $"{rule.Name}, {dtype}: in place = pure, {how}"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()

                      let layout = Layout.create [ "weight", [| 3L; 7L |]; "bias", [| 7L |] ]

                      let bound = UpdateRule.bind layout rule.Update
                      let draw seed = drawn seed dtype layout.Length
                      let mutable theta = draw 1L
                      let mutable state = bound.Init theta

                      let agree what (a: Tensor) (b: Tensor) =
                          if exact then
                              Expect.isTrue (a.Equals b) $"{what}: the same bits"
                          else
                              close what a b

                      for t in 1L .. 4L do
                          let g, v = draw (10L + t), draw (20L + t)
                          let live = RuleState.map _.clone() state
                          let u, next = bound.Step state g theta

                          match bound.Adaptation with
                          | Ok adapt ->
                              let out = v.clone ()
                              bound.InPlace.AdaptInto live g theta out
                              agree $"t = {t}: adaptation" out (adapt state g theta v)
                          | Error _ -> ()

                          let out = g.clone ()
                          let moved = bound.InPlace.Advance live out theta out
                          agree $"t = {t}: u" out u
                          List.iter2 (agree $"t = {t}: state") (RuleState.tensors moved) (RuleState.tensors next)
                          theta <- theta - u
                          state <- next ]
