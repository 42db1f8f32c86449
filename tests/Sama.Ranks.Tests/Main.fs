module Sama.Ranks.Tests.Main

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Ranks.Tests

/// What one rank does; the tests start it by a launcher.
let private case (args: string list) =
    Native.initialize ()
    torch.set_num_threads 1

    let seconds = if args.Head = "fatal" then 3.0 else 60.0

    use ranks =
        Ranks.start
            { RankOptions.Default with
                Timeout = TimeSpan.FromSeconds seconds
                Transport =
                    match Environment.GetEnvironmentVariable "TEST_TRANSPORT" with
                    | null -> RankTransport.Auto
                    | name -> Enum.Parse<RankTransport> name }

    match args with
    | [ "none" ] -> ()
    | [ "agreement" ] -> Cases.agreement ranks
    | [ "trajectories"; steps ] -> Cases.trajectories ranks (int steps)
    | [ "modules"; steps ] -> Cases.modules ranks (int steps)
    | [ "hosts" ] -> Cases.hosts ranks
    | [ "sums" ] -> Cases.sums ranks
    | [ "steady"; steps; bytes ] -> Cases.steady ranks (int steps) (int64 bytes)
    | [ "telemetry" ] -> Cases.telemetry ranks
    | [ "buffers" ] -> Cases.buffers ranks
    | [ "sharded" ] -> Cases.sharded ranks
    | [ "resumed"; folder; steps ] -> Cases.resumed ranks folder (int64 steps) false
    | [ "resumedInShards"; folder; steps ] -> Cases.resumed ranks folder (int64 steps) true
    | [ "survived" ] -> Failures.survived ranks
    | [ "fatal"; kind ] -> Failures.fatal ranks kind
    | other -> failwith $"no such case: {other}"

    0

[<EntryPoint>]
let main args =
    match List.ofArray args with
    | "case" :: rest -> case rest
    | _ ->
        Native.initialize ()

        testSequenced (
            testList
                "Sama.Ranks"
                [ LaunchTests.tests
                  RankTests.tests
                  NcclTests.tests
                  ToolTests.tests
                  FailureTests.tests ]
        )
        |> runTestsWithCLIArgs [] args
