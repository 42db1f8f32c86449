namespace Sama.Functional

open System
open System.IO
open System.Runtime.InteropServices
open Microsoft.Win32.SafeHandles

/// Files that are either whole or not there: written beside their place, flushed to the disk, renamed over it.
module AtomicFile =

    [<DllImport("libc", EntryPoint = "open", SetLastError = true)>]
    extern int private openFolder([<MarshalAs(UnmanagedType.LPUTF8Str)>] string path, int flags)

    [<DllImport("libc", SetLastError = true)>]
    extern int private fsync(int descriptor)

    [<DllImport("libc", EntryPoint = "close", SetLastError = true)>]
    extern int private closeFolder(int descriptor)

    /// A rename lasts only once the folder that holds the names is on the disk. Nothing on Windows, where no folder can
    /// be flushed; a file system that refuses is left to itself.
    let private flushFolder (folder: string) : unit =
        if not (OperatingSystem.IsWindows()) then
            let descriptor = openFolder (folder, 0)

            if descriptor >= 0 then
                fsync descriptor |> ignore
                closeFolder descriptor |> ignore

    /// A file in the folder of `path`, under a name that no other writer takes.
    let internal start (path: string) : string * SafeFileHandle =
        let full = Path.GetFullPath path
        let temporary = $"{full}.{Guid.NewGuid():N}.tmp"
        temporary, File.OpenHandle(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None)

    /// Closes the file and puts it in the place of `path`, durably.
    let internal finish (path: string) (temporary: string, handle: SafeFileHandle) : unit =
        RandomAccess.FlushToDisk handle
        handle.Dispose()
        let full = Path.GetFullPath path
        File.Move(temporary, full, true)
        flushFolder (Path.GetDirectoryName full)

    /// Closes and removes what was not finished.
    let internal abandon (temporary: string, handle: SafeFileHandle) : unit =
        handle.Dispose()
        File.Delete temporary

    /// The bytes at `path`, all of them or, after a failure, those that were there before.
    let write (path: string) (bytes: byte[]) : unit =
        let file = start path

        try
            RandomAccess.Write(snd file, ReadOnlySpan bytes, 0L)
            finish path file
        with _ ->
            abandon file
            reraise ()
