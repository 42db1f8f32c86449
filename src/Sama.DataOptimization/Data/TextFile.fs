namespace Sama.DataOptimization

open System
open System.IO
open System.IO.Compression
open System.Text
open System.Text.Unicode

/// Whole files of UTF-8 text, gzipped where the name ends in .gz; at most 2 GB unpacked.
module internal TextFile =

    let bad file line column reason : 'a =
        raise (DataException(file, line, column, reason, null))

    let private zipped (path: string) =
        path.EndsWith(".gz", StringComparison.OrdinalIgnoreCase)

    /// The name's ending without .gz, in lower case.
    let kind (path: string) =
        Path.GetExtension(if zipped path then path[.. path.Length - 4] else path).ToLowerInvariant()

    /// A file, or its .gz, unpacked. DataException where that is no whole gzip, FileNotFoundException.
    let bytes (path: string) : byte[] =
        let path =
            if not (File.Exists path) && File.Exists(path + ".gz") then
                path + ".gz"
            else
                path

        if not (File.Exists path) then
            raise (FileNotFoundException($"{path} does not exist", path))

        let found = File.ReadAllBytes path

        if zipped path then
            try
                Gzip.unpack found
            with :? InvalidDataException as e ->
                raise (DataException(path, Nullable(), null, $"no valid gzip ({e.Message})", e))
        else
            found

    /// The line, from 1, of the first bytes that are not UTF-8. A line break is never part of a longer sequence.
    let private badLine (bytes: byte[]) =
        let rec search line (first: int) =
            let next = Array.IndexOf(bytes, 10uy, first)
            let count = (if next < 0 then bytes.Length else next) - first

            if next < 0 || not (Utf8.IsValid(ReadOnlySpan(bytes, first, count))) then
                line
            else
                search (line + 1) (next + 1)

        search 1 0

    /// The text without a byte order mark. DataException where it is not UTF-8 or empty, FileNotFoundException where it
    /// is not there.
    let read (path: string) : string =
        let bytes = bytes path

        if not (Utf8.IsValid(ReadOnlySpan bytes)) then
            bad path (Nullable(badLine bytes)) null "not UTF-8; convert the file first"

        let text = Encoding.UTF8.GetString bytes
        let text = if text.StartsWith '\uFEFF' then text[1..] else text

        if String.IsNullOrWhiteSpace text then
            bad path (Nullable()) null "the file is empty"

        text

    /// Writes by a temporary file beside it, so that a reader never sees half a file; missing folders are made.
    let write (path: string) (body: TextWriter -> unit) : unit =
        let path = Path.GetFullPath path
        Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore
        let temporary = path + ".partial"

        try
            do
                use file = File.Create temporary

                use stream: Stream =
                    if zipped path then
                        new GZipStream(file, CompressionLevel.Optimal)
                    else
                        file

                use writer = new StreamWriter(stream, UTF8Encoding false)
                writer.NewLine <- "\n"
                body writer

            File.Move(temporary, path, overwrite = true)
        finally
            File.Delete temporary
