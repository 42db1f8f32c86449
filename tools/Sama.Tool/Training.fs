/// SAMA training on the device: labels, a part of them wrong, whose losses a net weighs by the losses themselves.
module Sama.Tool.Training

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

let private inputs, hidden, rows = 20L, 16L, 2048L

/// Parameters by name, drawn with the seed and scaled by the fan-in.
let private drawn (device: torch.Device) dtype (seed: int) (shapes: (string * int64[]) list) =
    [ for i, (name, shape) in List.indexed shapes do
          let scale = 1.0 / sqrt (float (Array.last shape))
          name, normal (seed + i) device dtype shape * scale ]

/// A two-layer classifier with dropout of that rate: base data with 20 % of the labels turned, meta data clean.
let private problem (device: torch.Device) (dtype: torch.ScalarType) (dropout: float) options : BilevelProblem =
    let truth = normal 1 device dtype [| inputs |]

    let x, metaX =
        normal 2 device dtype [| rows; inputs |], normal 3 device dtype [| 64L; inputs |]

    let label (x: Tensor) = (x.mv truth).gt (scalar 0.0)
    let turned = (normal 4 device dtype [| rows |]).gt (scalar 0.84)

    let y, metaY =
        (label x).logical_xor(turned).to_type torch.int64, (label metaX).to_type torch.int64

    let losses (p: Params) (x: Tensor) (y: Tensor) =
        let h =
            torch.tanh (torch.nn.functional.linear (x.to_type p["W1"].dtype, p["W1"], p["b1"]))

        let h = torch.nn.functional.dropout (h, dropout, true)

        torch.nn.functional.cross_entropy (
            torch.nn.functional.linear (h, p["W2"], p["b2"]),
            y,
            reduction = torch.nn.Reduction.None
        )

    let baseLoss (pass: Pass) theta (lambda: Params) (x, y) =
        let l = losses theta x y
        let feature = pass.Stop("losses", l).to_type(lambda["A1"].dtype).unsqueeze 1L

        let h =
            torch.tanh (torch.nn.functional.linear (feature, lambda["A1"], lambda["a1"]))

        (torch.sigmoid (h.mv lambda["a2"]) * l).mean ()

    let metaLoss _ theta _ () = (losses theta metaX metaY).mean ()

    Problem.create
        options
        Hypergradient.sama
        [ Level.create
              "classifier"
              (drawn
                  device
                  dtype
                  10
                  [ "W1", [| hidden; inputs |]
                    "b1", [| hidden |]
                    "W2", [| 2L; hidden |]
                    "b2", [| 2L |] ])
              (adam 1e-2)
              (Batches.shuffled (Rows.pair x y) 64)
              baseLoss
          Level.create
              "weights"
              (drawn device dtype 20 [ "A1", [| 16L; 1L |]; "a1", [| 16L |]; "a2", [| 16L |] ])
              (adam 1e-2)
              ignore
              metaLoss ]

/// Mean of the meta losses of the first ten and the last ten of some steps, θ and λ after them.
let private train steps (problem: BilevelProblem) (start: RunState) =
    use run = new BilevelRun(problem, start)

    let losses =
        [ for _ in 1..steps do
              run.Step().Meta.MetaLoss ]

    let first, last = List.take 10 losses, List.skip (losses.Length - 10) losses
    List.average first, List.average last, run.Snapshot()

let private same (a: RunState) (b: RunState) =
    a.Theta.Equals b.Theta && a.Lambda.Equals b.Lambda

let private group dtype = $"training, {dtype}"

let private learns (device: torch.Device) (precision: Precision) =
    let name = $"SAMA lowers the clean loss in 200 steps, passes: {precision}"
    let group = group torch.float32

    attempt group name (fun () ->
        let problem =
            problem
                device
                torch.float32
                0.1
                { BilevelOptions.Default with
                    Precision = precision }

        let first, last, _ = train 200 problem (Bilevel.start 1L problem)
        holds group name $"{first:F3} → {last:F3}" (last < 0.8 * first))

let private repeats (device: torch.Device) =
    let name = "two runs of 20 steps agree, bit for bit"

    attempt (group torch.float32) name (fun () ->
        let problem = problem device torch.float32 0.1 BilevelOptions.Default
        let start = Bilevel.start 1L problem
        let _, _, a = train 20 problem start
        let _, _, b = train 20 problem start
        holds (group torch.float32) name "" (same a b))

let private follows (device: torch.Device) =
    let name = "20 steps in float64 follow the CPU's"

    attempt (group torch.float64) name (fun () ->
        let after (device: torch.Device) =
            // without dropout: masks are the device's own
            let problem = problem device torch.float64 0.0 BilevelOptions.Default
            let _, _, state = train 20 problem (Bilevel.start 1L problem)
            state.Theta

        within (group torch.float64) name 1e-9 (relative (after device) (after torch.CPU)))

let all (device: torch.Device) : Outcome list =
    [ learns device Precision.Own
      learns device Precision.BFloat16
      repeats device
      follows device ]
