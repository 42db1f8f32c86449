/// Metagradients whose process may die at any moment, their states in a folder.
module Sama.Benchmarks.Faults.Trainings

open System
open System.IO
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks.Faults

let private prefix = "metagradient, "

/// Base steps, and states that are kept: few, so that many are written.
let steps = 151

let options (folder: string) : MetagradientOptions =
    { MetagradientOptions.Default with
        Memory = 1
        Disk = 4
        Folder = folder }

/// Names of subjects whose trainings are reversed.
let all: string list =
    [ for name in [ "sama, adam"; "sama, sgd with momentum"; "sama, adam, 150,000 parameters" ] -> prefix + name ]

/// The problem of such a subject, of a name with another beginning none.
let subject (name: string) : BilevelProblem option =
    if name.StartsWith prefix then
        Some(Subjects.find (name.Substring prefix.Length))
    else
        None

let private said (final: string) = final + ".txt"

/// The metagradient from the folder's states, and what it is, as a file; beside it, whether the folder held something.
let find (problem: BilevelProblem) (folder: string) (ready: unit -> unit) (final: string) : unit =
    use _ = torch.NewDisposeScope()
    use start = Bilevel.start 7L problem
    // what is compiled once is no part of it
    (Metagradient.ofTraining problem start 2).Dispose()
    ready ()
    use found = Metagradient.ofTrainingWith (options folder) problem start steps
    use loss = torch.tensor (found.Loss, dtype = torch.float64)
    File.WriteAllText(said final, $"{found.Report.Resumed} {found.Report.Taken}")

    Safetensors.Save(
        final,
        [ struct ("lambda", found.Lambda)
          struct ("theta", found.Theta)
          struct ("loss", loss) ]
    )

/// Whether the last call went on from a folder, and the base steps that it took.
let report (final: string) : bool * int64 =
    let words = File.ReadAllText(said final).Split ' '
    Boolean.Parse words[0], Int64.Parse words[1]

/// States that a folder holds, each read whole.
let requireWhole (problem: BilevelProblem) (folder: string) : int =
    let places = Directory.GetFiles(folder, "place-*.safetensors")

    for path in places do
        (Checkpoint.load problem path).Dispose()

    places.Length
