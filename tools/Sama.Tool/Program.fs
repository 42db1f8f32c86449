/// The published tool: cleaning and pruning of data sets, the check of a machine, the benchmarks and the NoisyText example behind
/// one name.
module Sama.Tool.Program

open System
open Sama
open Sama.Functional

let private usage =
    """sama clean --train FILE --clean FILE --out DIR   find and correct wrong labels of texts (clean --help)
sama prune --data FOLDER --keep 0.7 --out DIR find the images or texts worth training on (prune --help)
sama describe                                 the libtorch that is found, and its devices
sama check [--device cpu|cuda|cuda:N] [--json FILE]   operations, algorithms and training on a device, with tables
sama bench NAME [OPTIONS]                      a measurement (bench --help)
sama noisytext [OPTIONS]                       the NoisyText example (noisytext --help)
SAMA_LIBTORCH names the folder of libtorch's libraries; of an installed PyTorch: .../site-packages/torch/lib"""

let rec private check device json (args: string list) =
    match args with
    | [] -> if Check.run device json then 0 else 1
    | "--device" :: name :: rest -> check name json rest
    | "--json" :: file :: rest -> check device (Some file) rest
    | unknown :: _ -> raise (ArgumentException $"check does not take '{unknown}'\n{usage}")

/// Commands of the tool that go on ranks; others would do the whole work on each.
let private shared = [ "clean"; "prune"; "noisytext"; "bench" ]

let private requireOne (args: string list) : unit =
    match Launch.found Environment.GetEnvironmentVariable with
    | Some launched when
        launched.Size > 1
        && launched.Kind.IsSome
        && not (List.contains (List.tryHead args) (List.map Some shared))
        ->
        invalidOp
            $"{launched.By} started {launched.Size} processes ({launched.Variable}), each of which would do the whole work: start the command once, without a launcher"
    | _ -> ()

[<EntryPoint>]
let main args =
    Ending.told "sama" (fun () ->
        requireOne (List.ofArray args)

        match List.ofArray args with
        | "describe" :: _ ->
            printfn $"{Native.describe ()}"
            0
        | "clean" :: rest ->
            Native.initialize ()
            Clean.run rest
        | "prune" :: rest ->
            Native.initialize ()
            Prune.run rest
        | "check" :: rest -> check "cpu" None rest
        | "bench" :: rest -> Sama.Benchmarks.Program.main (Array.ofList rest)
        | "noisytext" :: rest -> NoisyText.Program.main (Array.ofList rest)
        | [ "--help" ] ->
            printfn $"{usage}"
            0
        | _ ->
            eprintfn $"{usage}"
            2)
