/// A training process that may die at any moment, and its end as a file.
module Sama.Benchmarks.Faults.Child

open System
open System.Diagnostics
open System.IO
open System.Threading
open Sama
open Sama.Functional
open Sama.Benchmarks
open Sama.Benchmarks.Faults

/// Steps that a run takes, and between its checkpoints: windows of 2 and 5 are cut.
let steps, every = 151L, 3L

let private options folder =
    { GuardOptions.Default with
        Folder = folder
        Every = every
        Keep = 2 }

/// Where a run that came to its end leaves its state.
let final (folder: string) : string =
    Path.Combine(folder, "final.safetensors")

let private ready () =
    Console.Out.WriteLine "ready"
    Console.Out.Flush()

/// A guarded run: goes on from the newest checkpoint there, or from the start; ready behind its first step.
let private guard (subject: string) (folder: string) =
    let problem = Subjects.find subject
    use found = Resume.latest folder problem

    use guarded =
        if isNull found then
            GuardedRun.FromSeed(problem, 7L, options folder)
        else
            new GuardedRun(problem, found.State, options folder)

    if guarded.Run.StepsTaken < steps then
        guarded.Step() |> ignore

    ready ()
    guarded.RunTo(steps, CancellationToken.None)
    use state = guarded.Run.Snapshot()
    Checkpoint.save (final folder) state

/// `subject|folder`; says "ready" once it is under way.
let run (row: string) : int =
    let words = row.Split '|'
    let subject, folder = words[0], words[1]

    match Trainings.subject subject with
    | Some problem -> Trainings.find problem folder ready (final folder)
    | None -> guard subject folder

    0

/// Starts one and waits until it is ready. Its error output is kept.
let start (subject: string) (folder: string) : Process * Tasks.Task<string> =
    let child =
        Process.Start(Children.command [ "faults-child"; "--row"; $"{subject}|{folder}" ])

    let errors = child.StandardError.ReadToEndAsync()
    child.StandardOutput.ReadLine() |> ignore
    child, errors

/// Runs to its end. InvalidOperationException with what it said if it failed; the time behind "ready".
let finish (subject: string) (folder: string) : TimeSpan =
    let child, errors = start subject folder
    use child = child
    let watch = Stopwatch.StartNew()
    child.WaitForExit()

    if child.ExitCode <> 0 then
        raise (InvalidOperationException $"'{subject}' ended with {child.ExitCode}: {errors.Result}")

    watch.Elapsed
