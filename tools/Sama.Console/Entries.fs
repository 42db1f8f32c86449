namespace Sama

open System

/// Entries on a command line.
module Entries =

    /// Entries between commas.
    let parse (text: string) : string[] =
        text.Split(',', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries)
