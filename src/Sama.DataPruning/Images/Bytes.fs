namespace Sama.DataPruning

open System
open System.IO
open Sama.DataOptimization

/// Files of bytes.
module internal Bytes =

    let bad (file: string) (reason: string) : 'a =
        raise (DataException(file, Nullable(), null, reason, null))

    /// The files of a folder by name, in the order of their names.
    let files (folder: string) (keep: string -> bool) : string[] =
        Directory.GetFiles folder
        |> Array.filter (fun path -> keep (Path.GetFileName(path).ToLowerInvariant()))
        |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b))
