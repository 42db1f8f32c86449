namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.IO
open System.Security.Cryptography
open System.Text

/// The folder that a run writes: `written` are the names of the files and folders in it, and `state/` holds what is trained until
/// these are there; `mark` is the file in `state/` that only such a run makes. Nothing that the run reads is overwritten, and
/// no `state/` of another's is removed.
[<Sealed>]
type OutFolder(path: string, written: IReadOnlyList<string>, mark: string) =
    do
        if String.IsNullOrEmpty path then
            raise (ArgumentException "--out is needed: a folder to write to")

        Check.notNull (nameof written) written
        Check.notNull (nameof mark) mark

    let inside (name: string) = Path.Combine(path, name)
    let state = inside "state"

    let full (path: string) =
        Path.TrimEndingDirectorySeparator(Path.GetFullPath path)

    /// It is that path, or lies in it.
    let covers (path: string) (other: string) =
        let path, other = full path, full other
        other = path || other.StartsWith(path + string Path.DirectorySeparatorChar)

    /// The folder of the state.
    member _.State = state

    /// The path of what is written under a name.
    member _.At(name: string) : string = inside name

    /// What the run reads, each path with the option that names it, is not written or removed; `--out` is no file, and what is
    /// called state in it is a run's. ArgumentException otherwise, naming both.
    member _.Require(read: IEnumerable<KeyValuePair<string, string>>) : unit =
        Check.notNull (nameof read) read

        Check.that "--out" (not (File.Exists path)) (fun () ->
            $"--out {path} is a file: name a folder, which is made if it is not there")

        for entry in read do
            if not (String.IsNullOrEmpty entry.Value) then
                for name in Seq.append written [ "state" ] do
                    Check.that "--out" (not (covers (inside name) entry.Value)) (fun () ->
                        $"{entry.Key} {entry.Value} would be overwritten by {inside name}: name another folder to write to")

        Check.that
            "--out"
            (not (Directory.Exists state)
             || File.Exists(Path.Combine(state, mark))
             || Seq.isEmpty (Directory.EnumerateFileSystemEntries state))
            (fun () ->
                $"{state} is not what an interrupted run left, and would be removed: name another folder to write to, or move it")

    /// Names of `written` that are there and not among those of this run: an earlier run's, or another's.
    member _.Older(own: IReadOnlyList<string>) : string[] =
        Check.notNull (nameof own) own

        written |> Seq.except own |> Seq.filter (inside >> Path.Exists) |> Array.ofSeq

    /// SHA-256, in hexadecimal digits, of the names and contents of a folder's own files: what a state that is made of them
    /// belongs to. DirectoryNotFoundException.
    static member Digest(folder: string) : string =
        Check.notNull (nameof folder) folder
        use sha = IncrementalHash.CreateHash HashAlgorithmName.SHA256

        for file in
            Directory.GetFiles folder
            |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b)) do
            use stream = File.OpenRead file
            sha.AppendData(Encoding.UTF8.GetBytes $"{Path.GetFileName file} {stream.Length}\n")
            sha.AppendData(SHA256.HashData stream)

        Convert.ToHexString(sha.GetHashAndReset())

    /// Makes the state's folder; what an earlier run left there is removed unless this one goes on from it. IOException.
    member _.Begin(goesOn: bool) : unit =
        if not goesOn && Directory.Exists state then
            Directory.Delete(state, true)

        Directory.CreateDirectory state |> ignore

    /// Removes the state, once everything is written.
    member _.End() : unit = Directory.Delete(state, true)
