/// Peak memory of one run, in a process of its own.
module Sama.Benchmarks.Memory

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Threading
open Sama.Functional

/// Bytes that glibc has handed out and not taken back.
let private allocated () : int64 = ProcessMemory.native().Value

/// Bytes of tensors at their peak, over what was allocated before, and the process's resident high-water mark.
type Peak =
    { PeakTensorBytes: int64
      PeakResidentBytes: int64 }

let private resident () : int64 =
    File.ReadLines "/proc/self/status"
    |> Seq.find _.StartsWith("VmHWM:")
    |> fun line ->
        int64 (line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries)[1])
        * 1024L

/// Runs `body`, sampling every millisecond.
let measure (body: unit -> unit) : Peak =
    let before = allocated ()
    let mutable peak = before
    use ended = new ManualResetEventSlim()

    let sampler =
        Thread(fun () ->
            while not (ended.Wait 1) do
                peak <- max peak (allocated ()))

    sampler.Start()

    try
        body ()
    finally
        ended.Set()
        sampler.Join()

    { PeakTensorBytes = peak - before
      PeakResidentBytes = resident () }

/// `measure` in a child process: this program, called with `bench memory` and a row's words.
let inChild (words: string list) : Peak =
    let start = Children.command [ "memory"; "--row"; String.Join('|', words) ]
    start.RedirectStandardError <- false
    use child = Process.Start start
    let output = child.StandardOutput.ReadToEnd()
    child.WaitForExit()

    if child.ExitCode <> 0 then
        invalidOp $"the measurement of {words} ended with code {child.ExitCode}"

    JsonSerializer.Deserialize<Peak>(output.Trim().Split('\n') |> Array.last)
