module Sama.Ranks.Tests.FailureTests

open System
open Expecto
open Sama.Ranks.Tests.Launcher

let private all (ended: Ended) name : string =
    let values = [ for r in 0..1 -> ended.Value $"{name}.rank{r}" ]

    // the rank itself has its own exception inside
    let text (value: string) =
        value
            .Replace(" (ArgumentException)", "")
            .Replace(" (InvalidOperationException)", "")
            .Replace(" (NullReferenceException)", "")
            .Replace(" (Exception)", "")

    Expect.equal (text values[0]) (text values[1]) $"{name}: one message"
    text values[0]

let private says (ended: Ended) name (parts: string list) =
    let message = all ended name

    for part in parts do
        Expect.stringContains message part name

let private survived mpi =
    let ended = ranks mpi 2 [ "survived" ] |> succeeded
    let failed = "RankFailureException: rank 1, step 3: "
    says ended "throw" [ failed; "no label" ]
    says ended "throwMeta" [ failed; "no label" ]
    says ended "throwPerturbed" [ failed; "no label" ]
    says ended "data" [ failed; "the disk is gone" ]
    says ended "null" [ "rank 1, step 3" ]
    says ended "nan" [ "NonFiniteException: step 3, level 'net'"; "rank 1" ]
    says ended "nanGradient" [ "NonFiniteException: step 3, level 'net': the gradient of parameter 'W1' on rank 1" ]
    says ended "nanMeta" [ "NonFiniteException: step 3"; "rank 1" ]
    says ended "skipped" [ "|||step 3, level 'net'"; "on rank 1"; "||" ]
    all ended "skipState" |> ignore
    says ended "layout" [ "rank 1 and rank 0"; "[9x9]"; "[8x8]" ] |> ignore
    says ended "options" [ "a step every 2 base steps" ]
    says ended "rate" [ "level 'net', its rule adam" ]
    says ended "version" [ "Sama 0.0.9"; "build" ]
    says ended "drift" [ "step 8"; "checksum" ]
    // rank 1 is outside a run, and says no step
    for rank in 0..1 do
        Expect.stringContains (ended.Value $"apart.rank{rank}") "rank 1 has 'the start of a run: a barrier'" "apart"

    says ended "score" [ "rank 1"; "no such file" ]
    all ended "stopped" |> ignore
    Expect.stringContains (ended.Value "stop.rank0") "another rank" "told on the rank that was not asked"
    all ended "some" |> ignore

let private ends mpi kind (parts: string list) =
    let ended = ranks mpi 3 [ "fatal"; kind ]
    Expect.notEqual ended.Code 0 (string ended)
    Expect.isEmpty (ended.Values "survived") "nobody went on"

    for part in parts do
        Expect.stringContains (string ended) part (string ended)

    let failed = DateTimeOffset.FromUnixTimeMilliseconds(int64 (ended.Value "fails"))

    let beyond = (ended.At - failed).TotalSeconds - (if kind = "hang" then 3.0 else 0.0)

    printfn $"{kind}, {mpi}: all ranks have ended {beyond:F1} s behind it"
    // what hangs is found; how fast it goes is said, and depends on the machine
    Expect.isLessThan beyond 30.0 "it does not hang"

let tests =
    testList
        "failures"
        [ for mpi in [ OpenMpi; Mpich ] do
              testCase $"what fails on one rank fails on all with one message, and leaves them whole, {mpi}"
              <| fun _ -> survived mpi

              for kind, parts in
                  [ "throw", [ "rank 1, step 3: the row has no label" ]
                    // MPICH's launcher kills the others at once, and names none
                    "kill",
                    [ (if mpi = OpenMpi then
                           "step 3: told to end by SIGTERM"
                       else
                           "signal 9") ]
                    "exit", [ "rank 1, step 3: the program ended with code 3" ]
                    "leave", [ "rank 1"; "step 3"; "the end of the program" ]
                    "hang", [ "step 3: rank 1, which did not come to it within 3 s" ]
                    "abort", [ "rank 1, step 3: this is the end" ] ] do
                  testCase $"{kind} ends all ranks, {mpi}" <| fun _ -> ends mpi kind parts ]
