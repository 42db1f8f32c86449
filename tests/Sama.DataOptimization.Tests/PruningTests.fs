module Sama.DataOptimization.Tests.PruningTests

open System
open Expecto
open TorchSharp
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

/// A net 4-5-3 with tanh in float64: per-example gradients by one backward pass an example.
let private autograd seed =
    use _ = torch.NewDisposeScope()
    use generator = new torch.Generator(uint64 (abs seed))

    let draw (shape: int64[]) =
        torch.randn (shape, dtype = torch.float64, generator = generator)

    let w1, b1, w2, b2 =
        draw [| 5L; 4L |], draw [| 5L |], draw [| 3L; 5L |], draw [| 3L |]

    let parameters = [ w1; b1; w2; b2 ]

    for p in parameters do
        p.requires_grad_ true |> ignore

    let x = draw [| 7L; 4L |]
    let y = labels (Random seed) 7 3
    let hidden: torch.Tensor = torch.tanh (x.mm (w1.t ()) + b1)
    let logits: torch.Tensor = hidden.mm (w2.t ()) + b2

    let gradients =
        Array.init 7 (fun row ->
            for p in parameters do
                p.grad <- null

            let loss = -(logits[int64 row].log_softmax 0L)[int64 y[row]]
            loss.backward (retain_graph = true)
            [ for p in parameters -> Rows.Vector(p.grad.reshape -1L) ])

    {| Labels = y
       Probabilities = Rows.FromTensor(logits.softmax 1L)
       Logits = Rows.FromTensor logits
       Hidden = Rows.FromTensor hidden
       Output = Rows.FromTensor w2
       // of all parameters, and of the last layer with and without bias
       All = gradients |> Array.map Array.concat
       Last = gradients |> Array.map (List.skip 2 >> Array.concat)
       Weights = gradients |> Array.map (fun g -> g[2]) |}

let private norm (g: float[]) = sqrt (Array.sumBy (fun g -> g * g) g)

let private scores =
    testList
        "scores"
        [ property "EL2N is the norm of the loss's gradient by the logits, from autograd"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let net = autograd seed

              let logits =
                  torch.tensor(Array.concat net.Logits, dtype = torch.float64).reshape(7L, 3L).requires_grad_ true

              let targets = torch.tensor (net.Labels |> Array.map int64)
              torch.nn.functional.cross_entropy(logits, targets, reduction = torch.nn.Reduction.Sum).backward ()

              closeAll
                  (PruningScores.El2n(net.Probabilities, net.Labels))
                  (Rows.FromTensor logits.grad |> Array.map norm)
                  "el2n"

          property "GraNd is the norm of each example's whole gradient; the last layer's closed form is autograd's"
          <| fun seed ->
              let net = autograd seed
              closeAll (PruningScores.GraNd net.All) (Array.map norm net.All) "whole"

              closeAll
                  (PruningScores.GraNdLastLayer(net.Probabilities, net.Labels, net.Hidden))
                  (Array.map norm net.Last)
                  "last layer"

              closeAll
                  (PruningScores.GraNdLastLayer(net.Probabilities, net.Labels, net.Hidden, false))
                  (Array.map norm net.Weights)
                  "no bias"

          property "the boundary distance: moving the features that far along the normal reaches the boundary"
          <| fun seed ->
              let net = autograd seed
              let distance = PruningScores.BoundaryDistance(net.Logits, net.Labels, net.Output)

              for row in 0..6 do
                  let y = net.Labels[row]

                  // logits of the features moved by `distance` towards each other class
                  let margins =
                      [ for c in 0..2 do
                            if c <> y then
                                let normal = Array.map2 (-) net.Output[y] net.Output[c]
                                let step = normal |> Array.map (fun n -> -distance[row] * n / norm normal)

                                let moved k =
                                    net.Logits[row][k] + Array.sum (Array.map2 (*) net.Output[k] step)

                                moved y - moved c ]

                  // one boundary is met, no other crossed
                  Expect.isLessThan (List.min margins |> abs) 1e-9 "on it"

          testCase "mean over models; misuse"
          <| fun _ ->
              closeAll (PruningScores.Mean [| [| 1.0; 2.0 |]; [| 3.0; 6.0 |] |]) [| 2.0; 4.0 |] "mean"

              refused<ArgumentException> [ "scores[1]" ] (fun () ->
                  PruningScores.Mean [| [| 1.0 |]; [| 3.0; 6.0 |] |] |> ignore)

              refused<ArgumentException> [ "classes 0 and 1" ] (fun () ->
                  PruningScores.BoundaryDistance([| [| 1.0; 2.0 |] |], [| 0 |], [| [| 1.0 |]; [| 1.0 |] |])
                  |> ignore) ]

let private record =
    testList
        "training record"
        [ testCase "forgetting and area under the margin by hand"
          <| fun _ ->
              let record = TrainingRecord [| 0; 1; 0 |]
              // row 0: right, wrong, right, wrong; row 1: never right; row 2: wrong, then right
              let epochs =
                  [ [ 2.0; -1.0; -1.0 ]
                    [ -1.0; -2.0; 1.0 ]
                    [ 3.0; -0.5; 1.0 ]
                    [ -2.0; -1.0; 1.0 ] ]

              for margins in epochs do
                  // in two batches, in another order
                  record.Observe([| 2; 0 |], [| [| margins[2]; 0.0 |]; [| margins[0]; 0.0 |] |])
                  record.Observe([| 1 |], [| [| 0.0; margins[1] |] |])

              closeAll record.Forgetting[..0] [| 2.0 |] "twice"
              Expect.isTrue (Double.IsPositiveInfinity record.Forgetting[1]) "never right"
              close record.Forgetting[2] 0.0 "never forgotten"
              closeAll record.AreaUnderMargin [| 0.5; -4.5 / 4.0; 0.5 |] "margins"

          property "observed by batches it is the definition on whole epochs"
          <| fun seed ->
              let random = Random seed
              let y = labels random 8 3
              let record = TrainingRecord y

              let epochs =
                  Array.init 5 (fun _ -> Array.init 8 (fun _ -> Array.init 3 (fun _ -> normal random)))

              for logits in epochs do
                  let order = Array.init 8 id
                  random.Shuffle order

                  for batch in Array.chunkBySize 3 order do
                      record.Observe(batch, batch |> Array.map (fun row -> logits[row]))

              let right =
                  epochs
                  |> Array.map (Array.map2 (fun y z -> Array.findIndex ((=) (Array.max z)) z = y) y)

              Expect.equal record.Forgetting (TrainingRecord.ForgettingCounts right) "forgetting"

              let margin (z: float[]) y =
                  z[y]
                  - Seq.max (
                      seq {
                          for c in 0..2 do
                              if c <> y then
                                  z[c]
                      }
                  )

              let expected =
                  Array.init 8 (fun row -> epochs |> Array.averageBy (fun z -> margin z[row] y[row]))

              closeAll record.AreaUnderMargin expected "margin"

          testCase "what is refused leaves no trace"
          <| fun _ ->
              let record = TrainingRecord [| 0; 5 |]

              refused<ArgumentException> [ "row 1"; "label 5" ] (fun () ->
                  record.Observe([| 0; 1 |], [| [| 1.0; 0.0 |]; [| 1.0; 0.0 |] |]))

              Expect.equal record.Observations [| 0; 0 |] "none" ]

let private keep =
    testList
        "kept rows"
        [ property "the highest, or lowest, share; no row left out beats one kept"
          <| fun seed ->
              let random = Random seed
              let s = Array.init 37 (fun _ -> float (random.Next 8))

              for highest in [ true; false ] do
                  let kept = Keep.ByScore(s, 0.3, highest, seed = seed)
                  Expect.equal kept.Length 11 "rows"
                  Expect.equal kept (Array.sort (Array.distinct kept)) "sorted"
                  let left = Array.except kept [| 0..36 |] |> Array.map (fun row -> s[row])
                  let inside = kept |> Array.map (fun row -> s[row])

                  Expect.isTrue
                      (if highest then
                           Array.min inside >= Array.max left
                       else
                           Array.max inside <= Array.min left)
                      "order"

                  Expect.equal (Keep.ByScore(s, 0.3, highest, seed = seed)) kept "again"

          testCase "ties are decided by the seed, evenly"
          <| fun _ ->
              let counts = Array.zeroCreate<int> 10

              for seed in 0..999 do
                  for row in Keep.ByScore(Array.create 10 infinity, 0.3, seed = seed) do
                      counts[row] <- counts[row] + 1

              // binomial of 1000 and .3: standard deviation 14.5
              for count in counts do
                  Expect.isLessThan (abs (count - 300)) 65 $"{count}"

          property "each class keeps its share, within a row, and the total is the same"
          <| fun seed ->
              let random = Random seed
              let y = labels random 50 4
              let s = Array.init 50 (fun _ -> random.NextDouble())

              for kept in
                  [ Keep.ByScore(s, 0.42, labels = y, seed = seed)
                    Keep.AtRandom(50, 0.42, y, seed) ] do
                  Expect.equal kept.Length 21 "total"

                  for c in 0..3 do
                      let size rows =
                          rows |> Array.filter (fun row -> y[row] = c) |> Array.length |> float

                      Expect.isLessThan (abs (size kept - 0.42 * size [| 0..49 |])) 1.0 "share"

          property "coverage-centric: each stratum's count is what water-filling allows, none of the cut rows"
          <| fun seed ->
              let random = Random seed
              let s = Array.init 60 (fun _ -> random.NextDouble() ** 2.0)
              let kept = Keep.CoverageCentric(s, 0.4, 0.2, 6, seed = seed)
              Expect.equal kept.Length 24 "rows"
              let rest = Array.sort s |> Array.truncate 48
              Expect.isTrue (kept |> Array.forall (fun row -> s[row] <= Array.max rest)) "cut"
              let low, high = Array.min rest, Array.max rest

              let stratum x =
                  min 5 (int ((x - low) / (high - low) * 6.0))

              let size x =
                  Array.init 6 (fun k -> x |> Array.filter (fun v -> stratum v = k) |> Array.length)

              let all, taken = size rest, size (kept |> Array.map (fun row -> s[row]))
              // a stratum that is not used up has as many as any other, but for whole rows
              for a in 0..5 do
                  for b in 0..5 do
                      if taken[a] < all[a] then
                          Expect.isLessThanOrEqual taken[b] (taken[a] + 1) $"{all} {taken}"

          testCase "coverage-centric: the area under the margin is cut at its low end; infinite scores have to be cut"
          <| fun _ ->
              let s = Array.init 20 float

              for seed in 0..20 do
                  let kept = Keep.CoverageCentric(s, 0.5, 0.25, 4, false, seed)
                  Expect.isGreaterThanOrEqual (Array.min kept) 5 "low end"
                  // 15 rows left in strata of 4, 4, 4 and 3 rows: 10 of them as 3, 3, 2 and 2 at most one apart
                  Expect.equal
                      (kept
                       |> Array.countBy (fun row -> min 3 ((row - 5) * 4 / 14))
                       |> Array.map snd
                       |> Array.sort)
                      [| 2; 2; 3; 3 |]
                      "strata"

              let forgetting = Array.append [| infinity |] (Array.init 9 float)
              refused<ArgumentException> [ "hardCutoff" ] (fun () -> Keep.CoverageCentric(forgetting, 0.5) |> ignore)
              Expect.equal (Keep.CoverageCentric(forgetting, 0.5, 0.1)).Length 5 "cut"
              refused<ArgumentException> [ "cannot be kept" ] (fun () -> Keep.CoverageCentric(s, 0.9, 0.25) |> ignore) ]

let private dynamic =
    testList
        "dynamic"
        [ property "InfoBatch: rows from the mean up always with weight 1; the others 0 or 1/(1 − r)"
          <| fun seed ->
              let random = Random seed
              let losses = Array.init 30 (fun _ -> random.NextDouble())
              let mean = Array.average losses
              let rows = InfoBatch.Rows(losses, 3, 10, 0.4, 0.8, seed)

              for row in 0..29 do
                  match Array.IndexOf(rows.Rows, row) with
                  | -1 -> Expect.isLessThan losses[row] mean "only the well learned are left out"
                  | at -> close rows.Weights[at] (if losses[row] < mean then 1.0 / 0.6 else 1.0) "weight"

              let late = InfoBatch.Rows(losses, 8, 10, 0.4, 0.8, seed)
              Expect.equal (late.Rows.Length, Array.sum late.Weights) (30, 30.0) "annealed"

          testCase "InfoBatch is unbiased: the expected weighted sum over epochs' draws is the whole sum"
          <| fun _ ->
              let random = Random 6
              let losses = Array.init 50 (fun _ -> random.NextDouble())
              let gradients = Array.init 50 (fun _ -> normal random)
              let draws = 20000

              let sums =
                  Array.init draws (fun draw ->
                      let rows = InfoBatch.Rows(losses, draw % 100, 1000, 0.5, 0.875, draw / 100)
                      Array.map2 (fun row w -> w * gradients[row]) rows.Rows rows.Weights |> Array.sum)

              let mean = Array.average sums
              let error = sqrt (Array.averageBy (fun s -> pown (s - mean) 2) sums / float draws)
              Expect.isLessThan (abs (mean - Array.sum gradients)) (4.0 * error) $"{mean} ± {error}"
              // and its variance is that of independent draws: Σ g² r/(1 − r) over the well learned
              let below = Array.average losses

              let variance =
                  Array.map2 (fun l g -> if l < below then g * g else 0.0) losses gradients
                  |> Array.sum

              Expect.floatClose { absolute = 0.0; relative = 0.05 } (error * error * float draws) variance "variance"

          testCase "InfoBatch before losses are known takes all rows"
          <| fun _ -> Expect.equal (InfoBatch.Rows(Array.create 9 1.0, 0, 10)).Rows [| 0..8 |] "all"

          testCase "DynaMS: share by epoch, rows nearest to the boundary"
          <| fun _ ->
              closeAll
                  [| for epoch in 0..4 -> DynaMs.Share(epoch, 5, 2, 0.4) |]
                  [| 1.0; 1.0; 0.8; 0.6; 0.4 |]
                  "schedule"

              Expect.equal (DynaMs.Rows([| 3.0; -1.0; 0.5; 2.0 |], 0.5)) [| 1; 2 |] "rows"
              refused<ArgumentException> [ "epoch 5" ] (fun () -> DynaMs.Share(5, 5, 2, 0.4) |> ignore) ]

let tests = testList "pruning" [ scores; record; keep; dynamic ]
