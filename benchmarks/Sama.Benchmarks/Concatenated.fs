/// SAMA by hand with one forward over base and meta batch together, so that both gradients are taken at θₜ₋₁: what it
/// costs, and what it gives.
module Sama.Benchmarks.Concatenated

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks.Models

/// Base gradient and hypergradient at a state; the problem has no direct gradient.
let private gradients (device: torch.Device) rows (model: Model) (problem: BilevelProblem) (state: RunState) =
    let theta, lambda = state.Theta, state.Lambda
    let layouts = problem.Levels |> Array.map _.Layout

    let draw stream =
        { Seed = state.Seed
          Step = state.Step
          Stream = stream
          Rank = 0 }

    let x, y = batch device rows model (draw 0)
    let x', y' = batch device rows model (draw 1)
    let leaf = Autodiff.leaf theta

    let all =
        losses model (Params.traced layouts[0] leaf) (torch.cat [| x; x' |], torch.cat [| y; y' |])

    let own, meta = all.narrow (0L, 0L, rows), all.narrow (0L, rows, rows)
    let stopped = own.detach ()
    let one = torch.ones_like (stopped.mean ())
    let weighed = (weights (Params.frozen layouts[1] lambda) stopped * own).mean ()
    let g = Autodiff.pull Autodiff.Kept weighed one leaf
    let v = Autodiff.pull Autodiff.Freed (meta.mean ()) one leaf
    problem.Levels[0].Rule.InPlace.AdaptInto state.Levels[0].Rule g theta v
    let alpha = 1e-3
    let norm = (Flat.norms v g).Active
    let scale = (alpha / norm).to_type v.dtype

    let ofLambda (scale: Tensor) =
        Scope.tensor (fun () ->
            let perturbed = torch.empty_like theta
            Flat.combine perturbed theta scale v
            let leaf = Autodiff.leaf lambda
            let losses = losses model (Params.frozen layouts[0] perturbed) (x, y)
            let loss = (weights (Params.traced layouts[1] leaf) stopped * losses).mean ()
            Autodiff.pull Autodiff.Freed loss one leaf)

    g, (ofLambda -scale - ofLambda scale) * (norm / (2.0 * alpha)).to_type v.dtype

/// ∂L_meta/∂λ at a state by that way.
let hypergradient device rows model problem state : Tensor =
    Scope.tensor (fun () -> snd (gradients device rows model problem state))

/// Steps from an initial state, in place.
type Run(device: torch.Device, rows: int64, model: Model, problem: BilevelProblem) =
    let mutable state = Bilevel.start 1L problem

    member _.Step() : unit =
        Scope.run (fun _ ->
            let g, h = gradients device rows model problem state

            let moved =
                [| for level, own, gradient in Seq.zip3 problem.Levels state.Levels [ g; h ] do
                       let rule = level.Rule.InPlace.Advance own.Rule gradient own.Vector gradient

                       own.Vector.sub_ gradient |> ignore
                       { own with Rule = rule } |]

            state <-
                { state with
                    Levels = moved
                    Step = state.Step + 1L })

        Scope.sweep state.Step (state.Theta.numel ())

    interface IDisposable with
        member _.Dispose() = RunState.dispose state
