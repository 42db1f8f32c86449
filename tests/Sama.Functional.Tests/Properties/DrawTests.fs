/// Draws that differ in one field give other seeds, and other batches.
module Sama.Tests.DrawTests

open System.Collections.Generic
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private draw seed step stream rank : Draw =
    { Seed = seed
      Step = step
      Stream = stream
      Rank = rank }

let private fields: (string * (Draw -> int64 -> Draw)) list =
    [ "seed", (fun draw by -> { draw with Seed = draw.Seed + by })
      "step", (fun draw by -> { draw with Step = draw.Step + by })
      "stream",
      (fun draw by ->
          { draw with
              Stream = draw.Stream + int by })
      "rank", (fun draw by -> { draw with Rank = draw.Rank + int by }) ]

let private rows (draw: Draw) =
    use g = generator draw.RandomSeed
    let rows = torch.randint (1_000_000L, [| 4L |], dtype = torch.int64, generator = g)
    List.ofArray (rows.data<int64>().ToArray())

/// A run whose levels draw by one function; what they drew, in order.
let private drawnBy seed accumulate steps =
    let seen = List<int64 list>()

    let data (draw: Draw) =
        seen.Add(rows draw)
        ()

    let parameter name = [ name, torch.ones (2L, dtype = f64) ]

    let problem =
        Problem.create
            { BilevelOptions.Default with
                Accumulate = accumulate }
            Hypergradient.sama
            [ Level.create "base" (parameter "w") (sgd 0.1) data (fun _ theta lambda () ->
                  (square (theta["w"]) * lambda["x"]).sum ())
              Level.create "meta" (parameter "x") (sgd 0.1) data (fun _ theta _ () -> square(theta["w"]).sum ()) ]

    use run = new BilevelRun(problem, (seed: int64))

    for _ in 1..steps do
        run.Step() |> ignore

    List.ofSeq seen

let tests =
    testList
        "draws"
        [ for name, change in fields do
              testCase $"another {name} alone gives another seed and other rows"
              <| fun _ ->
                  for start in [ draw 0L 0L 0 0; draw 7L 3L 1 2; draw -1L 1_000_000L 5 63 ] do
                      let draws = [ for by in 0L .. 40L -> change start by ]
                      let seeds = draws |> List.map _.RandomSeed
                      Expect.equal (List.distinct seeds).Length seeds.Length $"seeds from {start}"
                      let rows = draws |> List.map rows
                      Expect.equal (List.distinct rows).Length rows.Length $"rows from {start}"

          testCase "a draw's seed is that of its fields alone, and not negative"
          <| fun _ ->
              for seed in [ -5L; 0L; 9L ] do
                  Expect.equal (draw seed 4L 1 0).RandomSeed (draw seed 4L 1 0).RandomSeed "again"
                  Expect.isGreaterThanOrEqual (draw seed 4L 1 0).RandomSeed 0L "of a generator"

          testCase "the levels, steps, micro-batches and seeds of runs draw apart"
          <| fun _ ->
              let all = drawnBy 3L 2 5 @ drawnBy 4L 2 5
              Expect.equal all.Length (2 * 5 * 3) "two micro-batches and a meta batch a step"
              Expect.equal (List.distinct all).Length all.Length "all apart"
              Expect.equal (drawnBy 3L 2 5) (List.take 15 all) "and the same again"

          testCase "each level counts its own draws, one by one, whatever its pace"
          <| fun _ ->
              let seen = List<Draw>()
              let data (draw: Draw) = seen.Add draw

              let problem =
                  Problem.create
                      { BilevelOptions.Default with
                          Unroll = 3
                          Accumulate = 2 }
                      Hypergradient.sama
                      [ Level.create "w" [ "w", torch.ones (2L, dtype = f64) ] (sgd 0.1) data (fun _ theta lambda () ->
                            (square theta["w"] * lambda["x"]).sum ())
                        Level.general "x" [ "x", torch.ones (2L, dtype = f64) ] (sgd 0.1) data (fun _ levels () ->
                            (square levels["w"].["w"]).sum ()
                            + (levels["x"].["x"] * levels["y"].["y"]).sum ())
                        Level.general "y" [ "y", torch.ones (2L, dtype = f64) ] (sgd 0.1) data (fun _ levels () ->
                            (square levels["w"].["w"]).sum () + (square levels["y"].["y"]).sum ())
                        |> Level.every 2 ]

              use run = new BilevelRun(problem, 0L)

              for _ in 1..12 do
                  run.Step() |> ignore

              let steps stream =
                  seen
                  |> Seq.filter (fun draw -> draw.Stream = stream)
                  |> Seq.map _.Step
                  |> Seq.distinct
                  |> List.ofSeq

              Expect.equal (steps 0) [ 0L .. 23L ] "two micro-batches of 12 base steps"
              Expect.equal (steps 1) [ 0L .. 3L ] "a meta step in 3"
              Expect.equal (steps 2) [ 0L .. 1L ] "one of its steps in 2"

          testCase "masks of levels, steps and seeds are apart"
          <| fun _ ->
              let mask (draw: Draw) =
                  Draw.masks draw (fun () ->
                      use mask = torch.rand 8L
                      List.ofArray (mask.data<float32>().ToArray()))

              let draws =
                  [ for _, change in fields do
                        for by in 1L .. 3L do
                            change (draw 1L 1L 1 1) by ]

              let masks = draws |> List.map mask
              Expect.equal (List.distinct masks).Length masks.Length "apart" ]
