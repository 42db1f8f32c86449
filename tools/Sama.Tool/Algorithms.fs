/// Every algorithm on P1 to P4 in float64: where it converges to the exact hypergradient against the closed form, and
/// all against the CPU.
module Sama.Tool.Algorithms

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

/// Methods that solve the adjoint system of n parameters, with enough iterations for these problems; η is the base
/// rule's own step.
let private exact (n: int) =
    [ "exact", Hypergradient.exact
      "conjugateGradient", Hypergradient.conjugateGradient 30
      "neumann", Hypergradient.neumann 2000 1.0
      "fixedPoint",
      Hypergradient.fixedPointWith
          { FixedPointOptions.Default with
              Iterations = 2000
              Tolerance = 1e-10 }
      "nystrom",
      Hypergradient.nystromWith
          { NystromOptions.Default with
              Rank = n
              Rho = 1e-8 } ]

let private approximate =
    [ "sama", Hypergradient.sama
      "samaNa", Hypergradient.samaNa
      "samaFisher", Hypergradient.samaFisher
      "t1t2", Hypergradient.t1t2
      "truncated", Hypergradient.truncated 1
      "f2sa", Hypergradient.f2sa ]

let private group = "algorithms"

/// The base problem solved by its own gradient descent.
let private solved (known: Problems.Known) =
    let problem = known.Problem Hypergradient.sama
    let state, report = Bilevel.solve problem 1e-13 50_000 (Bilevel.start 1L problem)
    report.EnsureConverged()
    problem, state

let private againstClosedForm (known: Problems.Known) =
    [ for name, method in exact known.Size do
          let name = $"{known.Name}, {name}: closed form"

          attempt group name (fun () ->
              let problem, state = solved known
              let h, _, _ = (Hypergradient.at problem state method).Parts
              // Nyström divides by ρ: its bias ρ and its rounding 1e-16/ρ meet at 1e-8, times condition and cancellation
              let limit = if method.Name = "nystrom" then 1e-5 else 1e-6
              within group name limit (relative h (known.Exact state.Theta state.Lambda))) ]

let private againstCpu (known: Problems.Known) (onCpu: Problems.Known) =
    [ for name, method in exact known.Size @ approximate do
          let name = $"{known.Name}, {name}: CPU"

          attempt group name (fun () ->
              let at known =
                  let problem, state = solved known
                  let h, _, _ = (Hypergradient.at problem state method).Parts
                  h

              within group name 1e-6 (relative (at known) (at onCpu))) ]

let all (device: torch.Device) : Outcome list =
    List.zip (Problems.all device) (Problems.all torch.CPU)
    |> List.collect (fun (known, onCpu) -> againstClosedForm known @ againstCpu known onCpu)
