namespace Sama.Functional

open System
open System.IO
open System.Runtime.InteropServices
open System.Text.RegularExpressions
open TorchSharp
open Sama

/// The native library: allocator and OpenMP settings, and libtorch from where the user has it.
module Native =

    [<DllImport("libc", EntryPoint = "setenv")>]
    extern int private setEnvironment(string name, string value, int overwrite)

    [<DllImport("libc", EntryPoint = "mallopt")>]
    extern int private setAllocator(int parameter, int value)

    [<DllImport("libc")>]
    extern nativeint private dlopen(nativeint path, int mode)

    [<DllImport("libc")>]
    extern nativeint private dlerror()

    // M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: glibc otherwise returns large blocks to the kernel at every free
    let private allocatorSettings = [ -3, 1 <<< 30; -1, Int32.MaxValue; -2, 64 <<< 20 ]

    let private settings () =
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

    /// What to do about an error of the dynamic loader.
    let internal advice (error: string) : string =
        if Regex.IsMatch(error, "version `(GLIBCXX|CXXABI)_") then
            "the C++ runtime is too old: libstdc++ of GCC 13.2 or later is needed (Debian 13, Ubuntu 24.04, Fedora 39). As root on Debian: add the trixie suite and run 'apt-get install -t trixie libstdc++6'. Without root: put a newer libstdc++.so.6 (conda's libstdcxx-ng has one) in a folder and name it in LD_LIBRARY_PATH"
        elif error.Contains "undefined symbol" then
            $"the libraries are of different versions: TorchSharp {NativeSearch.binding} was built for libtorch {NativeSearch.built}"
        elif error.Contains "cannot open shared object file" then
            "a library that it needs is missing: install it, or name its folder in LD_LIBRARY_PATH"
        else
            $"TorchSharp {NativeSearch.binding} with libtorch {NativeSearch.built} is known to work"

    // RTLD_LAZY; RTLD_NOW, to which a missing symbol is an error and not the end of the process at its first use;
    // RTLD_NOLOAD
    let private lazily = 1
    let private now = 2
    let private ifLoaded = 4

    /// A handle, or what the dynamic loader says.
    let private tryLoad (mode: int) (path: string) : Result<nativeint, string> =
        // .NET asks the loader itself to bind an import at its first call, which clears the error: both are bound first
        // (the name 0 is the program's own and always loads), and no marshaller stands between them
        dlopen (0n, lazily) |> ignore
        dlerror () |> ignore
        let name = Marshal.StringToCoTaskMemUTF8 path
        let handle = dlopen (name, mode)

        let error =
            if handle = 0n then
                Marshal.PtrToStringUTF8(dlerror ())
            else
                null

        Marshal.FreeCoTaskMem name

        if handle = 0n then
            error |> Option.ofObj |> Option.defaultValue "no reason given" |> Error
        else
            Ok handle

    let private load mode path =
        match tryLoad mode path with
        | Ok handle -> handle
        | Error error -> raise (DllNotFoundException $"{path} does not load: {error}\n{advice error}")

    // libtorch's libraries in the order in which they need each other
    let private libraries =
        [ "libc10.so", true
          "libtorch_cpu.so", true
          "libc10_cuda.so", false
          "libtorch_cuda.so", false
          "libtorch.so", true ]

    /// Libraries of libtorch, CUDA and TorchSharp in memory.
    let private inMemory () =
        File.ReadLines "/proc/self/maps"
        |> Seq.map (fun line -> Regex.Match(line, @"/\S.*$").Value)
        |> Seq.filter (fun path -> Regex.IsMatch(path, @"/lib(torch|c10|LibTorchSharp|gomp|cu|nv)[^/]*\.so"))
        |> Seq.distinct
        |> List.ofSeq

    [<UnmanagedFunctionPointer(CallingConvention.Cdecl)>]
    type private AbiVersion = delegate of unit -> uint64

    /// major.minor.patch in the three highest bytes of a number
    let private versionOf (library: nativeint) =
        match NativeLibrary.TryGetExport(library, "aoti_torch_abi_version") with
        | true, address ->
            let code = Marshal.GetDelegateForFunctionPointer<AbiVersion>(address).Invoke()
            $"{code >>> 56}.{code >>> 48 &&& 255UL}.{code >>> 40 &&& 255UL}"
        | _ -> "unknown"

    let private mismatch (version: string) =
        if version.StartsWith(NativeSearch.built + ".") then
            null
        else
            $"version mismatch: TorchSharp {NativeSearch.binding} was built for libtorch {NativeSearch.built}, the one that is known to work with it; this one is of version {version}"

    let private warn version =
        mismatch version
        |> Option.ofObj
        |> Option.iter (fun what -> eprintfn $"Sama: {what}")

    type private Loaded =
        { Source: string
          Folder: string
          Version: string }

    /// TorchSharp itself loads by name, first from the application's folder: a second libtorch would end the process.
    let private requireAlone (places: Places) (folder: string) =
        for beside in places.Application do
            let path = Path.Combine(beside, "libtorch_cpu.so")

            if File.Exists path && tryLoad (lazily ||| ifLoaded) path |> Result.isError then
                invalidOp
                    $"'{folder}' is to be loaded, but TorchSharp would load {path} as well: build the application without a native package (here: -p:SamaNative=none), or delete libtorch*.so and libc10*.so beside it"

    let private loadAll (places: Places) : Loaded =
        let found = NativeSearch.libtorch places
        let binding = NativeSearch.torchSharp places found
        let folder = NativeSearch.gather found

        let handles =
            dict
                [ for name, required in libraries do
                      let path = Path.Combine(folder, name)

                      if required || File.Exists path then
                          name, load lazily path ]

        let version = versionOf handles["libtorch_cpu.so"]
        warn version
        load now binding |> ignore
        requireAlone places folder

        { Source = found.Origin
          Folder = folder
          Version = version }

    /// A libtorch that was in memory before this module was asked for one.
    let private earlier (places: Places) (path: string) : Loaded =
        if places.Named.IsSome then
            invalidOp
                $"{path} is in memory already, '{places.Named.Value}' cannot replace it: call Native.initialize before the first use of torch"

        { Source = "loaded by TorchSharp before Native.initialize"
          Folder = Path.GetDirectoryName path
          Version = versionOf (load lazily path) }

    let private guard = obj ()
    let mutable private state: (string option * Lazy<Loaded>) option = None

    let private prepare (folder: string option) : Loaded option =
        lock guard (fun () ->
            match state with
            | Some(before, loaded) ->
                if folder.IsSome && folder <> before then
                    invalidOp
                        $"libtorch was loaded from '{loaded.Value.Folder}' before; '{folder.Value}' cannot replace it in this process"

                Some loaded.Value
            | None when not (OperatingSystem.IsLinux()) ->
                if (NativeSearch.places folder).Named.IsSome then
                    raise (PlatformNotSupportedException "a folder of libtorch can be named on Linux alone")

                None
            | None ->
                let first =
                    lazy
                        (settings ()
                         let places = NativeSearch.places folder

                         match inMemory () |> List.tryFind _.EndsWith("/libtorch_cpu.so") with
                         | Some path -> earlier places path
                         | None -> loadAll places)

                // a failure is kept, and is the answer to every later call
                state <- Some(folder, first)
                Some first.Value)

    /// Settings that must be made before libtorch loads, then libtorch itself: call it first in a program; a second call
    /// does nothing. libtorch is searched in this order: the folder that SAMA_LIBTORCH names; the CUDA package, then the
    /// CPU package, beside the application; the same two in NuGet's cache; an installed PyTorch (VIRTUAL_ENV,
    /// CONDA_PREFIX). TorchSharp's binding to it is taken from the application's folder, libtorch's or NuGet's cache.
    /// `SAMA_KEEP_ALLOCATOR=1` leaves glibc's allocator alone. Elsewhere than on Linux TorchSharp's own search stands.
    /// FileNotFoundException if the folder named holds no libtorch; DllNotFoundException if there is none at all, or one
    /// does not load: it quotes the loader, which names the missing library, symbol or version, and says what to do;
    /// InvalidOperationException if another libtorch lies beside the application, which TorchSharp would load as well.
    let initialize () : unit = prepare None |> ignore

    /// `initialize` with the libtorch of that folder (of an installed PyTorch: torch/lib), whatever SAMA_LIBTORCH says.
    /// InvalidOperationException if another one was loaded before.
    let initializeFrom (folder: string) : unit =
        if String.IsNullOrEmpty folder then
            invalidArg (nameof folder) "a folder of libtorch's libraries is needed"

        prepare (Some(Path.GetFullPath folder)) |> ignore

    /// What was loaded, from where, its version and devices; it loads libtorch first if nothing has yet, with the
    /// exceptions of `initialize`.
    let describe () : NativeDescription =
        let loaded = prepare None
        let version = loaded |> Option.map _.Version |> Option.defaultValue "unknown"

        let devices =
            if torch.cuda.is_available () then
                List.init (torch.cuda.device_count ()) NativeDevices.cuda
            else
                []

        { Version = version
          BuiltFor = NativeSearch.built
          Origin = loaded |> Option.map _.Source |> Option.defaultValue "found by TorchSharp"
          Folder = loaded |> Option.map _.Folder |> Option.defaultValue ""
          Libraries = if loaded.IsSome then inMemory () else []
          Devices = NativeDevices.processor () :: devices
          Mismatch = if loaded.IsSome then mismatch version else null }

    /// The device of a name, as options have it: cpu, cuda, which is cuda:0, or cuda:N. ArgumentException for another name, and for a
    /// device that this libtorch does not have.
    let device (name: string) : torch.Device =
        ArgumentNullException.ThrowIfNull(name, nameof name)

        let cuda (number: int) =
            let count =
                if torch.cuda.is_available () then
                    torch.cuda.device_count ()
                else
                    0

            if count = 0 then
                raise (
                    ArgumentException
                        $"device {name}: this libtorch has no CUDA device; SAMA_LIBTORCH names the folder of one that has (of an installed PyTorch: torch/lib)"
                )

            if number >= count then
                raise (ArgumentException $"device {name}: there are {count} CUDA devices, from cuda:0 on")

            torch.device $"cuda:{number}"

        match name.Split ':' with
        | [| "cpu" |] -> torch.CPU
        | [| "cuda" |] -> cuda 0
        | [| "cuda"; number |] when Seq.forall Char.IsAsciiDigit number && fst (Int32.TryParse number) ->
            cuda (int number)
        | _ -> raise (ArgumentException $"device {name}: cpu, cuda or cuda:N is expected")
