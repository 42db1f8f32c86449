/// `check`: whether this machine's libtorch does on a device what the library expects of it.
module Sama.Tool.Check

open System
open System.IO
open System.Text.Encodings.Web
open System.Text.Json
open System.Text.Json.Serialization
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

/// Bytes in use after a group of checks.
type private Memory = { After: string; Bytes: int64 }

let private print (groups: (string * Outcome list) list) =
    for group, outcomes in groups do
        let passed = outcomes |> List.filter _.Passed |> List.length

        let worst =
            outcomes
            |> List.choose (fun o ->
                if o.Error.HasValue then
                    Some(o.Error.Value, o.Limit.Value)
                else
                    None)

        let tail =
            match worst with
            | [] -> ""
            | errors ->
                let error, limit = errors |> List.maxBy (fun (error, limit) -> error / limit)
                $", worst error {error:E1} of {limit:E0}"

        printfn $"{group}: {passed} of {outcomes.Length}{tail}"

        for o in outcomes do
            if not o.Passed then
                let error =
                    if o.Error.HasValue then
                        $"error {o.Error.Value:E2}, limit {o.Limit.Value:E0}"
                    else
                        ""

                printfn $"  FAILED {o.Name}: {error}{o.Detail}"
            elif o.Detail <> "" then
                printfn $"  {o.Name}: {o.Detail}"

let private options =
    JsonSerializerOptions(
        WriteIndented = true,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals
    )

/// The groups of checks by name.
let private groups: (string * (torch.Device -> Outcome list)) list =
    [ "operations", Operations.all
      "masks", Masks.all
      "algorithms", Algorithms.all
      "training", Training.all ]

/// Runs every check and table on the device of that name, prints a summary, writes all of it as json where asked.
/// True if every check passed. ArgumentException for no such device, InvalidOperationException where libtorch has no CUDA.
let run (device: string) (json: string option) : bool =
    Native.initialize ()
    let description = Native.describe ()
    printfn $"{description}\n"
    let on = Native.device device

    let outcomes, memory =
        List.unzip
            [ for name, checks in groups do
                  let outcomes = checks on
                  print (outcomes |> List.groupBy _.Group)

                  outcomes,
                  { After = name
                    Bytes = Speed.memory on } ]

    let outcomes, speed = List.concat outcomes, Speed.all on
    printfn ""

    for row in speed do
        let rate =
            if Double.IsNaN row.Rate then
                ""
            else
                $"{row.Rate, 10:F1} {row.Unit}"

        printfn $"{row.Name, -26}{row.Size, 14}{row.Milliseconds, 12:F4} ms{rate}"

    for entry in memory do
        printfn $"memory after {entry.After}: {float entry.Bytes / 1e6:F0} MB"

    let failed = outcomes |> List.filter (fun o -> not o.Passed) |> List.length

    let report =
        {| Device = device
           Native = description
           Passed = outcomes.Length - failed
           Failed = failed
           Checks = outcomes
           Speed = speed
           Memory = memory |}

    json
    |> Option.iter (fun path -> File.WriteAllText(path, JsonSerializer.Serialize(report, options) + "\n"))

    printfn $"\ncheck on {device}: {outcomes.Length - failed} passed, {failed} failed"
    failed = 0
