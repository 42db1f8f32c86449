/// This program's measurements as processes of their own.
module Sama.Benchmarks.Children

open System
open System.Diagnostics
open System.IO
open System.Reflection

/// A measurement, as a command: under `dotnet` this library itself, whoever called it; within the published tool, which is one
/// file, a command of it. Its output is read by whoever starts it.
let command (words: string list) : ProcessStartInfo =
    let own = Assembly.GetExecutingAssembly().Location

    let alone =
        own <> "" && File.Exists(Path.ChangeExtension(own, ".runtimeconfig.json"))

    let host =
        if alone && Path.GetFileNameWithoutExtension Environment.ProcessPath <> "dotnet" then
            "dotnet"
        else
            Environment.ProcessPath

    ProcessStartInfo(
        host,
        (if alone then own else "bench") :: words,
        RedirectStandardOutput = true,
        RedirectStandardError = true
    )
