/// Nets of images as functions of their parameters.
module Sama.DataPruning.Tests.ClassifierTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.DataPruning
open Sama.DataPruning.Tests.Files

let private set (channels: int) (side: int) : ImageSet =
    let random = Random 1
    let pixels = Array.zeroCreate<byte> (6 * channels * side * side)
    random.NextBytes pixels

    { Name = "drawn"
      Classes = [| "a"; "b"; "c" |]
      Channels = channels
      Height = side
      Width = side
      Ids = Array.init 6 string
      Labels = [| 0; 1; 2; 0; 1; 2 |]
      Pixels = pixels }

let private startOf (model: IRowClassifier) =
    let named = [ for struct (name, value) in model.Start 3L -> name, value ]
    Params.frozen (Layout.ofNamed named) (Layout.ravel named)

let tests =
    testList
        "classifier"
        [ for name in ImageClassifier.Models do
              for channels, side in [ 1, 28; 3, 32; 1, 13 ] do
                  testCase
                      $"{name}, {channels} x {side} x {side}: rows alone and together; the head is linear in the features"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()
                      use model = new ImageClassifier(set channels side, name)
                      let rows = model :> IRowClassifier
                      let theta = startOf rows

                      let log picked =
                          Rows.FromTensor(rows.LogProbabilities(theta, rows.Read picked, false))

                      let all = log [| 0..5 |]

                      for row in 0..5 do
                          let alone = log [| row |]
                          Array.iter2 (fun a b -> Expect.isLessThan (abs (a - b)) 1e-4 "alone") all[row] alone[0]
                          Expect.isLessThan (abs (Array.sumBy exp all[row] - 1.0)) 1e-5 "probabilities"

                      let head = model :> ILinearHead
                      let h = head.Features(theta, rows.Read [| 0..5 |])
                      let z = torch.nn.functional.linear (h, theta[head.HeadWeight], theta["head.bias"])
                      let expected = Rows.FromTensor(torch.nn.functional.log_softmax (z, 1L))
                      Array.iter2 (Array.iter2 (fun a b -> Expect.isLessThan (abs (a - b)) 1e-4 "head")) all expected

          testCase "pixels have mean 0 and variance 1 by channel; starts follow the seed; misuse is named"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = new ImageClassifier(set 3 16)
              let rows = model :> IRowClassifier
              let x = (rows.Read [| 0..5 |])[0]

              for c in 0L .. 2L do
                  let channel = x.select (1L, c)
                  Expect.isLessThan (abs (channel.mean().item<float32> ())) 1e-4f "mean"
                  Expect.isLessThan (abs (channel.std(false).item<float32> () - 1f)) 1e-3f "spread"

              let start seed =
                  [ for struct (_, value) in rows.Start seed -> Rows.Vector(value.reshape -1L) ]
                  |> Array.concat

              Expect.equal (start 1L) (start 1L) "same"
              Expect.notEqual (start 1L) (start 2L) "another"

              refused<ArgumentException> [ "'vgg'"; "lenet, resnet" ] (fun () ->
                  new ImageClassifier(set 1 16, "vgg") |> ignore)

              refused<ArgumentException> [ "7 x 7"; "8 x 8" ] (fun () -> new ImageClassifier(set 1 7) |> ignore) ]
