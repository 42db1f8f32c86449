/// Random masks on the device: fixed by their draw.
module Sama.Tool.Masks

open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

let private draw step =
    { Seed = 3L
      Step = step
      Stream = 0
      Rank = 0 }

let all (device: torch.Device) : Outcome list =
    let mask step =
        Draw.masks (draw step) (fun () -> torch.nn.functional.dropout (torch.ones (4096L, device = device), 0.5, true))

    let check name body =
        attempt "masks" name (fun () -> holds "masks" name "" (body ()))

    [ check "the same draw gives the same mask" (fun () ->
          let first = mask 1L
          torch.rand (16L, device = device) |> ignore
          (mask 1L).Equals first)
      check "another draw gives another mask" (fun () -> not ((mask 2L).Equals(mask 1L)))
      check "about half is kept" (fun () ->
          abs ((mask 1L).ne(scalar 0.0).to_type(torch.float64).mean().item<float> () - 0.5) < 0.05)
      check "the CPU's generator is left as it was" (fun () ->
          use before = torch.get_rng_state ()
          mask 1L |> ignore
          use after = torch.get_rng_state ()
          after.Equals before) ]
