module Sama.Ranks.Tests.Main

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Ranks.Tests

let private case (args: string list) =
    Native.initialize ()
    torch.set_num_threads 1

    use ranks = Ranks.start RankOptions.Default

    match args with
    | [ "agreement" ] -> Cases.agreement ranks
    | [ "trajectory"; steps; bytes ] -> Cases.trajectory ranks (int steps) (int64 bytes)
    | _ -> failwith "no such case"

    0

[<EntryPoint>]
let main args =
    match List.ofArray args with
    | "case" :: rest -> case rest
    | _ -> 0
