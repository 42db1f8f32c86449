namespace Sama.Functional

open System
open System.IO
open System.Runtime.InteropServices

/// The native library: allocator and OpenMP settings, and libtorch from a folder of the user's choice.
module Native =

    [<DllImport("libc", EntryPoint = "setenv")>]
    extern int private setEnvironment(string name, string value, int overwrite)

    [<DllImport("libc", EntryPoint = "mallopt")>]
    extern int private setAllocator(int parameter, int value)

    // M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: glibc otherwise returns large blocks to the kernel at every free
    let private allocatorSettings = [ -3, 1 <<< 30; -1, Int32.MaxValue; -2, 64 <<< 20 ]

    let private libraries =
        [ "libc10.so", true
          "libtorch_cpu.so", true
          "libc10_cuda.so", false
          "libtorch_cuda.so", false
          "libtorch.so", true
          "libLibTorchSharp.so", true ]

    /// Loads libtorch from `folder` in the order its libraries need each other.
    /// FileNotFoundException names the library that is missing.
    let loadFrom (folder: string) : unit =
        for name, required in libraries do
            let path = Path.Combine(folder, name)

            if File.Exists path then
                NativeLibrary.Load path |> ignore
            elif required then
                raise (
                    FileNotFoundException(
                        $"'{folder}' holds no {name}; SAMA_LIBTORCH must name a libtorch folder",
                        path
                    )
                )

    let private prepare =
        lazy
            (if OperatingSystem.IsLinux() then
                 try
                     // idle OpenMP threads otherwise spin; only a C-level setenv reaches libgomp
                     setEnvironment ("OMP_WAIT_POLICY", "PASSIVE", 0) |> ignore

                     if Environment.GetEnvironmentVariable "SAMA_KEEP_ALLOCATOR" <> "1" then
                         for parameter, value in allocatorSettings do
                             setAllocator (parameter, value) |> ignore
                 with
                 | :? DllNotFoundException
                 | :? EntryPointNotFoundException ->
                     eprintfn "Sama: this C library takes no allocator settings; going on without"

                 match Environment.GetEnvironmentVariable "SAMA_LIBTORCH" with
                 | null
                 | "" -> ()
                 | folder -> loadFrom folder)

    /// Settings that must be made before libtorch loads: call it first in a program. A second call does nothing.
    /// `SAMA_LIBTORCH` names a libtorch folder; `SAMA_KEEP_ALLOCATOR=1` leaves glibc's allocator alone.
    let initialize () : unit = prepare.Force()
