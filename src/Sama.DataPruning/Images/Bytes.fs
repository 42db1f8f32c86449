namespace Sama.DataPruning

open System
open System.IO
open System.IO.Compression
open Sama.DataOptimization

/// Files of bytes, gzipped where the name ends in .gz.
module internal Bytes =

    let bad (file: string) (reason: string) : 'a =
        raise (DataException(file, Nullable(), null, reason, null))

    let read (path: string) : byte[] =
        if path.EndsWith(".gz", StringComparison.OrdinalIgnoreCase) then
            use file = File.OpenRead path
            use stream = new GZipStream(file, CompressionMode.Decompress)
            use whole = new MemoryStream()

            try
                stream.CopyTo whole
            with :? InvalidDataException as e ->
                bad path $"no valid gzip ({e.Message})"

            whole.ToArray()
        else
            File.ReadAllBytes path

    /// The files of a folder by name, in the order of their names.
    let files (folder: string) (keep: string -> bool) : string[] =
        Directory.GetFiles folder
        |> Array.filter (fun path -> keep (Path.GetFileName(path).ToLowerInvariant()))
        |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b))
