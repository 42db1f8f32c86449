/// Rows over a Hugging Face folder: what is kept of frozen layers is what these layers give.
module Sama.TextCleaning.Tests.EncoderTests

open System
open System.IO
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.Language
open Sama.TextCleaning
open Sama.TextCleaning.Tests.Files

let private texts =
    [| "the ball of team"
       "bank"
       "new stock price last goal of"
       "nothing known" |]

let private all = [| 0; 1; 2; 3 |]

let private startOf (model: IRowClassifier) =
    let named = [ for struct (name, value) in model.Start 0L -> name, value ]
    Params.frozen (Layout.ofNamed named) (Layout.ravel named)

let private log (model: IRowClassifier) rows =
    Rows.FromTensor(model.LogProbabilities(startOf model, model.Read rows, false))

let tests =
    testList
        "encoder"
        [ for frozen in 0..3 do
              testCase $"{frozen} layers frozen: the whole model's log-probabilities, together and alone"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()

                  withFolder (fun folder ->
                      let folder = model folder

                      use rows =
                          new EncoderClassifier(folder, texts, [| "a"; "b" |], frozen) :> IRowClassifier

                      use tokenizer = Tokenizer.Load folder

                      use first =
                          Encoder.Load(
                              folder,
                              labelNames = [| "a"; "b" |],
                              head = Nullable Head.Classifier,
                              resetHead = true
                          )

                      use whole = first.WithMeanPooling()

                      use batch = tokenizer.EncodeBatch texts
                      let expected = Rows.FromTensor(whole.LogProbabilities(whole.At(), batch))
                      let found = log rows all

                      for row in all do
                          for c in 0..1 do
                              let close (actual: float) =
                                  // frozen states are kept in half precision
                                  Expect.isLessThan
                                      (abs (actual - expected[row].[c]))
                                      (if frozen = 0 then 1e-5 else 5e-3)
                                      $"row {row}"

                              close (found[row].[c])
                              close (Array.head (log rows [| row |]) |> Array.item c))

          testCase "θ is what is not frozen; a saved folder gives the same predictions"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              withFolder (fun folder ->
                  let source = model folder
                  use rows = new EncoderClassifier(source, texts, [| "a"; "b" |], 2)
                  let classifier = rows :> IRowClassifier
                  let theta = startOf classifier
                  Expect.isFalse (theta.Layout.Slices |> Seq.exists _.Name.Contains("layer.0")) "frozen"
                  Expect.isTrue (theta.Layout.Slices |> Seq.exists _.Name.Contains("layer.2")) "trained"
                  Expect.isFalse (theta.Layout.Slices |> Seq.exists _.Name.Contains("layer.3")) "averages"
                  let target = Path.Combine(folder, "saved")
                  rows.Save(target, (theta.Vector + 0.01).data<float32>().ToArray())
                  use saved = Encoder.Load target
                  Expect.sequenceEqual saved.Config.Labels [ "a"; "b" ] "labels"
                  use tokenizer = Tokenizer.Load target
                  use batch = tokenizer.EncodeBatch texts
                  let expected = Rows.FromTensor(saved.LogProbabilities(saved.At(), batch))
                  let moved = Params.frozen theta.Layout (theta.Vector + 0.01)

                  let found =
                      Rows.FromTensor(classifier.LogProbabilities(moved, classifier.Read all, false))

                  for row in all do
                      Expect.isLessThan (abs (found[row].[0] - expected[row].[0])) 5e-3 $"row {row}")

          testCase "rows that are not there, no rows, and what a classifier cannot be are named"
          <| fun _ ->
              withFolder (fun folder ->
                  let source = model folder
                  let two = [| "a"; "b" |]

                  for name, made in
                      [ "words", new WordClassifier(texts, 2, 4) :> IRowClassifier
                        "encoder", new EncoderClassifier(source, texts, two)
                        "trained", new EncoderClassifier(source, texts, two, 0) ] do
                      use made = made

                      for rows, word in [ [| 4 |], "row 4"; [| 0; -1 |], "row -1"; [||], "no rows" ] do
                          refused<ArgumentException> [ word; "rows" ] (fun () -> made.Read rows |> ignore)

                      refused<ArgumentNullException> [ "rows" ] (fun () -> made.Read null |> ignore)
                      Expect.isNonEmpty (made.Read [| 3; 3; 0 |]) name

                  for name, call in
                      [ "classes", (fun () -> new EncoderClassifier(source, texts, [| "a" |]))
                        "tokens", (fun () -> new EncoderClassifier(source, texts, two, tokens = 0))
                        "frozen", (fun () -> new EncoderClassifier(source, texts, two, -2))
                        "rate", (fun () -> new EncoderClassifier(source, texts, two, rate = Nullable nan))
                        "rate", (fun () -> new EncoderClassifier(source, texts, two, rate = Nullable 0.0)) ] do
                      refused<ArgumentException> [ $"(Parameter '{name}')" ] (fun () -> call () |> ignore))

          testCase "more layers than there are cannot be frozen; by default all are"
          <| fun _ ->
              withFolder (fun folder ->
                  let source = model folder

                  refused<ArgumentException> [ "4 layers of 3" ] (fun () ->
                      new EncoderClassifier(source, texts, [| "a"; "b" |], 4) |> ignore)

                  use rows = new EncoderClassifier(source, texts, [| "a"; "b" |])
                  Expect.equal rows.Frozen 3 "all"

                  let names = [ for slice in (startOf rows).Layout.Slices -> slice.Name ]

                  Expect.equal
                      (set names)
                      (set
                          [ "bert.pooler.dense.weight"
                            "bert.pooler.dense.bias"
                            "classifier.weight"
                            "classifier.bias" ])
                      "the head") ]
