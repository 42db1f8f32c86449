namespace Sama.Functional

open System
open System.IO
open System.Security.Cryptography
open System.Text

/// Where the native libraries may lie on Linux.
type internal Places =
    {
        /// given in code or by SAMA_LIBTORCH
        Named: string option
        /// where the host looks for the application's own native libraries
        Application: string list
        /// NuGet's packages
        Cache: string
        /// Python environments
        Pythons: string list
    }

/// A libtorch: what it was found as, and the folders that hold it.
type internal FoundLibrary =
    { Origin: string; Folders: string list }

/// The search for libtorch and for TorchSharp's binding to it: folders alone, nothing is loaded.
module internal NativeSearch =

    /// TorchSharp's version and the libtorch it was built for.
    let binding, built = "0.107.0", "2.10"

    let private cpu, cuda, bound =
        "libtorch_cpu.so", "libtorch_cuda.so", "libLibTorchSharp.so"

    let private holds (library: string) (folder: string) =
        File.Exists(Path.Combine(folder, library))

    let private variable name =
        Environment.GetEnvironmentVariable name
        |> Option.ofObj
        |> Option.filter ((<>) "")

    let private home =
        Environment.GetFolderPath(Environment.SpecialFolder.UserProfile, Environment.SpecialFolderOption.DoNotVerify)

    /// The places of this process.
    let places (folder: string option) : Places =
        let hosted =
            match AppContext.GetData "NATIVE_DLL_SEARCH_DIRECTORIES" with
            | :? string as folders -> folders.Split(':', StringSplitOptions.RemoveEmptyEntries) |> List.ofArray
            | _ -> []

        { Named = folder |> Option.orElse (variable "SAMA_LIBTORCH")
          Application = List.distinct (AppContext.BaseDirectory :: hosted)
          Cache =
            variable "NUGET_PACKAGES"
            |> Option.defaultValue (Path.Combine(home, ".nuget", "packages"))
          Pythons = List.choose variable [ "VIRTUAL_ENV"; "CONDA_PREFIX" ] }

    let private folders (parent: string) pattern =
        if Directory.Exists parent then
            Directory.GetDirectories(parent, pattern) |> Array.sort |> List.ofArray
        else
            []

    /// Folders of native libraries of the packages whose names fit; of several versions the last that fits.
    let private packages cache pattern version =
        [ for package in folders cache pattern do
              yield!
                  folders package version
                  |> List.map (fun version -> Path.Combine(version, "runtimes", "linux-x64", "native"))
                  |> List.filter Directory.Exists
                  |> List.tryLast
                  |> Option.toList ]

    let private named (folder: string) =
        match [ folder; Path.Combine(folder, "lib") ] |> List.tryFind (holds cpu) with
        | Some found ->
            { Origin = "the folder named"
              Folders = [ found ] }
        | None ->
            raise (
                FileNotFoundException(
                    $"'{folder}' holds no {cpu}; the folder given in code or by SAMA_LIBTORCH is one of libtorch's libraries (of an installed PyTorch: torch/lib)",
                    Path.Combine(folder, cpu)
                )
            )

    /// The first libtorch in the order: folder named, CUDA then CPU beside the application, CUDA then CPU in NuGet's
    /// packages, an installed PyTorch. FileNotFoundException if the folder named holds none, DllNotFoundException with
    /// the places that were searched if there is none at all.
    let libtorch (places: Places) : FoundLibrary =
        let beside library what =
            places.Application
            |> List.tryFind (fun folder -> holds cpu folder && holds library folder)
            |> Option.map (fun folder ->
                { Origin = $"{what} package beside the application"
                  Folders = [ folder ] })

        let cached pattern library what =
            let all = packages places.Cache pattern (built + "*")

            if List.exists (holds library) all && List.exists (holds cpu) all then
                Some
                    { Origin = $"{what} package in NuGet's cache"
                      Folders = all }
            else
                None

        let installed () =
            [ for prefix in places.Pythons do
                  for python in folders (Path.Combine(prefix, "lib")) "python3*" do
                      Path.Combine(python, "site-packages", "torch", "lib") ]
            |> List.tryFind (holds cpu)
            |> Option.map (fun folder ->
                { Origin = "an installed PyTorch"
                  Folders = [ folder ] })

        let search =
            [ fun () -> Option.map named places.Named
              fun () -> beside cuda "the CUDA"
              fun () -> beside cpu "the CPU"
              fun () -> cached "libtorch-cuda-*-linux-x64*" cuda "the CUDA"
              fun () -> cached "libtorch-cpu-linux-x64" cpu "the CPU"
              installed ]

        match List.tryPick (fun look -> look ()) search with
        | Some found -> found
        | None ->
            let application = String.Join(", ", places.Application)

            raise (
                DllNotFoundException
                    $"no libtorch was found: set SAMA_LIBTORCH to its folder (of an installed PyTorch: torch/lib), or add the package TorchSharp-cpu. Searched: {application}, {places.Cache}, VIRTUAL_ENV, CONDA_PREFIX"
            )

    /// TorchSharp's binding: beside the application, where TorchSharp finds it too, beside libtorch, in TorchSharp's package.
    /// DllNotFoundException if there is none.
    let torchSharp (places: Places) (libtorch: FoundLibrary) : string =
        let candidates =
            places.Application
            @ libtorch.Folders
            @ packages places.Cache "torchsharp" binding

        match List.tryFind (holds bound) candidates with
        | Some folder -> Path.Combine(folder, bound)
        | None ->
            raise (
                DllNotFoundException
                    $"{bound} of TorchSharp {binding} was found neither beside the application nor beside libtorch nor in {places.Cache}"
            )

    /// One folder for libraries that look for each other beside themselves ($ORIGIN): their own, or, for a package in
    /// parts, one of links under the user's data.
    let gather (found: FoundLibrary) : string =
        match found.Folders with
        | [ folder ] -> folder
        | several ->
            let name =
                String.Join("\n", several)
                |> Encoding.UTF8.GetBytes
                |> SHA256.HashData
                |> Convert.ToHexString

            let data = Path.Combine(home, ".local", "share")
            let target = Path.Combine(data, "sama", "libtorch-" + name.Substring(0, 16))
            Directory.CreateDirectory target |> ignore

            for folder in several do
                for library in Directory.GetFiles(folder, "*.so*") do
                    let link = Path.Combine(target, Path.GetFileName library)

                    if not (File.Exists link) then
                        File.CreateSymbolicLink(link, library) |> ignore

            target
