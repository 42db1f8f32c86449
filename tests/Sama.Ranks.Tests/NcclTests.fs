/// NCCL's binding, against a library that does on the host what NCCL and CUDA's driver do on devices.
module Sama.Ranks.Tests.NcclTests

open System
open System.IO
open Expecto
open Sama.Ranks.Tests.Launcher

let private source = Path.Combine(AppContext.BaseDirectory, "Stub", "nccl.c")

/// `body` is given the compiled library and a file for its log; left out by name without a compiler.
let private withStub (body: string -> string -> unit) : unit =
    match find [ "gcc"; "cc"; "clang" ] with
    | None -> skiptest "no C compiler here (gcc), which the stand-in for NCCL needs: apt-get install gcc libc6-dev"
    | Some compiler ->
        let folder = Directory.CreateTempSubdirectory "nccl-"

        try
            let library = Path.Combine(folder.FullName, "libstub.so")

            run compiler [ "-O1"; "-shared"; "-fPIC"; "-o"; library; source; "-lrt" ] []
            |> succeeded
            |> ignore

            body library (Path.Combine(folder.FullName, "log"))
        finally
            folder.Delete true

let private variables library log fails =
    [ "TEST_TRANSPORT", "Nccl"
      "SAMA_NCCL", library
      "SAMA_CUDA", library
      "STUB_LOG", log
      if fails <> "" then
          "STUB_FAIL", fails ]

let private calls (log: string) (name: string) : string list =
    [ for line in File.ReadLines log do
          if line.EndsWith(" " + name) then
              line ]

let private agreeing mpi count =
    withStub (fun library log ->
        let own = ranksWith (variables library log "") mpi count [ "sums" ] |> succeeded
        Expect.isEmpty (own.Lines |> List.filter _.Contains("wrong")) (string own)
        Expect.equal (calls log "ncclCommInitRank").Length count "each rank joins once"
        Expect.equal (calls log "ncclCommDestroy").Length count "and leaves"
        Expect.equal (calls log "cuStreamDestroy").Length count "with its stream"
        Expect.isNonEmpty (calls log "ncclAllReduce") "sums by NCCL"
        Expect.isNonEmpty (calls log "ncclGroupEnd") "parts together"

        if count = 2 then
            // of two numbers, the order does not matter
            let byMpi = ranks mpi count [ "sums" ] |> succeeded
            Expect.equal (own.Value "whole") (byMpi.Value "whole") "NCCL = MPI")

let private running () =
    withStub (fun library log ->
        let of' (ended: Ended) count =
            [ for name in [ "whole"; "each" ] do
                  for rank in 0 .. count - 1 -> (succeeded ended).Value $"{name}.rank{rank}" ]
            |> List.distinct

        let case = [ "trajectories"; "30" ]

        // modules too, of two numbers the order does not matter
        let ofModules variables =
            let ended = ranksWith variables OpenMpi 2 [ "modules"; "5" ] |> succeeded

            [ for kind in [ "equal"; "mixed" ] do
                  for name in [ "whole"; "each" ] -> ended.Values $"{kind}.{name}.rank0" ],
            ended.Values "equal.each.early" |> List.map int

        let checksums, early = ofModules (variables library log "")
        Expect.equal checksums (fst (ofModules [])) "modules by NCCL = by MPI"

        for count in early do
            Expect.isGreaterThanOrEqual count (5 * 2 * 12) "reduced while the backward pass goes on"

        let two = of' (ranksWith (variables library log "") OpenMpi 2 case) 2
        Expect.equal two (of' (ranks OpenMpi 2 case) 2) "two ranks by NCCL = by MPI"
        Expect.equal two.Length 1 "the same on both"
        File.Delete log
        let one = of' (ranksWith (variables library log "") OpenMpi 1 case) 1
        Expect.isNonEmpty (calls log "ncclAllReduce") "one rank reduces by NCCL"
        Expect.equal one (of' (alone [] case) 1) "one rank through NCCL = none")

/// What is not finite is looked at behind all buckets: whose it was is known.
let private notFinite () =
    withStub (fun library log ->
        let ended =
            ranksWith (variables library log "") OpenMpi 2 [ "survived" ] |> succeeded

        for name, part in
            [ "nanGradient", "NonFiniteException: step 3, level 'net': the gradient of parameter 'W1' on rank 1"
              "nanMeta", "rank 1"
              "throw", "rank 1, step 3: " ] do
            for rank in 0..1 do
                Expect.stringContains (ended.Value $"{name}.rank{rank}") part name)

let private failing fails (parts: string list) =
    withStub (fun library log ->
        let ended = ranksWith (variables library log fails) OpenMpi 2 [ "fatal"; "none" ]

        Expect.notEqual ended.Code 0 (string ended)
        Expect.isEmpty (ended.Values "survived") "nobody went on"

        for part in "the start of a run" :: parts do
            Expect.stringContains (string ended) part (string ended)

        if fails = "async" then
            Expect.isNonEmpty (calls log "ncclCommAbort") "what is under way is ended")

let private absent nccl (parts: string list) =
    withStub (fun library log ->
        let ended =
            ranksWith (variables library log "" @ [ "SAMA_NCCL", nccl ]) OpenMpi 2 [ "none" ]

        Expect.notEqual ended.Code 0 (string ended)

        for part in parts do
            Expect.stringContains (string ended) part (string ended))

let tests =
    testList
        "NCCL"
        [ for mpi, count in [ OpenMpi, 2; Mpich, 3 ] do
              testCase $"{count} ranks by NCCL: sums of every type, broadcasts, parts, {mpi}"
              <| fun _ -> agreeing mpi count

          testCase "a run by NCCL is that by MPI, and of one rank that without ranks, bit for bit"
          <| fun _ -> running ()

          testCase "what fails or is not finite on one rank is named, by NCCL too"
          <| fun _ -> notFinite ()

          for fails, parts in
              [ "init", [ "ncclCommInitRank"; "invalid usage (error 5): Duplicate GPU" ]
                "call",
                [ "ncclBroadcast"
                  "unhandled cuda error (error 1): Cuda failure 'out of memory'" ]
                "async", [ "a call that was under way"; "remote process exited"; "Connection closed" ]
                "late", [ "within 3 s" ] ] do
              testCase $"NCCL fails ({fails}): every rank ends with what it says"
              <| fun _ -> failing fails parts

          testCase "a library that is not there, or does not load, is named with the package"
          <| fun _ ->
              absent "/nowhere/libnccl.so.2" [ "SAMA_NCCL names '/nowhere/libnccl.so.2'" ]
              absent source [ "libnccl2"; "RankTransport.Mpi" ]

          testCase "NCCL without a launcher is refused with what to do"
          <| fun _ ->
              let ended = alone [ "TEST_TRANSPORT", "Nccl" ] [ "none" ]
              Expect.notEqual ended.Code 0 (string ended)
              Expect.stringContains (string ended) "mpirun -n 1" (string ended) ]
