module Sama.Ranks.Tests.RankTests

open System
open System.IO
open Expecto
open Sama.Functional
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
        [ for name in [ "default"; "whole"; "each"; "some"; "again" ] -> same ended count name ]

    Expect.equal (List.distinct found) [ found.Head ] "bucketed = unbucketed, and again"

    for name in [ "default"; "whole" ] do
        Expect.equal (ended.Values $"{name}.early" |> List.distinct) [ "0" ] "without buckets, none is early"

    // six buckets a gradient, two gradients a step
    for early in ended.Values "each.early" do
        Expect.isGreaterThanOrEqual (int early) (200 * 10) "reduced while the backward pass goes on"

    found.Head

let private modules mpi count =
    let ended = ranks mpi count [ "modules"; "30" ] |> succeeded

    for kind in [ "equal"; "mixed" ] do
        let found =
            [ for name in [ "whole"; "each"; "some"; "again" ] -> same ended count $"{kind}.{name}" ]

        Expect.equal (List.distinct found) [ found.Head ] $"{kind}: bucketed = unbucketed, and again"

    // 14 parameters: those of the first part alone are complete where the pass ends
    for early in ended.Values "equal.each.early" do
        Expect.isGreaterThanOrEqual (int early) (30 * 2 * 12) "reduced while the backward pass goes on"

    // what runs no hooks is seen behind the part in front of it
    for early in ended.Values "mixed.each.early" do
        Expect.isGreaterThan (int early) (30 * 2) "reduced while the backward pass goes on"

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "ranks-"

    try
        body folder.FullName
    finally
        folder.Delete true

/// A case that goes on in a folder: ranks, its name, steps.
let private goneOn case folder (count: int) (name: string) (steps: int) : Ended =
    ranks OpenMpi count [ case; Path.Combine(folder, name); string steps ]
    |> succeeded

/// The same numbers, but for the order in which ranks add.
let private near (ended: Ended) (other: Ended) (what: string) =
    let numbers (ended: Ended) =
        (ended.Value "numbers").Split ' ' |> Array.map float

    for a, b in Array.zip (numbers ended) (numbers other) do
        Expect.isLessThanOrEqual (abs (a - b)) (1e-9 * (1.0 + abs b)) what

let private inShards count =
    let ended = ranks OpenMpi count [ "sharded" ] |> succeeded
    Expect.isEmpty (ended.Lines |> List.filter _.Contains("wrong")) (string ended)

    let named (start: string) =
        [ for line in ended.Lines do
              if line.StartsWith start then
                  line.Split('=') |> fun parts -> parts[0], parts[1] ]

    let offs = named "off."
    Expect.isGreaterThanOrEqual offs.Length (24 * count) (string ended)

    for name, off in offs do
        Expect.isLessThanOrEqual (float off) 1.0 $"{name}, in units of the last place of the update"

    for name, bytes in named "bytes." do
        match bytes.Split ' ' |> Array.map float with
        // a number that all have, and what does not divide
        | [| own; whole |] -> Expect.isLessThanOrEqual own (whole / float count + 40.0) name
        | other -> failtest $"{name}: {other}"

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

          testCase "modules: the same bits in buckets, whatever their loss does with them"
          <| fun _ -> modules OpenMpi 2

          testCase "the size of buckets is wanted, or by who sums and on how many hosts"
          <| fun _ ->
              let size wanted = Buckets.Size wanted
              Expect.equal (size (Nullable()) false 1) 0L "one host: none"
              Expect.equal (size (Nullable()) false 2) (1L <<< 20) "two hosts"
              Expect.equal (size (Nullable()) true 1) (25L <<< 20) "devices"
              Expect.equal (size (Nullable 5L) false 1) 5L "wanted"
              Expect.equal (size (Nullable 0L) true 2) 0L "none wanted"

          testCase "on one host there are no buckets, on two there are"
          <| fun _ ->
              let early ended =
                  (succeeded ended).Values "default.early" |> List.map int

              let one = ranks OpenMpi 2 [ "hosts" ]
              Expect.equal (one.Value "hosts") "1" (string one)
              Expect.equal (early one) [ 0; 0 ] (string one)
              let two = onTwoHosts [ "hosts" ]
              Expect.equal (two.Value "hosts") "2" (string two)
              Expect.equal (two.Value "default.rank0") (one.Value "default.rank0") "the same bits"

              // three buckets of two layers, two gradients a step
              for count in early two do
                  Expect.isGreaterThanOrEqual count (2 * 2 * 2) (string two)

          testCase "10,000 steps in buckets, behind as many, keep tensors and memory"
          <| fun _ ->
              let ended = ranks OpenMpi 2 [ "steady"; "20000"; "1" ] |> succeeded

              for rank in 0..1 do
                  let at name what =
                      ended.Value $"{name}.{what}.rank{rank}" |> float

                  Expect.equal (at "last" "tensors") (at "first" "tensors") "live tensors"
                  // bytes, and kilobytes: the runtime's heaps move by two megabytes, which a leak of 300 bytes a step is above
                  Expect.isLessThan (at "last" "managed") (at "first" "managed" + 2e5) "managed memory"
                  Expect.isLessThan (at "last" "native") (at "first" "native" + 1e6) "the native allocator's"
                  Expect.isLessThan (at "last" "memory") (at "first" "memory" + 3_000.0) "resident memory"

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

          testCase "a run goes on bit for bit on as many ranks, and on others from the same state to the same numbers"
          <| fun _ ->
              inFolder (fun folder ->
                  let go = goneOn "resumed" folder
                  let straight = go 1 "one" 15
                  let onTwo = go 2 "two" 10
                  let halves = [ go 2 "halves" 5; go 2 "halves" 10 ]
                  Expect.equal (same halves[1] 2 "from") "5" "from its checkpoint"
                  Expect.equal (same halves[1] 2 "end") (same onTwo 2 "end") "as without the break"
                  let chain = [ 1, go 1 "chain" 5; 2, go 2 "chain" 10; 4, go 4 "chain" 15 ]

                  for (before, earlier), (count, later) in List.pairwise chain do
                      Expect.equal
                          (same later count "start")
                          (same earlier before "end")
                          $"{before} → {count}: one state"

                  near (snd chain[2]) straight "1 → 2 → 4 beside 1")

          for count in [ 2; 4 ] do
              testCase $"{count} ranks that share the states of rules take the steps of those that have all"
              <| fun _ -> inShards count

          testCase "checkpoints of states in shards are those of whole ones, whatever ranks read them"
          <| fun _ ->
              inFolder (fun folder ->
                  let bytes name =
                      File.ReadAllBytes(Path.Combine(folder, name, "step-000000000010.safetensors"))

                  let go = goneOn "resumed" folder
                  let goInShards = goneOn "resumedInShards" folder
                  let whole = go 2 "whole" 10
                  let parts = goInShards 2 "parts" 10
                  Expect.equal (same parts 2 "end") (same whole 2 "end") "the same state"
                  Expect.equal (bytes "parts") (bytes "whole") "the same file"
                  let wider = goInShards 4 "parts" 15
                  Expect.equal (same wider 4 "start") (same parts 2 "end") "2 → 4: one state"
                  let alone = go 1 "parts" 16
                  Expect.equal (same alone 1 "start") (same wider 4 "end") "4 → 1: one state"
                  near alone (go 1 "one" 16) "2 → 4 → 1 beside 1") ]
