/// Norms over 60 decades, by kernels and by operators, and in rules that divide by one.
module Sama.Tests.NormTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// Coordinates around 10^decade, every fifth 0, in the type's own rounding; and a g that is 0 at every third.
let private drawn (decade: int) (dtype: torch.ScalarType) (length: int) : float[] * float[] =
    let random = Random(decade + length)
    let size = 10.0 ** float decade

    let x =
        [| for i in 0 .. length - 1 ->
               if i % 5 = 4 then
                   0.0
               else
                   let value =
                       (0.5 + random.NextDouble()) * size * float (sign (random.Next 2 - 1) * 2 + 1)

                   if dtype = torch.float32 then
                       float (float32 value)
                   else
                       value |]

    x, [| for i in 0 .. length - 1 -> if i % 3 = 2 then 0.0 else 1.0 + float (i % 7) |]

/// √Σ x², scaled by the largest so that nothing over- or underflows.
let private length (x: float[]) =
    let top = Array.fold (fun top x -> max top (abs x)) 0.0 x

    if top = 0.0 then
        0.0
    else
        top * sqrt (x |> Array.sumBy (fun x -> (x / top) * (x / top)))

let private near (unit: float) what (found: float) (expected: float) =
    Expect.isLessThanOrEqual (abs (found - expected)) (unit * expected) $"{what}: {found} instead of {expected}"

let private check (norms: Norms) (x: float[], g: float[]) what =
    let touched =
        Array.zip x g |> Array.filter (fun (_, g) -> g <> 0.0) |> Array.map fst

    near 1e-12 $"{what}: ‖x‖" (Number.read norms.All) (length x)
    near 1e-12 $"{what}: ‖x‖_A" (Number.read norms.Active) (length touched)

    let count (keep: float * float -> bool) =
        Array.zip x g |> Array.filter keep |> Array.length |> float

    Expect.equal (Number.read norms.NonZero) (count (fun (x, _) -> x <> 0.0)) $"{what}: x ≠ 0"
    Expect.equal (Number.read norms.Outside) (count (fun (x, g) -> x <> 0.0 && g = 0.0)) $"{what}: beyond A"

/// The same numbers, not one behind the other: kernels leave them to operators.
let private strided (t: Tensor) =
    torch.stack([| t; t * 0.0 |], 1L).select (1L, 0L)

/// Each with a rest behind the last register, and the last two behind the last chunk.
let private lengths = [ 1; 3; 8; 13; 65_536 + 5; 4 * 65_536 + 9 ]

let private decades = [ -30; -24; -20; -10; 0; 10; 18; 20; 29; 30 ]

/// Rules of a scale, and the length of u: the limit, or ‖θ‖.
let private rulesOfNorms: (string * (float -> UpdateRule) * (float -> Tensor -> float)) list =
    [ "clipByGlobalNorm", (fun scale -> clipByGlobalNormWith 0.0 (0.5 * scale)), (fun scale _ -> 0.5 * scale)
      "trustRatio", (fun _ -> trustRatio), (fun _ theta -> length (theta.to_type(f64).data<float>().ToArray())) ]

let private unit (x: Tensor) =
    let x = x.to_type f64
    x / x.norm ()

let tests =
    testList
        "norms"
        [ for dtype in [ torch.float32; torch.float64 ] do
              testCase $"{dtype}: kernels and operators = scaled sums, from 1e-30 to 1e30"
              <| fun _ ->
                  for decade in decades do
                      for length in lengths do
                          use _ = torch.NewDisposeScope()
                          let x, g = drawn decade dtype length

                          let tensor (values: float[]) =
                              (torch.tensor (values, dtype = torch.float64)).to_type dtype

                          check (Flat.norms (tensor x) (tensor g)) (x, g) $"kernel, 1e{decade}, {length}"

                          check
                              (Flat.norms (strided (tensor x)) (strided (tensor g)))
                              (x, g)
                              $"operators, 1e{decade}, {length}"

              for name, rule, expected in rulesOfNorms do
                  testCase $"{name}, {dtype}: step and adaptation scale with g and θ, from 1e-30 to 1e30"
                  <| fun _ ->
                      for decade in decades do
                          use _ = torch.NewDisposeScope()
                          let scale = 10.0 ** float decade
                          let at (x: Tensor) = (x * scale).to_type dtype
                          let g, theta, v = normal 1L [| 7L |], normal 2L [| 7L |], normal 3L [| 7L |]
                          let bound = UpdateRule.bind (Layout.create [ "x", g.shape ]) (rule scale)
                          let one = UpdateRule.bind (Layout.create [ "x", g.shape ]) (rule 1.0)
                          let u, _ = bound.Step (bound.Init theta) (at g) (at theta)
                          Expect.isLessThan (distance (unit u) (unit (at g))) 1e-5 $"1e{decade}: direction"

                          near
                              1e-4
                              $"1e{decade}: length"
                              (length (u.to_type(f64).data<float>().ToArray()))
                              (expected scale (at theta))
                          // both are of degree 0 in (g, θ): ∂u/∂g is the same at every scale, v small or large beside it
                          let adapted = bound.Adapt (bound.Init theta) (at g) (at theta) (at v)
                          let expected = one.Adapt (one.Init theta) g theta v

                          Expect.isLessThan
                              (distance (adapted.to_type f64 / Number.scalar scale) expected)
                              1e-5
                              $"1e{decade}: adaptation" ]
