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

/// Rounds that count; one more before them lets the disk find its blocks, which takes several times as long on a sparse one.
let private rounds = 5

let private median (values: float seq) =
    (Seq.sort values |> Array.ofSeq)[Seq.length values / 2]

/// A state of 10⁸ parameters and dd with fsync into a file that is then moved, as a checkpoint is, in turn in the temporary
/// folder. Exit code 1 where the median speed of a save is below half of dd's in the same round.
let run (write: Row list -> unit) : int =
    let folder = Directory.CreateTempSubdirectory("speed-").FullName

    try
        let problem = problem 100_000_000L
        use state = Bilevel.start 1L problem
        let path = Path.Combine(folder, "state.safetensors")
        let copy = Path.Combine(folder, "dd")

        let round _ =
            let watch = Stopwatch.StartNew()
            let peak = Memory.measure (fun () -> Checkpoint.save path state)
            let seconds = watch.Elapsed.TotalSeconds
            let bytes = FileInfo(path).Length
            let plain = dd (copy + ".part") bytes
            File.Move(copy + ".part", copy, true)
            let watch = Stopwatch.StartNew()
            (Checkpoint.load problem path).Dispose()

            [ row "save" bytes seconds (Nullable peak.PeakTensorBytes)
              row "dd with fsync" bytes plain (Nullable())
              row "load" bytes watch.Elapsed.TotalSeconds (Nullable()) ]

        let found = List.init (rounds + 1) round |> List.tail
        let rows = List.concat found

        for r in rows do
            let extra =
                if r.PeakExtraBytes.HasValue then
                    $", {float r.PeakExtraBytes.Value / 1e6:F1} MB extra"
                else
                    ""

            printfn $"{r.Way, -14} {r.Seconds:F2} s, {r.MegabytesPerSecond:F0} MB/s{extra}"

        let share =
            median [ for round in found -> round[0].MegabytesPerSecond / round[1].MegabytesPerSecond ]

        printfn $"save: {100.0 * share:F0} %% of dd's speed in the median of {rounds} rounds"
        write rows
        if share >= 0.5 then 0 else 1
    finally
        Directory.Delete(folder, true)
