namespace Sama

open System
open System.IO
open System.Threading
open Argu
open Sama.DataOptimization

/// How a program ends: with 0, with 1 where its work failed, with 2 for options, or files that they name, that it cannot go
/// by, with 130 where it was stopped; and what it says then.
module Ending =

    let private said (name: string) (code: int) (message: string) : int =
        eprintfn $"{name}: {message}"
        code

    /// The exit code of `work`, or of what it raises, which is said on the error output. What is nobody's mistake but the
    /// program's is raised again.
    let told (name: string) (work: unit -> int) : int =
        try
            work ()
        with
        | :? ArguParseException as e ->
            // it begins with the mistake, and usage follows
            eprintfn $"{e.Message}"
            if e.ErrorCode = ErrorCode.HelpText then 0 else 2
        | :? ArgumentException
        | :? DataException
        | :? InvalidDataException
        | :? FileNotFoundException
        | :? DirectoryNotFoundException as e -> said name 2 e.Message
        | :? IOException
        | :? InvalidOperationException
        | :? UnauthorizedAccessException
        | :? DllNotFoundException as e -> said name 1 e.Message

    /// `told`, of work that ends where its token is cancelled, as Ctrl+C and SIGTERM do; `next` says what a user does to go on.
    let run (name: string) (next: string) (work: CancellationToken -> int) : int =
        told name (fun () ->
            use signal = new StopSignal()

            try
                work signal.Token
            with :? OperationCanceledException ->
                said name 130 $"stopped; {next}")
