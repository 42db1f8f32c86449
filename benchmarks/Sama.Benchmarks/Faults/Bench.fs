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

/// What a loss is at a bad step.
type private Fault =
    /// that number, so many steps in a row
    | Number of value: float * steps: int64
    /// a tensor that no machine has room for
    | Memory
    /// an exception of the user's own
    | Delegate

/// Three levels, one of whose losses fails at one of its steps under the first seed.
let private failing policy (fault: Fault) (level: string) : BilevelProblem =
    let part (levels: Levels) name = levels[name].["x"]

    let own name size (loss: Levels -> Tensor) =
        Level.general name [ "x", torch.ones [| size |] ] (adam 0.01) id (fun _ levels (draw: Draw) ->
            match fault with
            | _ when name <> level || draw.Seed <> 1L || draw.Step < 2L -> loss levels
            | Number(value, steps) when draw.Step < 2L + steps -> loss levels * Scalar.op_Implicit value
            | Memory when draw.Step = 2L -> torch.zeros (1L <<< 50)
            | Delegate when draw.Step = 2L -> raise (TimeoutException "gone")
            | _ -> loss levels)

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

let private guarded policy fault level (options: GuardOptions) (judge: GuardedRun -> exn -> string option) =
    let folder = Directory.CreateTempSubdirectory("nan-").FullName

    try
        use run =
            GuardedRun.FromSeed(
                failing policy fault level,
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

let private ends (run: GuardedRun) (raised: exn) : string option =
    if not (isNull raised) then
        Some raised.Message
    elif run.Run.StepsTaken <> 30L then
        Some $"it ended at step {run.Run.StepsTaken}"
    else
        None

/// It stopped by such an exception, which names the level, and left its last good step.
let private stops<'e when 'e :> exn> (level: string) (run: GuardedRun) (raised: exn) : string option =
    match raised with
    | :? 'e as e when e.Message.Contains $"'{level}'" || e.Data["Sama.Level"] = box level ->
        use found =
            Resume.latest (Path.GetDirectoryName(string e.Data["Sama.Checkpoint"])) run.Run.Problem

        use own = run.Run.Snapshot()

        if found.State.Step = own.Step && found.State.Theta.Equals own.Theta then
            None
        else
            Some "the checkpoint is not the last good step"
    | null -> Some "nothing was raised"
    | e -> Some e.Message

let private wentBack (run: GuardedRun) (raised: exn) : string option =
    if run.RollbacksTaken = 1 then
        ends run raised
    else
        Some $"it went back {run.RollbacksTaken} times"

let private skipping (limit: int) =
    { GuardOptions.Default with
        SkipAtMost = Nullable limit }

/// Every policy at one number that is not finite, and what no policy passes over; what went wrong, or nothing.
let private policies (level: string) : (string * string option) list =
    let skip, stop = NonFinitePolicy.Skip, NonFinitePolicy.Stop
    let back options = { options with Rollbacks = 1 }

    [ for name, value in [ "NaN", nan; "infinite", infinity ] do
          let once = Number(value, 1L)
          $"{name}, stop", guarded stop once level GuardOptions.Default (stops<NonFiniteException> level)
          $"{name}, skip", guarded skip once level GuardOptions.Default ends
          $"{name}, skip up to 2", guarded skip once level (skipping 2) ends
          $"{name}, skip up to 0", guarded skip once level (skipping 0) (stops<InvalidOperationException> level)
          $"{name}, back, with another seed", guarded stop once level (back GuardOptions.Default) wentBack
          $"{name}, skip up to 0, then back", guarded skip once level (back (skipping 0)) wentBack

      if level = "low" then
          // levels above it do not step often enough for a row
          let thrice = Number(nan, 3L)
          "three NaN, skip up to 3", guarded skip thrice level (skipping 3) ends
          "three NaN, skip up to 2", guarded skip thrice level (skipping 2) (stops<InvalidOperationException> level)
          "three NaN, skip up to 2, then back", guarded skip thrice level (back (skipping 2)) wentBack

      for policy in [ stop; skip ] do
          $"no memory, {policy}",
          guarded policy Memory level (back GuardOptions.Default) (stops<InvalidOperationException> level)

          $"a delegate's exception, {policy}",
          guarded policy Delegate level (back GuardOptions.Default) (stops<TimeoutException> level) ]

let private nans () : Row list =
    [ for level in [ "low"; "mid"; "top" ] do
          for policy, wrong in policies level do
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
                    Every = 100L
                    Telemetry = TelemetryOptions(JsonLines = Path.Combine(folder, "run.jsonl")) }
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

/// What is tried, by name.
let private families (full: bool) (random: Random) : (string * (unit -> Row list)) list =
    let subjects = Subjects.all |> List.map fst
    let kills = if full then 200 else 2 * subjects.Length
    let share = (kills + subjects.Length - 1) / subjects.Length

    [ "nan", nans
      "damage", (fun () -> Damages.run random (if full then 500 else 60))
      "damage, metagradient", (fun () -> Damages.ofTrainings random (if full then 150 else 30))
      for subject in [ "sama, adam"; "unrolled, adam, K = 5"; "three levels" ] do
          $"leak, {subject}", (fun () -> [ leak (if full then 10_000L else 500L) subject ])
      for subject in subjects @ Trainings.all do
          $"kill, {subject}", (fun () -> Kills.run random subject share)
      "kill, full disk", (fun () -> Kills.fullDisk "sama, adam") ]

/// Everything, or a little of everything, of families whose names hold `only`; the exit code.
let run (full: bool) (only: string option) (seed: int) (write: Row list -> unit) : int =
    let all = families full (Random seed)

    let chosen =
        all
        |> List.filter (fun (name, _) -> only |> Option.forall (fun (only: string) -> name.Contains only))

    if chosen.IsEmpty then
        let known = String.Join("; ", List.map fst all)
        invalidArg (nameof only) $"no family's name holds '{only.Value}'; there are: {known}"

    let rows =
        [ for _, find in chosen do
              for row in find () do
                  let word = if row.Passed then "passed" else "FAILED"
                  printfn $"{row.Kind, -7} {word}  {row.Case}: {row.Detail}"
                  row ]

    write rows
    let failed = rows |> List.filter (fun row -> not row.Passed)
    printfn $"{rows.Length - failed.Length} of {rows.Length} passed"
    if failed.IsEmpty then 0 else 1
