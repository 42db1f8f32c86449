/// Options of a script, and trainings that are kept in its report as they end, so that a later call goes on from them.
module Trainings

open System
open System.IO
open System.Text.Json
open MathNet.Numerics.Statistics

/// Says what is wrong, and ends the script.
let refuse (message: string) : 'a =
    eprintfn $"{Path.GetFileName fsi.CommandLineArgs[0]}: {message}"
    exit 1

/// What stands behind an option.
let option (name: string) : string option =
    match fsi.CommandLineArgs |> Array.tryFindIndex ((=) name) with
    | Some i when i + 1 < fsi.CommandLineArgs.Length -> Some fsi.CommandLineArgs[i + 1]
    | Some _ -> refuse $"{name} needs a value"
    | None -> None

let number (name: string) (least: int) (text: string) : int =
    match Int32.TryParse text with
    | true, value when value >= least -> value
    | _ -> refuse $"{name} {text}: a whole number of at least {least} is expected"

let count (name: string) (usual: int) : int =
    option name |> Option.map (number name 2) |> Option.defaultValue usual

type Training =
    {
        /// data, steps and the like: trainings of other settings are not mixed
        Settings: string
        Way: string
        Seed: int
        /// its place among those of its way and seed
        Number: int
        /// hyperparameters at its end
        Values: float[]
        ValidLoss: float
        TestError: float
        /// seconds of processor time
        Seconds: float
    }

let private report = option "--report"

let mutable private kept: Training list =
    [ match report with
      | Some path when File.Exists path ->
          for line in File.ReadAllLines path ->
              try
                  JsonSerializer.Deserialize<Training> line
              with :? JsonException as e ->
                  refuse $"{path} holds a line that is no training: {e.Message}"
      | _ -> () ]

for path in Option.toList report do
    if not (Directory.Exists(Path.GetDirectoryName(Path.GetFullPath path))) then
        refuse $"the folder of {path} does not exist"

/// The training of that way, seed and number: that of the report, or made now.
let once (settings: string) (way: string) (seed: int) (number: int) (make: unit -> Training) : Training =
    for other in kept |> List.filter (fun other -> other.Settings <> settings) do
        refuse $"--report {report.Value} is of '{other.Settings}', not of '{settings}': name another file"

    match kept |> List.tryFind (fun k -> (k.Way, k.Seed, k.Number) = (way, seed, number)) with
    | Some known -> known
    | None ->
        let training = make ()
        kept <- kept @ [ training ]

        // written beside its place, and moved there whole
        for path in Option.toList report do
            File.WriteAllLines(path + ".part", kept |> List.map JsonSerializer.Serialize)
            File.Move(path + ".part", path, true)

        eprintfn $"seed {seed}, {way} {number}: validation {training.ValidLoss:F3}, {training.Seconds:F1} s"
        training

/// Mean and standard deviation of several values, or the one.
let spread (format: string) (values: float list) =
    if values.Length = 1 then
        values.Head.ToString format
    else
        $"{(Statistics.Mean values).ToString format} ± {(Statistics.StandardDeviation values).ToString format}"
