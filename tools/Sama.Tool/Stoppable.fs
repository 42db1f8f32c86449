/// A command that Ctrl+C stops, and whose mistakes are told.
module Sama.Tool.Stoppable

open System
open System.IO
open System.Threading
open Argu
open Sama.DataOptimization

/// Entries between commas.
let list (text: string) : string[] =
    text.Split(',', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries)

/// Exit code: what `work` gives, 2 for bad options or files, 130 if it was stopped; other exceptions are the caller's.
let run (name: string) (work: CancellationToken -> int) : int =
    use source = new CancellationTokenSource()

    let stop =
        ConsoleCancelEventHandler(fun _ pressed ->
            pressed.Cancel <- true
            source.Cancel())

    Console.CancelKeyPress.AddHandler stop

    try
        try
            work source.Token
        with
        | :? OperationCanceledException ->
            eprintfn $"{name}: stopped; the same command with --resume goes on"
            130
        | :? ArguParseException as e ->
            eprintfn $"{e.Message}"
            if e.ErrorCode = ErrorCode.HelpText then 0 else 2
        | :? DataException as e ->
            eprintfn $"{name}: {e.Message}"
            2
        | :? InvalidDataException as e ->
            eprintfn $"{name}: {e.Message}"
            2
    finally
        Console.CancelKeyPress.RemoveHandler stop
