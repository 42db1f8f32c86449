module Sama.Ranks.Tests.RankTests

open System
open System.IO
open Expecto
open Sama.Ranks.Tests.Launcher

let private same (ended: Ended) (count: int) (name: string) : string =
    let values = [ for r in 0 .. count - 1 -> ended.Value $"{name}.rank{r}" ]
    Expect.equal (List.distinct values) [ values.Head ] $"{name} on every rank"
    values.Head

let private agreement mpi count =
    let ended = ranks mpi count [ "agreement" ] |> succeeded

    let found =
        [ for line in ended.Lines do
              match line.Split '=' with
              | [| name; value |] when not (name.StartsWith "local") ->
                  match Double.TryParse value with
                  | true, value -> name, value
                  | _ -> ()
              | _ -> () ]

    Expect.isGreaterThan found.Length (20 * count) (string ended)

    for name, value in found do
        Expect.isLessThanOrEqual value 1e-8 name

    // the mean of products is not the product of means
    for value in ended.Values "local" do
        Expect.isGreaterThan (float value) 1e-3 "the error of Local is there to be named"

let private trajectories mpi count =
    let ended = ranks mpi count [ "trajectories"; "200" ] |> succeeded

    let found =
        [ for name in [ "whole"; "each"; "some"; "again" ] -> same ended count name ]

    Expect.equal (List.distinct found) [ found.Head ] "bucketed = unbucketed, and again"
    Expect.equal (ended.Values "whole.early" |> List.distinct) [ "0" ] "without buckets, none is early"

    // six buckets a step, of which the last is complete where the pass ends
    for early in ended.Values "each.early" do
        Expect.isGreaterThanOrEqual (int early) (200 * 5) "reduced while the backward pass goes on"

    found.Head

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "ranks-"

    try
        body folder.FullName
    finally
        folder.Delete true

let tests =
    testList
        "ranks"
        [ for mpi, count in [ OpenMpi, 2; Mpich, 3; OpenMpi, 4 ] do
              testCase $"the hypergradient of {count} ranks is that of one on the joined batch, {mpi}"
              <| fun _ -> agreement mpi count

          testCase "sums, ranges, broadcasts: exact, and of the same bits under both MPIs"
          <| fun _ ->
              for count in [ 2; 3 ] do
                  let found =
                      [ for mpi in [ OpenMpi; Mpich ] ->
                            let ended = ranks mpi count [ "sums" ] |> succeeded
                            Expect.isEmpty (ended.Lines |> List.filter _.Contains("wrong")) (string ended)
                            ended.Value "whole" ]

                  Expect.equal found[0] found[1] "Open MPI = MPICH"

          testCase "200 steps: the same bits on every rank, in buckets, again, under both MPIs"
          <| fun _ -> Expect.equal (trajectories OpenMpi 3) (trajectories Mpich 3) "Open MPI = MPICH"

          testCase "10,000 steps in buckets, behind as many, keep tensors and memory"
          <| fun _ ->
              let ended = ranks OpenMpi 2 [ "steady"; "20000"; "1" ] |> succeeded

              for rank in 0..1 do
                  let at name what =
                      ended.Value $"{name}.{what}.rank{rank}" |> float

                  Expect.equal (at "last" "tensors") (at "first" "tensors") "live tensors"
                  // bytes, and kilobytes: less than a hundred bytes a step
                  Expect.isLessThan (at "last" "managed") (at "first" "managed" + 2e5) "managed memory"
                  Expect.isLessThan (at "last" "native") (at "first" "native" + 1e6) "the native allocator's"
                  Expect.isLessThan (at "last" "memory") (at "first" "memory" + 1_000.0) "resident memory"

          testCase "buffers of modules are the same on every rank"
          <| fun _ ->
              let ended = ranks OpenMpi 2 [ "buffers" ] |> succeeded
              let first, mean = same ended 2 "First", same ended 2 "Mean"
              Expect.notEqual first mean "the two ways differ"

          testCase "telemetry of a run has the time of its reductions, and no time twice"
          <| fun _ ->
              let ended = ranks OpenMpi 2 [ "telemetry" ] |> succeeded
              Expect.isEmpty (ended.Lines |> List.filter _.Contains("wrong")) (string ended)
              Expect.equal (ended.Values "whole.rank1").Length 5 (string ended)

          testCase "a run goes on bit for bit on as many ranks, and from its state on others"
          <| fun _ ->
              inFolder (fun folder ->
                  let at name = Path.Combine(folder, name)

                  let go count folder (steps: int) =
                      ranks OpenMpi count [ "resumed"; folder; string steps ] |> succeeded

                  let straight = go 2 (at "straight") 10
                  go 2 (at "halves") 5 |> ignore
                  let second = go 2 (at "halves") 10
                  Expect.equal (same second 2 "from") "5" "from its checkpoint"
                  Expect.equal (same second 2 "end") (same straight 2 "end") "as without the break"
                  // 2 to 4, from the state of 2
                  let wider = go 4 (at "halves") 12
                  Expect.equal (same wider 4 "from") "10" "from the checkpoint of two"
                  Expect.equal (same wider 4 "start") (same wider 4 "start") "one state"
                  // 4 to 1
                  let alone = go 1 (at "halves") 13
                  Expect.equal (same alone 1 "from") "12" "from the checkpoint of four") ]
