/// The engine's in-place twins = the pure rules, bit for bit.
module Sama.Tests.RuleKernelTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.RuleGenerators

let private config = { FsCheckConfig.defaultConfig with maxTest = 25 }

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
let private agree ulps (layout: Layout) (rule: UpdateRule) (random: Random) (dtype: torch.ScalarType) =
    use _ = torch.NewDisposeScope()
    let bound = UpdateRule.bind layout rule
    let draw () = gradient random dtype layout.Length
    let mutable theta = draw ()
    let mutable pure' = bound.Init theta
    let mutable live = RuleState.map (fun t -> t.clone ()) pure'

    for t in 1..4 do
        let g, v = draw (), draw ()
        let u, next = bound.Step pure' g theta

        match bound.Adapt with
        | Ok adapt ->
            let inPlace = v.clone ()
            bound.InPlace.AdaptInto live g theta inPlace
            close ulps 0.25 $"{rule} t = {t}: adaptation" inPlace (adapt pure' g theta v)
        | Error _ -> ()

        let peek = torch.empty_like g
        let unmoved = bound.InPlace.Update false live g theta peek
        close ulps 0.25 $"{rule} t = {t}: u without advance" peek u
        Expect.equal unmoved.Count pure'.Count "the state is only read"
        List.iter2 (same $"{rule} t = {t}: state read") (RuleState.tensors live) (RuleState.tensors pure')

        // u overwrites the gradient
        let out = g.clone ()
        let moved = bound.InPlace.Update true live out theta out
        same $"{rule} t = {t}: u" out peek
        Expect.equal moved.Count next.Count "count"
        List.iter2 (close ulps 0.25 $"{rule} t = {t}: state") (RuleState.tensors moved) (RuleState.tensors next)
        theta <- theta - u
        live <- moved
        // both go on from the same bits
        pure' <- RuleState.map (fun t -> t.clone ()) moved

/// Formulas without a square root have the same bits; chains amplify the ulps of their stages where they subtract.
let private ulps name =
    match name with
    | "sgd"
    | "adamax"
    | "asgd"
    | "lion"
    | "clipByValue"
    | "addDecay" -> 0.0
    | "lamb" -> 64.0
    | _ -> 4.0

let tests =
    testList
        "in-place rules"
        [ for dtype in [ torch.float32; torch.float64 ] do
              for name, draw in elementwise @ coupled @ [ "lion", (fun _ -> lion 0.1) ] do
                  testPropertyWithConfig config $"{name}, {dtype}: in place = pure"
                  <| fun (PositiveInt seed) ->
                      let random = Random seed
                      agree (ulps name) (layout random) (draw random) random dtype

              testPropertyWithConfig config $"three combinators, {dtype}: in place = pure"
              <| fun (PositiveInt seed) ->
                  let random = Random seed
                  let layout = layout random
                  let names = [ for slice in layout.Slices -> slice.Name ]
                  agree 64.0 layout (composition names random) random dtype

          testCase "the operators' square root is the processor's or a neighbour"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let x = (Problems.normal 1L [| 10_000L |]).abs ()
              let exact = torch.tensor ([| for x in x.data<float>().ToArray() -> sqrt x |])
              close 1.0 0.0 "root" (Graph.Of x |> Real.root).Tensor exact

          testCase "long vectors, in pieces and on several threads"
          <| fun _ ->
              let random = Random 3
              let layout = Layout.create [ "long", [| 300_001L |] ]
              let threads = torch.get_num_threads ()

              try
                  torch.set_num_threads 2

                  for dtype in [ torch.float32; torch.float64 ] do
                      agree 4.0 layout (adamW 0.1 0.1) random dtype
              finally
                  torch.set_num_threads threads

          testCase "vectors that kernels do not serve fall back on operators"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let layout = Layout.create [ "half", [| 5L |] ]
              agree 4.0 layout (adam 0.1) (Random 4) torch.bfloat16
              let bound = UpdateRule.bind layout (adam 0.1)
              let strided = torch.arange(10.0, dtype = torch.float64).view(5L, 2L).select (1L, 0L)
              let state = bound.Init strided
              let u, _ = bound.Step state strided strided
              let out = torch.empty_like u
              bound.InPlace.Update true state strided strided out |> ignore
              same "strided" out u ]
