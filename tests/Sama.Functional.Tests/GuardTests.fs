/// Runs that survive: checkpoints at steps, skipped steps, ways back, cancellation, signals.
module Sama.Tests.GuardTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "guard-"

    try
        body (Path.Combine(folder.FullName, "run"))
    finally
        folder.Delete true

/// A problem one of whose losses is NaN where `bad` says.
let private failing policy (bad: string -> Draw -> bool) =
    let spoil name (pass: Pass) (loss: Tensor) =
        if bad name pass.Draw then loss * nan else loss

    Problem.create
        { unrollBy 2 with NonFinite = policy }
        Hypergradient.sama
        [ Level.create "base" [ "w", torch.ones (3L, dtype = f64) ] (adam 0.1) id (fun pass theta lambda _ ->
              spoil "base" pass ((square theta["w"] * lambda["x"]).sum ()))
          Level.create "meta" [ "x", torch.ones (3L, dtype = f64) ] (sgd 0.1) id (fun pass theta _ _ ->
              spoil "meta" pass (square(theta["w"]).sum ())) ]

let private sound = failing NonFinitePolicy.Stop (fun _ _ -> false)

let private options folder =
    { GuardOptions.Default with
        Folder = folder
        Every = 3L }

let private state (run: GuardedRun) =
    use own = run.Run.Snapshot()
    own.Step, own.Theta.data<float>().ToArray(), own.Lambda.data<float>().ToArray()

let private throws<'e, 'result when 'e :> exn> (words: string list) (action: unit -> 'result) : exn =
    try
        action () |> ignore
        failtest "nothing was raised"
    with
    | :? 'e as e ->
        for word in words do
            Expect.stringContains e.Message word ""

        e :> exn
    | :? AssertException -> reraise ()
    | e -> failtest $"{e}"

let tests =
    testList
        "guarded runs"
        [ testCase "the last checkpoints stay, the newest whole one is taken, and others are named"
          <| fun () ->
              inFolder (fun folder ->
                  use run = GuardedRun.FromSeed(sound, 1L, options folder)
                  run.RunTo(14L, CancellationToken.None)

                  let names =
                      Checkpoints.files folder
                      |> List.map (fun path -> Path.GetFileName(path).TrimStart("step-0".ToCharArray()))

                  Expect.equal names [ "14.safetensors"; "12.safetensors"; "9.safetensors" ] ""
                  let newest = (Checkpoints.files folder).Head
                  File.WriteAllBytes(newest, (File.ReadAllBytes newest)[..999])
                  use found = Resume.latest folder sound
                  Expect.equal (found.State.Step, found.Skipped.Count) (12L, 1) ""
                  Expect.stringContains found.Skipped[0] newest ""

                  for path in Checkpoints.files folder do
                      File.WriteAllText(path, "")

                  throws<InvalidDataException, _> [ "whole" ] (fun () -> Resume.latest folder sound)
                  |> ignore

                  Expect.isNull (Resume.latest (folder + "-absent") sound) "")

          testCase "what a killed writer left is removed, other files are not"
          <| fun () ->
              inFolder (fun folder ->
                  Directory.CreateDirectory folder |> ignore

                  let left =
                      Path.Combine(folder, $"step-000000000003.safetensors.{Guid.NewGuid():N}.tmp")

                  let own = Path.Combine(folder, "notes.tmp")
                  File.WriteAllText(left, "half")
                  File.WriteAllText(own, "mine")
                  use run = GuardedRun.FromSeed(sound, 1L, options folder)
                  run.RunTo(3L, CancellationToken.None)
                  Expect.equal (File.Exists left, File.Exists own) (false, true) "")

          testCase "NaN at each level: stop leaves the last good step as a checkpoint, and says where"
          <| fun () ->
              for level, step in [ "base", 4L; "meta", 2L ] do
                  inFolder (fun folder ->
                      let problem =
                          failing NonFinitePolicy.Stop (fun name draw -> name = level && draw.Step = step)

                      use run = GuardedRun.FromSeed(problem, 1L, options folder)

                      let e =
                          throws<NonFiniteException, _> [ $"'{level}'" ] (fun () ->
                              run.RunTo(9L, CancellationToken.None))

                      Expect.equal (unbox<int64> e.Data["Sama.Step"]) run.Run.StepsTaken ""
                      use found = Resume.latest folder problem
                      Expect.equal found.Info.Path (string e.Data["Sama.Checkpoint"]) ""
                      Expect.equal found.State.Step run.Run.StepsTaken "")

          testCase "NaN at each level: skip, and skip up to two in a row"
          <| fun () ->
              for level in [ "base"; "meta" ] do
                  let bad name (draw: Draw) =
                      name = level && draw.Step >= 2L && draw.Step < 5L

                  let problem = failing NonFinitePolicy.Skip bad
                  use all = GuardedRun.FromSeed(problem, 1L, GuardOptions.Default)
                  all.RunTo(12L, CancellationToken.None)
                  Expect.equal all.Run.StepsTaken 12L ""

              let bad name (draw: Draw) =
                  name = "base" && draw.Step >= 2L && draw.Step < 5L

              let limited n =
                  GuardedRun.FromSeed(
                      failing NonFinitePolicy.Skip bad,
                      1L,
                      { GuardOptions.Default with
                          SkipAtMost = Nullable n }
                  )

              use three = limited 3
              three.RunTo(12L, CancellationToken.None)
              use two = limited 2

              throws<InvalidOperationException, _> [ "3 steps in a row"; "'base'" ] (fun () ->
                  two.RunTo(12L, CancellationToken.None))
              |> ignore

          testCase "back to the last checkpoint with another seed, as often as allowed"
          <| fun () ->
              inFolder (fun folder ->
                  // the first seed alone meets it
                  let problem =
                      failing NonFinitePolicy.Stop (fun name draw -> name = "base" && draw.Step = 5L && draw.Seed = 1L)

                  use run = GuardedRun.FromSeed(problem, 1L, { options folder with Rollbacks = 1 })
                  run.RunTo(9L, CancellationToken.None)
                  use ended = run.Run.Snapshot()
                  Expect.equal (run.RollbacksTaken, ended.Step, ended.Seed = 1L) (1, 9L, false) "")

              inFolder (fun folder ->
                  let seeds = Collections.Generic.HashSet<int64>()

                  let problem =
                      failing NonFinitePolicy.Stop (fun name draw ->
                          seeds.Add draw.Seed |> ignore
                          name = "base" && draw.Step = 5L)

                  use run = GuardedRun.FromSeed(problem, 1L, { options folder with Rollbacks = 2 })

                  throws<NonFiniteException, _> [ "'base'" ] (fun () -> run.RunTo(9L, CancellationToken.None))
                  |> ignore

                  Expect.equal (run.RollbacksTaken, seeds.Count) (2, 3) "a seed for each try")

          testCase "a step that a user's delegate breaks off is a checkpoint of the one before, and goes on"
          <| fun () ->
              inFolder (fun folder ->
                  let mutable broken = true

                  let problem =
                      failing NonFinitePolicy.Stop (fun name draw ->
                          if broken && name = "base" && draw.Step = 4L then
                              invalidOp "the disk is gone"

                          false)

                  use run = GuardedRun.FromSeed(problem, 1L, options folder)

                  throws<InvalidOperationException, _> [ "the disk is gone" ] (fun () ->
                      run.RunTo(8L, CancellationToken.None))
                  |> ignore

                  broken <- false
                  use found = Resume.latest folder problem
                  use again = new GuardedRun(problem, found.State, options folder)
                  again.RunTo(8L, CancellationToken.None)
                  use whole = GuardedRun.FromSeed(sound, 1L, GuardOptions.Default)
                  whole.RunTo(8L, CancellationToken.None)
                  Expect.equal (state again) (state whole) "bit for bit")

          testCase "a cancelled run ends with the checkpoint of its last step"
          <| fun () ->
              inFolder (fun folder ->
                  use source = new CancellationTokenSource()

                  let problem =
                      failing NonFinitePolicy.Stop (fun _ draw ->
                          if draw.Step = 4L then
                              source.Cancel()

                          false)

                  use run = GuardedRun.FromSeed(problem, 1L, options folder)

                  throws<OperationCanceledException, _> [] (fun () -> run.RunTo(9L, source.Token))
                  |> ignore

                  use found = Resume.latest folder problem
                  Expect.equal found.State.Step 5L "")

          testCase "SIGTERM cancels the token and does not end the process"
          <| fun () ->
              use signal = new StopSignal()
              use kill = Process.Start("kill", $"-TERM {Environment.ProcessId}")
              kill.WaitForExit()
              Expect.isTrue (signal.Token.WaitHandle.WaitOne 30_000) ""

          testCase "options out of range are refused by name"
          <| fun () ->
              for wrong, word in
                  [ { GuardOptions.Default with
                        Every = -1L },
                    "Every"
                    { GuardOptions.Default with Keep = 0 }, "Keep"
                    { GuardOptions.Default with
                        SkipAtMost = Nullable 1 },
                    "NonFinite"
                    { GuardOptions.Default with
                        Rollbacks = 1 },
                    "Folder" ] do
                  throws<ArgumentException, _> [ word ] (fun () -> GuardedRun.FromSeed(sound, 1L, wrong))
                  |> ignore ]
