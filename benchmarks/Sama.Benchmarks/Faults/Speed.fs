/// What a checkpoint costs, beside the disk's own speed.
module Sama.Benchmarks.Faults.Speed

open System
open System.Diagnostics
open System.IO
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks

/// One way to write the same bytes.
type Row =
    {
        Way: string
        Bytes: int64
        Seconds: float
        MegabytesPerSecond: float
        /// beside what was allocated before
        PeakExtraBytes: Nullable<int64>
    }

let private row way bytes (seconds: float) extra =
    { Way = way
      Bytes = bytes
      Seconds = seconds
      MegabytesPerSecond = float bytes / 1e6 / seconds
      PeakExtraBytes = extra }

let private dd (path: string) (bytes: int64) : float =
    let info = ProcessStartInfo("dd", RedirectStandardError = true)

    for word in
        [ "if=/dev/zero"
          $"of={path}"
          "bs=4M"
          $"count={bytes / 4194304L}"
          "conv=fsync" ] do
        info.ArgumentList.Add word

    let watch = Stopwatch.StartNew()
    use copying = Process.Start info
    copying.WaitForExit()
    watch.Elapsed.TotalSeconds

let private problem (parameters: int64) : BilevelProblem =
    Problem.create
        BilevelOptions.Default
        Hypergradient.sama
        [ Level.create "base" [ "w", torch.randn [| parameters / 1000L; 1000L |] ] (sgd 0.1) id (fun _ theta lambda _ ->
              theta["w"].square().mean () * lambda["x"].sum ())
          Level.create "meta" [ "x", torch.ones 1L ] (sgd 0.1) id (fun _ theta _ _ -> theta["w"].mean ()) ]

/// Three rounds of each, in turn: a state of 10⁸ parameters and dd with fsync, in the temporary folder.
let run (write: Row list -> unit) : int =
    let folder = Directory.CreateTempSubdirectory("speed-").FullName

    try
        let problem = problem 100_000_000L
        use state = Bilevel.start 1L problem
        let path = Path.Combine(folder, "state.safetensors")

        let rows =
            [ for _ in 1..3 do
                  let watch = Stopwatch.StartNew()
                  let peak = Memory.measure (fun () -> Checkpoint.save path state)
                  let seconds = watch.Elapsed.TotalSeconds
                  let bytes = FileInfo(path).Length
                  row "save" bytes seconds (Nullable peak.PeakTensorBytes)
                  row "dd with fsync" bytes (dd (path + ".dd") bytes) (Nullable())
                  let watch = Stopwatch.StartNew()
                  (Checkpoint.load problem path).Dispose()
                  row "load" bytes watch.Elapsed.TotalSeconds (Nullable()) ]

        for r in rows do
            let extra =
                if r.PeakExtraBytes.HasValue then
                    $", {float r.PeakExtraBytes.Value / 1e6:F1} MB extra"
                else
                    ""

            printfn $"{r.Way, -14} {r.Seconds:F2} s, {r.MegabytesPerSecond:F0} MB/s{extra}"

        write rows
        0
    finally
        Directory.Delete(folder, true)
