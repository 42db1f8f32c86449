/// Times and memory on the device: not checks, tables to read.
module Sama.Tool.Speed

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

/// One measurement.
type Row =
    {
        Name: string
        Size: string
        Milliseconds: float
        /// GB/s or Gflop/s
        Rate: float
        Unit: string
    }

let private synchronize (device: torch.Device) =
    if device.``type`` = DeviceType.CUDA then
        torch.cuda.synchronize device

/// Least of five times of `body`, in milliseconds, each over enough runs to last 20 ms.
let private time (device: torch.Device) (body: unit -> unit) : float =
    let run count =
        synchronize device
        let clock = Stopwatch.StartNew()

        for _ in 1..count do
            Scope.run (fun _ -> body ())
            Scope.sweep 0L 0L

        synchronize device
        clock.Elapsed.TotalMilliseconds / float count

    run 1 |> ignore
    let count = max 1 (int (20.0 / max 1e-3 (run 1)))
    List.init 5 (fun _ -> run count) |> List.min

let private bandwidth device name (length: int64) passes bytes body =
    let milliseconds = time device body

    { Name = name
      Size = $"{length:N0}"
      Milliseconds = milliseconds
      Rate = float length * float (bytes * passes) / milliseconds / 1e6
      Unit = "GB/s" }

/// Kernels on the flat vectors of θ: passes over memory are what they cost.
let private vectors (device: torch.Device) (length: int64) =
    let vector seed =
        normal seed device torch.float32 [| length |]

    let theta, g, v = vector 1, vector 2, vector 3
    let layout = Layout.create [ "theta", [| length |] ]
    let rule = UpdateRule.bind layout (adam 1e-3)
    let state = rule.Init theta

    let u = torch.zeros_like theta

    // the vectors that each reads and writes, if it were one kernel
    [ bandwidth device "copy" length 2 4 (fun () -> u.copy_ v |> ignore)
      bandwidth device "‖v‖ in float64" length 1 4 (fun () -> Flat.norm v |> ignore)
      bandwidth device "Adam, one step" length 6 4 (fun () -> rule.InPlace.Advance state g theta u |> ignore)
      bandwidth device "Adam's adaptation of a copy" length 7 4 (fun () ->
          u.copy_ v |> ignore
          rule.InPlace.AdaptInto state g theta u) ]

let private products (device: torch.Device) (dtype: torch.ScalarType) (size: int64) =
    let a, b =
        normal 1 device dtype [| size; size |], normal 2 device dtype [| size; size |]

    let milliseconds = time device (fun () -> a.mm b |> ignore)

    { Name = $"matrix product, {dtype}"
      Size = $"{size} x {size}"
      Milliseconds = milliseconds
      Rate = 2.0 * float size ** 3.0 / milliseconds / 1e6
      Unit = "Gflop/s" }

/// A launch: what an operation costs before its data do.
let private launch (device: torch.Device) =
    let x = torch.ones (16L, device = device)

    { Name = "one small operation"
      Size = "16"
      Milliseconds =
        time device (fun () ->
            for _ in 1..100 do
                x.add (scalar 1.0) |> ignore)
        / 100.0
      Rate = nan
      Unit = "" }

let all (device: torch.Device) : Row list =
    let cuda = device.``type`` = DeviceType.CUDA

    let lengths =
        if cuda then
            [ 1_000_000L; 110_000_000L ]
        else
            [ 1_000_000L ]

    let size = if cuda then 8192L else 512L

    Scope.run (fun _ ->
        [ launch device
          for length in lengths do
              yield! Scope.run (fun _ -> vectors device length)
          for dtype in [ torch.float32; torch.bfloat16 ] do
              Scope.run (fun _ -> products device dtype size) ])

[<DllImport("libcuda.so.1")>]
extern int private cuMemGetInfo_v2(unativeint& free, unativeint& total)

/// Bytes in use: on CUDA the whole device's, as its driver counts them; on the CPU this process's greatest so far.
let memory (device: torch.Device) : int64 =
    if device.``type`` = DeviceType.CUDA then
        let mutable free, total = 0un, 0un
        synchronize device

        if cuMemGetInfo_v2 (&free, &total) <> 0 then
            invalidOp "CUDA's driver does not tell its memory"

        int64 (total - free)
    else
        File.ReadLines "/proc/self/status"
        |> Seq.tryFind _.StartsWith("VmHWM:")
        |> Option.map (fun line -> 1024L * int64 (line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]))
        |> Option.defaultValue 0L
