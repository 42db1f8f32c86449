/// Minibatches as functions of the draw.
module Sama.Tests.DataTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private draw seed step rank =
    { Seed = seed
      Step = step
      Stream = 0
      Rank = rank }

/// What all ranks take at so many steps, step by step.
let private taken (sampling: Sampling) rows seed steps =
    // each rank is a process of its own
    let picks = [| for _ in 1 .. sampling.Ranks -> Sampling.rows rows sampling |]

    [ for t in 0L .. steps - 1L -> [ for rank in 0 .. sampling.Ranks - 1 -> picks[rank](draw seed t rank) ] ]

let private property name (body: int -> int -> int -> int64 -> unit) =
    testPropertyWithConfig
        { FsCheckConfig.defaultConfig with
            maxTest = 60 }
        name
        (fun (PositiveInt n) (PositiveInt size) (PositiveInt ranks) (seed: int64) ->
            body (1 + n % 60) (1 + size % 9) (1 + ranks % 4) seed)

let private same (a: Tensor) (b: Tensor) =
    a.shape = b.shape && a.eq(b).all().item<bool> ()

let private all = List.concat >> Seq.concat >> List.ofSeq

let private refuses word (action: unit -> 'a) =
    Expect.throwsC (action >> ignore) (fun e ->
        Expect.isTrue (e :? ArgumentException) $"{e}"
        Expect.stringContains e.Message word "")

let tests =
    testList
        "data"
        [ property "drop: each epoch takes each row at most once, all but the rest" (fun n size ranks seed ->
              let sampling = { Sampling.Of size with Ranks = ranks }

              if n >= size * ranks then
                  let steps = Sampling.stepsPerEpoch n sampling

                  for epoch in taken sampling n seed (3L * steps) |> List.chunkBySize (int steps) do
                      let rows = all epoch
                      Expect.equal rows.Length (n / (size * ranks) * size * ranks) ""
                      Expect.equal (List.distinct rows).Length rows.Length ""
                      Expect.all rows (fun row -> row >= 0L && row < int64 n) "")

          property "keep: each epoch takes each row once, on ranks as evenly as goes" (fun n size ranks seed ->
              let sampling =
                  { Sampling.Of size with
                      Ranks = ranks
                      Remainder = Remainder.Keep }

              let rest = n % (size * ranks)

              if rest = 0 || rest >= ranks then
                  let steps = Sampling.stepsPerEpoch n sampling

                  for epoch in taken sampling n seed (2L * steps) |> List.chunkBySize (int steps) do
                      Expect.equal (List.sort (all epoch)) [ 0L .. int64 n - 1L ] ""

                      for step in epoch do
                          let sizes = step |> List.map Array.length
                          Expect.isLessThanOrEqual (List.max sizes - List.min sizes) 1 ""
                          Expect.isGreaterThan (List.min sizes) 0 "")

          property "wrap: every batch is full, and n steps take every row equally often" (fun n size ranks seed ->
              let sampling =
                  { Sampling.Of size with
                      Ranks = ranks
                      Remainder = Remainder.Wrap }

              let steps = taken sampling n seed (int64 n)
              Expect.all (List.concat steps) (fun batch -> batch.Length = size) ""

              for _, count in all steps |> List.countBy id do
                  Expect.equal count (size * ranks) "")

          property "ranks of half the size take what one takes of the whole" (fun n size _ seed ->
              let one = Sampling.Of(2 * size)

              if n >= 2 * size then
                  let two = { Sampling.Of size with Ranks = 2 }

                  for a, b in List.zip (taken one n seed 7L) (taken two n seed 7L) do
                      Expect.equal (Array.concat b) a.Head "")

          testCase "a draw has the same rows whatever was asked before, and another seed, level or epoch others"
          <| fun () ->
              let pick = Sampling.rows 50L (Sampling.Of 10)
              let at seed step = pick (draw seed step 0)
              let first = [ for t in 0L .. 24L -> at 7L t ]
              let backwards = [ for t in List.rev [ 0L .. 24L ] -> at 7L t ]
              Expect.equal (List.rev backwards) first ""
              Expect.notEqual first[0] first[5] "epochs"
              Expect.notEqual first[0] (at 8L 0L) "seeds"
              Expect.notEqual first[0] (pick { draw 7L 0L 0 with Stream = 1 }) "levels"

          testCase "every order of four rows is equally likely"
          <| fun () ->
              let counts =
                  [ for seed in 1L .. 24_000L -> List.ofArray (Sampling.permutation 4 (seed * 7919L)) ]
                  |> List.countBy id
                  |> List.map (snd >> float)

              let chi = counts |> List.sumBy (fun c -> (c - 1000.0) ** 2.0 / 1000.0)
              Expect.equal counts.Length 24 ""
              // 23 degrees of freedom: 49.7 is the 0.1 % point
              Expect.isLessThan chi 49.7 ""

          testCase "what cannot be drawn is refused with the reason"
          <| fun () ->
              refuses "fill no batch" (fun () -> Sampling.rows 3L (Sampling.Of 4))
              refuses "at least 1" (fun () -> Sampling.rows 3L (Sampling.Of 0))
              refuses "ranks" (fun () -> Sampling.rows 3L { Sampling.Of 1 with Ranks = 0 })
              refuses "rows" (fun () -> Sampling.rows 0L (Sampling.Of 1))

              refuses "cannot be kept" (fun () ->
                  Sampling.rows
                      9L
                      { Sampling.Of 2 with
                          Ranks = 2
                          Remainder = Remainder.Keep })

              refuses "rank 1" (fun () -> Sampling.rows 9L (Sampling.Of 2) (draw 1L 0L 1))
              refuses "9 rows" (fun () -> Rows.pair (torch.zeros (9L, 2L)) (torch.zeros 8L))
              refuses "one number" (fun () -> Rows.tensor (torch.tensor 1.0))
              refuses "pad them" (fun () -> Collate.stack [| torch.zeros 2L; torch.zeros 3L |])

          testCase "tensors, lists and rows of one's own give the same rows"
          <| fun () ->
              use _ = torch.NewDisposeScope()
              let x = torch.arange(20L).reshape (10L, 2L)
              let items = [| for i in 0L .. 9L -> 2L * i |]
              let d = draw 3L 4L 0
              let a, b = Batches.shuffled (Rows.pair x (x * Scalar.op_Implicit 3L)) 3 d
              let named = Batches.shuffled (Rows.named (readOnlyDict [ "x", x ])) 3 d
              let listed = Batches.shuffled (Rows.list items) 3 d

              let own =
                  Batches.shuffled (Rows.each 10L (fun i -> torch.tensor [| 2L * i; 2L * i + 1L |]) Collate.stack) 3 d

              Expect.equal (own.data<int64>().ToArray()) (a.data<int64>().ToArray()) ""
              Expect.equal ((b.select (1L, 0L)).contiguous().data<int64>().ToArray()) (listed |> Array.map ((*) 3L)) ""
              Expect.isTrue (same named["x"] a) ""

          testCase "rows of unlike lengths are padded behind their ends"
          <| fun () ->
              use _ = torch.NewDisposeScope()
              let batch, lengths = Collate.padded -1.0 [| torch.ones 2L; torch.zeros 3L |]
              Expect.equal (batch.data<float32>().ToArray()) [| 1f; 1f; -1f; 0f; 0f; 0f |] ""
              Expect.equal (lengths.data<int64>().ToArray()) [| 2L; 3L |] ""

          testCase "batches made ahead are the same, in and out of order, and are freed"
          <| fun () ->
              let x = normal 5L [| 40L; 3L |]
              let source = Batches.shuffled (Rows.tensor x) 4
              // what earlier tests left to the collector
              GC.Collect()
              GC.WaitForPendingFinalizers()
              let before = Tensor.TotalCount

              do
                  use ahead = new Prefetch<Tensor>(Func<_, _> source, 3)

                  let draws =
                      [ for step in [ 0L; 1L; 2L; 7L; 8L; 3L; 3L; 4L; 100L; 101L ] do
                            draw 9L step 0

                        { draw 9L 102L 0 with Stream = 1 }
                        { draw 8L 103L 0 with Stream = 1 } ]

                  for d in draws do
                      use _ = torch.NewDisposeScope()
                      Expect.isTrue (same (ahead.Next d) (source d)) $"{d}"

              // the last guesses end on the pool's threads
              Threading.SpinWait.SpinUntil((fun () -> Tensor.TotalCount = before), 10_000)
              |> ignore

              Expect.equal Tensor.TotalCount before ""

          testCase "what a source raises ahead is raised at its own draw"
          <| fun () ->
              let source (d: Draw) =
                  if d.Step = 2L then
                      invalidOp "row 2 is unreadable"

                  d.Step

              use ahead = new Prefetch<int64>(Func<_, _> source, 2)
              Expect.equal (ahead.Next(draw 0L 0L 0)) 0L ""
              Expect.equal (ahead.Next(draw 0L 1L 0)) 1L ""

              Expect.throwsC (fun () -> ahead.Next(draw 0L 2L 0) |> ignore) (fun e ->
                  Expect.equal e.Message "row 2 is unreadable" "")

              Expect.equal (ahead.Next(draw 0L 3L 0)) 3L "" ]
