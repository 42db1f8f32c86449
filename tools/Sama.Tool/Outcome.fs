/// Outcomes of checks, and the tensors and distances that checks share.
module Sama.Tool.Outcome

open System
open TorchSharp
open Sama
open Sama.Functional

/// One check: its error against the limit that it must not pass, or what went wrong.
[<NoComparison>]
type Outcome =
    { Group: string
      Name: string
      Passed: bool
      Error: Nullable<float>
      Limit: Nullable<float>
      Detail: string }

let scalar (x: float) : Scalar = Scalar.op_Implicit x

/// Passed if the error is at most the limit; NaN is not.
let within group name limit error : Outcome =
    { Group = group
      Name = name
      Passed = (error <= limit)
      Error = Nullable error
      Limit = Nullable limit
      Detail = "" }

/// Passed if it is so.
let holds group name detail (is: bool) : Outcome =
    { Group = group
      Name = name
      Passed = is
      Error = Nullable()
      Limit = Nullable()
      Detail = detail }

/// A check in a scope of its own; an exception is a failure with its message.
let attempt group name (check: unit -> Outcome) : Outcome =
    try
        Scope.run (fun _ -> check ())
    with e ->
        holds group name $"{e.GetType().Name}: {e.Message}" false

/// Standard normal numbers, the same on every device.
let normal (seed: int) (device: torch.Device) (dtype: torch.ScalarType) (shape: int64[]) : Tensor =
    use generator = new torch.Generator(uint64 seed)
    torch.randn(shape, dtype = torch.float64, generator = generator).``to`` (dtype, device)

let private wide (x: Tensor) =
    x.detach().``to`` (torch.float64, torch.CPU)

/// max |a − b| / max |b|, and the numerator itself where b is 0.
let difference (a: Tensor) (b: Tensor) : float =
    Scope.run (fun _ ->
        let a, b = wide a, wide b

        if a.numel () = 0L && b.numel () = 0L then
            0.0
        else
            let largest = b.abs().max().item<float> ()
            (a - b).abs().max().item<float> () / (if largest > 0.0 then largest else 1.0))

/// ‖a − b‖/‖b‖
let relative (a: Tensor) (b: Tensor) : float =
    Scope.run (fun _ ->
        let a, b = wide a, wide b
        ((a - b).norm () / (b.norm () + 1e-300)).item<float> ())

/// a·b/(‖a‖‖b‖)
let cosine (a: Tensor) (b: Tensor) : float =
    Scope.run (fun _ ->
        let a, b = wide a, wide b
        (a.dot b / (a.norm () * b.norm () + 1e-300)).item<float> ())
