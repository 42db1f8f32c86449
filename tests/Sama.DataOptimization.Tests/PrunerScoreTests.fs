/// Scores through a classifier, against plain references.
module Sama.DataOptimization.Tests.PrunerScoreTests

open System
open System.Collections.Generic
open System.Threading
open Expecto
open TorchSharp
open Sama
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws
open Sama.DataOptimization.Tests.PrunedNet

let tests =
    testList
        "pruner scores"
        [ property "EL2N, GraNd of the last layer and of all, and margins of a classifier are the plain formulas"
          <| fun seed ->
              let labels, points = drawn seed 20
              use net = new Headed(points, seed)
              use bare = new Net(points, seed)
              let h, z, p = forward net points

              let error =
                  Array.map2
                      (fun (p: float[]) y -> norm (Array.mapi (fun c p -> if c = y then p - 1.0 else p) p))
                      p
                      labels

              use pruner = new Pruner(net, labels, options = still ())
              near (pruner.Score "el2n-2").Scores error "el2n"
              let last = Array.map2 (fun e h -> e * sqrt (norm h ** 2.0 + 1.0)) error h
              near (pruner.Score "grand-1").Scores last "last layer"

              // the whole gradient by backpropagation by hand
              let w2 = net.Start "w2"

              let whole =
                  Array.init 20 (fun row ->
                      let d = p[row] |> Array.mapi (fun c p -> if c = labels[row] then p - 1.0 else p)

                      let back =
                          Array.init hidden (fun j ->
                              Array.sum (Array.mapi (fun c d -> d * w2[c][j]) d) * (1.0 - h[row][j] ** 2.0))

                      sqrt (last[row] ** 2.0 + norm back ** 2.0 * (norm points[row] ** 2.0 + 1.0)))

              use plain = new Pruner(bare, labels, options = still ())
              near (plain.Score "grand-1").Scores whole "whole"

              let margin =
                  Array.init 20 (fun row ->
                      let y = labels[row]

                      List.min
                          [ for c in 0 .. classes - 1 do
                                if c <> y then
                                    (z[row][y] - z[row][c]) / norm (Array.map2 (-) w2[y] w2[c]) ])

              near (pruner.Score "margin").Scores margin "margin"

          property "forgetting and the area under the margin are what was shown in training says"
          <| fun seed ->
              let labels, points = drawn seed 20
              use net = new Net(points, seed)

              use pruner =
                  new Pruner(net, labels, options = PruningOptions(Epochs = 6, Batch = 8, Seed = seed))

              let forgetting, under =
                  (pruner.Score "forgetting").Scores, (pruner.Score "aum").Scores
              // 6 epochs of 3 batches
              Expect.equal net.Trained.Count 18 "one training for both"

              for row in 0..19 do
                  let shown =
                      [ for rows, log in net.Trained do
                            for i in 0 .. rows.Length - 1 do
                                if rows[i] = row then
                                    log[i] ]

                  let y = labels[row]

                  let others (z: float[]) =
                      List.max
                          [ for c in 0..2 do
                                if c <> y then
                                    z[c] ]

                  let right = shown |> List.map (fun z -> z[y] > others z)

                  let times =
                      right |> List.pairwise |> List.filter (fun (a, b) -> a && not b) |> List.length

                  Expect.equal forgetting[row] (if List.contains true right then float times else infinity) "forgetting"
                  near [| under[row] |] [| shown |> List.averageBy (fun z -> z[y] - others z) |] "margin"

          property "norms of gradients by row are autograd's of each row's loss"
          <| fun seed ->
              use _ = torch.NewDisposeScope()
              let random = Random seed

              let x =
                  torch.tensor(Array.init 12 (fun _ -> normal random), dtype = torch.float64).view (4L, 3L)

              let theta =
                  torch.tensor (Array.init 3 (fun _ -> normal random), dtype = torch.float64)

              let layout = Sama.Functional.Layout.create [ "w", [| 3L |] ]
              // ½ (x·w)²: the gradient is (x·w) x
              let norms =
                  GradientNorms.ByRow(layout, theta, 4, fun w row -> (x[int64 row].dot w["w"]).square () * 0.5)

              let rows, w = Rows.FromTensor x, Rows.Vector theta
              closeAll norms (rows |> Array.map (fun x -> abs (Array.sum (Array.map2 (*) x w)) * norm x)) "norm" ]
