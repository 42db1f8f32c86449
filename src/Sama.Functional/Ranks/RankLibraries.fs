namespace Sama.Functional

open System
open System.Collections.Concurrent
open System.IO
open System.Reflection
open System.Runtime.InteropServices

/// Native libraries that ranks load where they are first needed, under names of their own.
module internal RankLibraries =

    [<DllImport("libc")>]
    extern nativeint private dlopen(string path, int mode)

    [<DllImport("libc")>]
    extern nativeint private dlerror()

    // RTLD_NOW and RTLD_GLOBAL: plug-ins look symbols of Open MPI's up
    let private mode = 0x102

    let private handles = ConcurrentDictionary<string, nativeint>()

    // an assembly has one resolver
    let private resolve =
        lazy
            NativeLibrary.SetDllImportResolver(
                Assembly.GetExecutingAssembly(),
                DllImportResolver(fun name _ _ ->
                    match handles.TryGetValue name with
                    | true, handle -> handle
                    | _ -> 0n)
            )

    /// The first of these files that loads; once. DllNotFoundException with `explain` of the loader's words.
    let load (name: string) (files: string list) (explain: string -> string) : nativeint =
        let rec first files reasons =
            match files with
            | [] ->
                let reasons = String.Join("; ", List.rev reasons)
                raise (DllNotFoundException(explain reasons))
            | file :: others ->
                match dlopen (file, mode) with
                | 0n -> first others (Marshal.PtrToStringUTF8(dlerror ()) :: reasons)
                | handle -> handle

        resolve.Force()

        match handles.TryGetValue name with
        | true, handle -> handle
        | _ ->
            let handle = first files []
            handles[name] <- handle
            handle

    /// The file that an environment variable names, alone, or the usual ones. FileNotFoundException for a file that is not
    /// there.
    let named (variable: string) (usual: string list) : string list =
        match Environment.GetEnvironmentVariable variable with
        | null
        | "" -> usual
        | path when not (File.Exists path) ->
            raise (FileNotFoundException($"{variable} names '{path}', where no file is", path))
        | path -> [ path ]
