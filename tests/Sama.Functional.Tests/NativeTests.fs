/// The search for libtorch on folders made here, the words for what the loader says, and the library of this process.
module Sama.Tests.NativeTests

open System
open System.IO
open Expecto
open TorchSharp
open Sama.Functional

/// Folders under a new root that hold empty files; removed afterwards.
let private within (files: string list) (body: (string -> string) -> unit) =
    let root = Directory.CreateTempSubdirectory("sama-native-").FullName
    let at path = Path.Combine(root, path)

    try
        for file in files do
            Directory.CreateDirectory(Path.GetDirectoryName(at file)) |> ignore
            File.WriteAllText(at file, "")

        body at
    finally
        Directory.Delete(root, true)

let private placesIn (at: string -> string) : Places =
    { Named = None
      Application = [ at "app" ]
      Cache = at "cache"
      Pythons = [ at "python" ] }

let private natives package =
    $"cache/{package}/runtimes/linux-x64/native"

let private cachedCpu = natives "libtorch-cpu-linux-x64/2.10.0"

let private part n =
    natives $"libtorch-cuda-12.8-linux-x64-part{n}/2.10.0"

/// Every place in the documented order: what it is called, its folders, and the files that make it one.
let private order =
    [ "the folder named", [ "named/lib" ], [ "named/lib/libtorch_cpu.so" ]
      "the CUDA package beside the application", [ "app" ], [ "app/libtorch_cuda.so"; "app/libtorch_cpu.so" ]
      "the CPU package beside the application", [ "app" ], [ "app/libtorch_cpu.so" ]
      "the CUDA package in NuGet's cache",
      [ part 1; part 2 ],
      [ part 1 + "/libtorch_cuda.so"; part 2 + "/libtorch_cpu.so" ]
      "the CPU package in NuGet's cache", [ cachedCpu ], [ cachedCpu + "/libtorch_cpu.so" ]
      "an installed PyTorch",
      [ "python/lib/python3.12/site-packages/torch/lib" ],
      [ "python/lib/python3.12/site-packages/torch/lib/libtorch_cpu.so" ] ]

let tests =
    testList
        "native"
        [ for i, (origin, folders, _) in List.indexed order do
              testCase $"{origin} comes before every later place"
              <| fun _ ->
                  let files = order |> List.skip i |> List.collect (fun (_, _, files) -> files)

                  within files (fun at ->
                      let named = if i = 0 then Some(at "named") else None
                      let found = NativeSearch.libtorch { placesIn at with Named = named }
                      Expect.equal found.Origin origin "origin"
                      Expect.equal found.Folders (List.map at folders) "folders")

          testCase "a folder named that holds no libtorch is refused by its name, whatever else there is"
          <| fun _ ->
              within [ cachedCpu + "/libtorch_cpu.so" ] (fun at ->
                  Expect.throwsC
                      (fun () ->
                          NativeSearch.libtorch
                              { placesIn at with
                                  Named = Some(at "elsewhere") }
                          |> ignore)
                      (function
                       | :? FileNotFoundException as e -> Expect.stringContains e.Message (at "elsewhere") ""
                       | e -> failtest $"{e}"))

          testCase "where there is no libtorch, the places that were searched are named"
          <| fun _ ->
              within [] (fun at ->
                  Expect.throwsC (fun () -> NativeSearch.libtorch (placesIn at) |> ignore) (function
                      | :? DllNotFoundException as e ->
                          for words in [ at "app"; at "cache"; "SAMA_LIBTORCH" ] do
                              Expect.stringContains e.Message words ""
                      | e -> failtest $"{e}"))

          testCase "libtorch of another version in NuGet's cache is passed over"
          <| fun _ ->
              let old = natives "libtorch-cpu-linux-x64/2.9.1"

              within [ old + "/libtorch_cpu.so"; cachedCpu + "/libtorch_cpu.so" ] (fun at ->
                  Expect.equal (NativeSearch.libtorch (placesIn at)).Folders [ at cachedCpu ] "")

          testCase "TorchSharp's binding: beside the application, beside libtorch, in its package"
          <| fun _ ->
              let package = natives $"torchsharp/{NativeSearch.binding}"
              let folders = [ "app"; "named"; package ]

              for i in 0..2 do
                  let files = [ for folder in List.skip i folders -> folder + "/libLibTorchSharp.so" ]

                  within files (fun at ->
                      let libtorch =
                          { Origin = ""
                            Folders = [ at "named" ] }

                      let expected = at $"{folders[i]}/libLibTorchSharp.so"
                      Expect.equal (NativeSearch.torchSharp (placesIn at) libtorch) expected "")

          for error, words in
              [ "libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by x.so)", "GCC 13.2"
                "x.so: undefined symbol: _ZN2at4add", "different versions"
                "libcudart.so.12: cannot open shared object file: No such file or directory", "missing" ] do
              testCase $"advice for '{error}'"
              <| fun _ -> Expect.stringContains (Native.advice error) words ""

          testCase "a device's name is one that this libtorch has, or is refused by name"
          <| fun _ ->
              let refused (words: string) (name: string) =
                  Expect.throwsC (fun () -> Native.device name |> ignore) (fun e ->
                      Expect.isTrue (e :? ArgumentException) $"{e}"
                      Expect.stringContains e.Message words name)

              Expect.equal (string (Native.device "cpu")) "cpu" "the processor"

              for name in
                  [ ""
                    "gpu"
                    "CPU"
                    "cpu:0:1"
                    "cuda:"
                    "cuda:-1"
                    "cuda:x"
                    "cuda:99999999999" ] do
                  refused $"device {name}: cpu, cuda or cuda:N" name

              if torch.cuda.is_available () then
                  Expect.equal (string (Native.device "cuda")) "cuda:0" "the first"
                  refused "device cuda:4096: there are" "cuda:4096"
              else
                  for name in [ "cuda"; "cuda:0" ] do
                      refused $"device {name}: this libtorch has no CUDA device" name

              Expect.throwsT<ArgumentNullException> (fun () -> Native.device null |> ignore) "null"

          testCase "the library of this process: TorchSharp's version is the one that is told of, libtorch fits it"
          <| fun _ ->
              let described = Native.describe ()
              let version = typeof<torch.Tensor>.Assembly.GetName().Version.ToString 3
              Expect.equal NativeSearch.binding version "binding"
              Expect.isNull described.Mismatch "mismatch"
              Expect.stringStarts described.Version described.BuiltFor "version"
              Expect.equal described.Devices[0].Device "cpu" "device"
              Expect.isGreaterThan described.Devices[0].Memory 0L "memory"

              let loaded =
                  [ for path in described.Libraries -> Path.GetFileName path ]
                  |> List.countBy id
                  |> dict

              for library in [ "libtorch_cpu.so"; "libc10.so"; "libLibTorchSharp.so" ] do
                  Expect.equal loaded[library] 1 $"{library} is in memory once"

          testCase "another folder cannot replace the library of this process"
          <| fun _ ->
              Expect.throwsT<InvalidOperationException> (fun () -> Native.initializeFrom "/elsewhere") ""
              Expect.throwsT<ArgumentException> (fun () -> Native.initializeFrom "") "" ]
