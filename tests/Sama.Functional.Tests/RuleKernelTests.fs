/// The engine's in-place twins = the pure rules, but for the operators' square root.
module Sama.Tests.RuleKernelTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.RuleGenerators

let private config =
    { FsCheckConfig.defaultConfig with
        maxTest = 25 }

let private same what (a: Tensor) (b: Tensor) =
    Expect.isTrue (a.Equals b) $"{what}: the same bits"

/// |a − b| ≤ ulps·(|b| + share·max |b|): cancellation in one coordinate's sum keeps the errors of its terms.
let private close (ulps: float) (share: float) what (a: Tensor) (b: Tensor) =
    Expect.equal a.dtype b.dtype $"{what}: type"
    let wide (x: Tensor) = x.reshape(-1L).to_type torch.float64
    let unit = torch.finfo(b.dtype).eps * ulps
    let a, b = wide a, wide b
    let allowed = (b.abs () + b.abs().max () * share) * unit
    let excess = ((a - b).abs () - allowed).max().item<float> ()
    Expect.isLessThanOrEqual excess 0.0 $"{what}: beyond {ulps} ulps"

/// Steps pure and in place from the same states; `advance = false` must leave the state alone.
let private agree
    (u, state, adaptation)
    (layout: Layout)
    (rule: UpdateRule)
    (random: Random)
    (dtype: torch.ScalarType)
    =
    use _ = torch.NewDisposeScope()
    let bound = UpdateRule.bind layout rule
    let draw () = gradient random dtype layout.Length
    let mutable theta = draw ()
    let mutable pure' = bound.Init theta
    let mutable live = RuleState.map (fun t -> t.clone ()) pure'

    for t in 1..4 do
        let g, v = draw (), draw ()
        let expected, next = bound.Step pure' g theta

        match bound.Adaptation with
        | Ok adapt ->
            let inPlace = v.clone ()
            bound.InPlace.AdaptInto live g theta inPlace
            close adaptation 1.0 $"{rule} t = {t}: adaptation" inPlace (adapt pure' g theta v)
        | Error _ -> ()

        let peek = torch.empty_like g
        bound.InPlace.Preview live g theta peek
        Expect.isTrue ((bound.InPlace.Sound live g theta).item<bool> ()) $"{rule} t = {t}: finite"
        close u 1.0 $"{rule} t = {t}: u without advance" peek expected
        List.iter2 (same $"{rule} t = {t}: state read") (RuleState.tensors live) (RuleState.tensors pure')

        // u overwrites the gradient
        let out = g.clone ()
        let moved = bound.InPlace.Advance live out theta out
        same $"{rule} t = {t}: u" out peek
        Expect.equal moved.Count next.Count "count"
        List.iter2 (close state 1.0 $"{rule} t = {t}: state") (RuleState.tensors moved) (RuleState.tensors next)
        theta <- theta - expected
        live <- moved
        // both go on from the same bits
        pure' <- RuleState.map (fun t -> t.clone ()) moved

/// Ulps of u, state and adaptation. The root may be one ulp off, each operation behind it adds one, products and
/// quotients add those of both sides. The longest ways: RMSprop's u (√, + ε, ÷, + μb, · rate: 5), Adadelta's state
/// (√/√ · g is at 4, its square at 9, · (1−ρ), +: 11), Adam's adaptation ((ε√ + …)/(√d) is at 9, ÷ d and · v: 13).
let private ofRoot = 5.0, 11.0, 13.0

/// Without a root the bits are the same.
let private ofNone = 0.0, 0.0, 0.0

/// Norms and inner products take the 13 ulps of one coordinate to all others: ‖r‖ and r·v add at most √n times them each.
let private ofNorms (layout: Layout) =
    let ulps = 13.0 * (1.0 + 2.0 * sqrt (float layout.Length))
    ulps, ulps, ulps

let private bound name layout =
    match name with
    | "sgd"
    | "adamax"
    | "asgd"
    | "lion"
    | "clipByValue"
    | "addDecay" -> ofNone
    | "adafactor"
    | "lamb"
    | "clipByGlobalNorm" -> ofNorms layout
    | _ -> ofRoot

/// How many roots differ, and by how many ulps at most: bits of positive numbers are ordered as the numbers are.
let private distances (bits: 'x -> int64) (ours: 'x[]) (exact: 'x[]) =
    let ulps = Array.map2 (fun x y -> abs (bits x - bits y)) ours exact
    ulps |> Array.filter ((<>) 0L) |> Array.length, Array.max ulps

let tests =
    testList
        "in-place rules"
        [ for dtype in [ torch.float32; torch.float64 ] do
              for name, draw in elementwise @ coupled @ [ "lion", (fun _ -> lion 0.1) ] do
                  testPropertyWithConfig config $"{name}, {dtype}: in place = pure"
                  <| fun (PositiveInt seed) ->
                      let random = Random seed
                      let layout = layout random
                      agree (bound name layout) layout (draw random) random dtype

              testPropertyWithConfig config $"three combinators, {dtype}: in place = pure"
              <| fun (PositiveInt seed) ->
                  let random = Random seed
                  let layout = layout random
                  let names = [ for slice in layout.Slices -> slice.Name ]
                  agree (ofNorms layout) layout (composition names random) random dtype

          testCase "the operators' square root is the nearest number or a neighbour of it"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let x = (Problems.normal 1L [| 100_000L |]).abs ()
              let root (x: Tensor) = (Real.root (Graph.Of x)).Tensor
              let wide = x.data<float>().ToArray()

              let off, most =
                  distances BitConverter.DoubleToInt64Bits ((root x).data<float>().ToArray()) (Array.map sqrt wide)

              Expect.isLessThanOrEqual most 1L $"float64: {off} of {wide.Length} differ"
              let narrow = Array.map float32 wide
              let ours = (root (x.to_type torch.float32)).data<float32>().ToArray()

              let off, most =
                  distances (BitConverter.SingleToInt32Bits >> int64) ours (Array.map MathF.Sqrt narrow)

              Expect.isLessThanOrEqual most 1L $"float32: {off} of {wide.Length} differ"

          testCase "the kernels' square root is the nearest number"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let layout = Layout.create [ "x", [| 1001L |] ]
              let g = (Problems.normal 2L [| 1001L |]).abs ()

              let adagrad =
                  adagradWith
                      { AdagradOptions.Default with
                          LearningRate = 1.0
                          Epsilon = 0.0 }

              let rule = UpdateRule.bind layout adagrad
              let out = torch.empty_like g
              rule.InPlace.Advance (rule.Init g) g g out |> ignore
              let exact = [| for g in g.data<float>().ToArray() -> g / sqrt (g * g) |]
              same "u" out (torch.tensor exact)

          testCase "long vectors, in pieces and on several threads"
          <| fun _ ->
              let random = Random 3
              let layout = Layout.create [ "long", [| 300_001L |] ]
              let threads = torch.get_num_threads ()

              try
                  torch.set_num_threads 2

                  for dtype in [ torch.float32; torch.float64 ] do
                      agree ofRoot layout (adamW 0.1 0.1) random dtype
              finally
                  torch.set_num_threads threads

          testCase "vectors that kernels do not serve fall back on operators"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let layout = Layout.create [ "half", [| 5L |] ]
              agree ofRoot layout (adam 0.1) (Random 4) torch.bfloat16
              let bound = UpdateRule.bind layout (adam 0.1)
              let strided = torch.arange(10.0, dtype = torch.float64).view(5L, 2L).select (1L, 0L)
              let state = bound.Init strided
              let u, _ = bound.Step state strided strided
              let out = torch.empty_like u
              bound.InPlace.Advance state strided strided out |> ignore
              same "strided" out u ]
