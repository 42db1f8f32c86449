/// Faults that a run has to survive, one row a fault.
module Sama.Benchmarks.Faults.Bench

open System
open System.Diagnostics
open System.IO
open System.Threading
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks.Faults

/// Three levels, one of whose losses is NaN at one of its steps under the first seed.
let private failing policy (level: string) : BilevelProblem =
    let part (levels: Levels) name = levels[name].["x"]

    let own name size (loss: Levels -> Tensor) =
        Level.general name [ "x", torch.ones [| size |] ] (adam 0.01) id (fun _ levels (draw: Draw) ->
            if name = level && draw.Step = 2L && draw.Seed = 1L then
                loss levels * Scalar.op_Implicit nan
            else
                loss levels)

    Problem.create
        { BilevelOptions.Default with
            Unroll = 2
            NonFinite = policy }
        Hypergradient.sama
        [ own "low" 4L (fun levels ->
              (part levels "low" - (part levels "mid").sum ()).square().sum ()
              * (part levels "top").exp().mean ())
          own "mid" 3L (fun levels -> ((part levels "low").sum () - part levels "mid").square().sum ())
          own "top" 2L (fun levels -> (part levels "mid").sum().square () + (part levels "top").square().sum ()) ]

let private guarded policy level (options: GuardOptions) (judge: GuardedRun -> exn -> string option) : string option =
    let folder = Directory.CreateTempSubdirectory("nan-").FullName

    try
        use run =
            GuardedRun.FromSeed(
                failing policy level,
                1L,
                { options with
                    Folder = folder
                    Every = 1L }
            )

        let raised =
            try
                run.RunTo(30L, CancellationToken.None)
                null
            with e ->
                e

        judge run raised
    finally
        Directory.Delete(folder, true)

/// What went wrong, or nothing.
let private nan (level: string) : (string * string option) list =
    let ends (run: GuardedRun) (raised: exn) =
        if not (isNull raised) then
            Some raised.Message
        elif run.Run.StepsTaken <> 30L then
            Some $"it ended at step {run.Run.StepsTaken}"
        else
            None

    [ "stop",
      guarded NonFinitePolicy.Stop level GuardOptions.Default (fun run raised ->
          match raised with
          | :? NonFiniteException as e when e.Message.Contains $"'{level}'" ->
              use found =
                  Resume.latest (Path.GetDirectoryName(string e.Data["Sama.Checkpoint"])) run.Run.Problem

              use own = run.Run.Snapshot()

              if found.State.Step = own.Step && found.State.Theta.Equals own.Theta then
                  None
              else
                  Some "the checkpoint is not the last good step"
          | null -> Some "nothing was raised"
          | e -> Some e.Message)
      "skip", guarded NonFinitePolicy.Skip level GuardOptions.Default ends
      "skip up to 2",
      guarded
          NonFinitePolicy.Skip
          level
          { GuardOptions.Default with
              SkipAtMost = Nullable 2 }
          ends
      "skip up to 0",
      guarded
          NonFinitePolicy.Skip
          level
          { GuardOptions.Default with
              SkipAtMost = Nullable 0 }
          (fun _ raised ->
              match raised with
              | :? InvalidOperationException as e when e.Message.Contains $"'{level}'" -> None
              | null -> Some "nothing was raised"
              | e -> Some e.Message)
      "back, with another seed",
      guarded
          NonFinitePolicy.Stop
          level
          { GuardOptions.Default with
              Rollbacks = 1 }
          (fun run raised ->
              if run.RollbacksTaken = 1 then
                  ends run raised
              else
                  Some $"it went back {run.RollbacksTaken} times") ]

let private nans () : Row list =
    [ for level in [ "low"; "mid"; "top" ] do
          for policy, wrong in nan level do
              { Kind = "nan"
                Case = $"level '{level}', {policy}"
                Passed = wrong.IsNone
                Detail = Option.defaultValue "as it should" wrong } ]

let private resident () =
    use own = Process.GetCurrentProcess()
    own.WorkingSet64

/// Live tensors and memory over so many steps, a checkpoint every hundredth.
let private leak (steps: int64) (subject: string) : Row =
    let folder = Directory.CreateTempSubdirectory("leak-").FullName

    try
        use run =
            GuardedRun.FromSeed(
                Subjects.find subject,
                7L,
                { GuardOptions.Default with
                    Folder = folder
                    Every = 100L }
            )

        let collected () =
            GC.Collect()
            GC.WaitForPendingFinalizers()
            torch.Tensor.TotalCount, resident ()

        // whole windows of 2 and 5
        run.RunTo(steps / 50L * 10L, CancellationToken.None)
        let live, memory = collected ()
        run.RunTo(steps / 50L * 50L, CancellationToken.None)
        let liveNow, memoryNow = collected ()
        let grown = float (memoryNow - memory) / 1048576.0

        { Kind = "leak"
          Case = subject
          Passed = live = liveNow && grown < 32.0
          Detail = $"{steps} steps: {live} live tensors, then {liveNow}; {grown:F1} MB more resident memory" }
    finally
        Directory.Delete(folder, true)

/// Everything, or a little of everything; the exit code.
let run (full: bool) (seed: int) (write: Row list -> unit) : int =
    let random = Random seed
    let subjects = Subjects.all |> List.map fst
    let kills = if full then 200 else 2 * subjects.Length
    let share = (kills + subjects.Length - 1) / subjects.Length

    let told (rows: Row list) =
        for row in rows do
            let word = if row.Passed then "passed" else "FAILED"
            printfn $"{row.Kind, -7} {word}  {row.Case}: {row.Detail}"

        rows

    let rows =
        [ yield! told (nans ())
          yield! told (Damages.run random (if full then 500 else 60))
          for subject in [ "sama, adam"; "unrolled, adam, K = 5"; "three levels" ] do
              yield! told [ leak (if full then 10_000L else 500L) subject ]
          for subject in subjects do
              yield! told (Kills.run random subject share)
          yield! told (Kills.fullDisk "sama, adam") ]

    write rows
    let failed = rows |> List.filter (fun row -> not row.Passed)
    printfn $"{rows.Length - failed.Length} of {rows.Length} passed"
    if failed.IsEmpty then 0 else 1
