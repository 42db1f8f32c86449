/// Batches, labels and folders that are not what they should be: the thing is named, libtorch does not answer for it.
module Sama.Language.Tests.MisuseTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open TorchSharp
open Sama
open Sama.Language
open Sama.Language.Tests.Tiny

let private refused<'E when 'E :> exn> (shown: string) (body: unit -> unit) =
    Expect.throwsC body (fun e ->
        Expect.isTrue (e :? 'E) (string e)
        Expect.stringContains e.Message shown "reason")

let private ids (values: int64[]) : Tensor = torch.tensor(values).unsqueeze 0L

/// A folder of a tiny model whose config.json is changed.
let private changed (head: Head) (folder: Folder) (change: JsonObject -> unit) =
    use model = Encoder.Create(config Family.Bert, head, 1L)
    model.Save folder.Path
    let path = folder.At "config.json"
    let json = JsonNode.Parse(File.ReadAllText path).AsObject()
    change json
    File.WriteAllText(path, json.ToJsonString())

let private batches =
    [ for how in [ "itself"; "its scope" ] do
          testCase $"a batch is used after the end of {how}: it says so, and so do kept states"
          <| fun _ ->
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)

              let ended (make: unit -> #IDisposable) =
                  use scope = torch.NewDisposeScope()
                  let made = make ()

                  if how = "itself" then
                      (made :> IDisposable).Dispose()

                  made

              let batch = ended (fun () -> batch Family.Bert 5L)
              let one = torch.tensor [| 0L |]

              for call in
                  [ (fun () -> batch.Count |> ignore)
                    (fun () -> batch.Tokens |> ignore)
                    (fun () -> batch.InputIds |> ignore)
                    (fun () -> batch.AttentionMask |> ignore)
                    (fun () -> batch.TokenTypeIds |> ignore)
                    (fun () -> batch.Rows one |> ignore)
                    (fun () -> batch.To torch.CPU |> ignore)
                    (fun () -> model.Logits(model.At(), batch) |> ignore)
                    (fun () -> new LayerStates(model, batch, 1) |> ignore) ] do
                  refused<ObjectDisposedException> "TokenBatch" call

      testCase "a batch and states made in a scope and taken out of it live on"
      <| fun _ ->
          use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)

          let kept, states =
              use _ = torch.NewDisposeScope()
              (batch Family.Bert 5L).DetachFromDisposeScope(), new LayerStates(model, batch Family.Bert 5L, 1)

          Expect.equal (kept.Count, states.Count) (3L, 3L) "rows"
          (kept :> IDisposable).Dispose()
          (states :> IDisposable).Dispose()
          refused<ObjectDisposedException> "TokenBatch" (fun () -> states.Rows(torch.tensor [| 0L |]) |> ignore)

      testCase "rows that a batch has not are named"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
          let batch = batch Family.Bert 5L
          use states = new LayerStates(model, batch, 1)

          for rows, shown in
              [ torch.tensor [| 0L; 3L |], "rows holds 3; 0 to 2"
                torch.tensor [| -1L; 0L |], "rows holds -1"
                torch.tensor [| 0.0 |], "Float64"
                torch.tensor [| 0 |], "Int32"
                torch.zeros (0L, dtype = torch.int64), "[0]"
                torch.tensor 0L, "[rows]" ] do
              refused<ArgumentException> shown (fun () -> batch.Rows rows |> ignore)
              refused<ArgumentException> shown (fun () -> states.Rows rows |> ignore)

      testCase "disposed tensors make no batch"
      <| fun _ ->
          let gone = ids [| 1L |]
          gone.Dispose()
          refused<ArgumentException> "inputIds is disposed" (fun () -> new TokenBatch(gone) |> ignore)

          refused<ArgumentException> "attentionMask is disposed" (fun () ->
              new TokenBatch(ids [| 1L |], gone) |> ignore) ]

let private labelled =
    [ testCase "labels that are no class, or no token, are named"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
          use words = Encoder.Create(config Family.Bert, Head.MaskedLanguageModel, 1L)
          let batch = new TokenBatch(ids [| 2L; 7L; 3L |])

          for label in [ 3L; -1L; -100L ] do
              refused<ArgumentException> $"a label is {label}; 0 to 2" (fun () ->
                  model.Loss(model.At(), batch, torch.tensor [| label |]) |> ignore)

          for label in [ 40L; -1L ] do
              refused<ArgumentException> $"a label is {label}; 0 to 39" (fun () ->
                  words.Loss(words.At(), batch, ids [| -100L; label; 5L |]) |> ignore)

          let states = words.LastHiddenState(words.At(), batch)

          refused<ArgumentException> "a label is 40; 0 to 39" (fun () ->
              MaskedWords.Losses(states, ids [| -100L; 40L; 5L |], fun picked -> torch.zeros (picked.shape[0], 40L))
              |> ignore)

          let none = words.Losses(words.At(), batch, ids [| -100L; -100L; -100L |])
          Expect.equal none.shape [| 0L |] "nothing labelled, nothing wrong"

      testCase "a regression and several classes a text have logits, and no cross entropy"
      <| fun _ ->
          for problem, classes in [ "regression", 1; null, 1; "regression", 3; "multi_label_classification", 3 ] do
              use _ = torch.NewDisposeScope()
              use folder = new Folder()

              changed Head.Classifier folder (fun json ->
                  json["problem_type"] <- (if isNull problem then null else JsonValue.Create problem)

                  if classes = 1 then
                      json["id2label"] <- JsonNode.Parse """{"0":"score"}""")

              use model = Encoder.Load(folder.Path, resetHead = true)
              let batch = new TokenBatch(ids [| 2L; 7L; 3L |])
              Expect.equal (model.Logits(model.At(), batch).shape) [| 1L; int64 classes |] "logits"

              for call in
                  [ (fun () -> model.Loss(model.At(), batch, torch.tensor [| 0L |]) |> ignore)
                    (fun () -> model.LogProbabilities(model.At(), batch) |> ignore) ] do
                  refused<InvalidOperationException> "Logits" call

              use other = Encoder.Load(folder.Path, labels = 2, resetHead = true)
              other.Loss(other.At(), batch, torch.tensor [| 0L |]) |> ignore

      testCase "frozen parts are gone with the model"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          use whole = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
          let model = whole.FreezeLayers 1
          let theta = model.At(model.Initial.clone ())
          (model :> IDisposable).Dispose()

          Expect.throwsT<ObjectDisposedException>
              (fun () -> model.Logits(theta, batch Family.Bert 5L) |> ignore)
              "disposed" ]

let private folders =
    [ testCase "two classes of one name are read, and written as transformers has it"
      <| fun _ ->
          use folder = new Folder()
          use other = new Folder()

          changed Head.Classifier folder (fun json ->
              json["id2label"] <- JsonNode.Parse """{"0":"a","1":"b","2":"a"}""")

          use model = Encoder.Load folder.Path
          model.Save other.Path
          use again = Encoder.Load other.Path
          Expect.equal (List.ofSeq again.Config.Labels) [ "a"; "b"; "a" ] "names"
          let json = JsonNode.Parse(File.ReadAllText(other.At "config.json"))
          Expect.equal (json["label2id"].ToJsonString()) """{"a":2,"b":1}""" "numbers"

      testCase "a tokenizer that is not there is not left out in silence, and nothing is written"
      <| fun _ ->
          use empty = new Folder()
          use target = new Folder()
          use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
          use lora = model.WithLora()

          for source in [ empty.Path; empty.At "nowhere" ] do
              refused<FileNotFoundException> source (fun () -> model.Save(target.Path, tokenizerFolder = source))
              refused<FileNotFoundException> source (fun () -> lora.SaveAdapter(target.Path, tokenizerFolder = source))

          Expect.isEmpty (Directory.GetFiles target.Path) "nothing"

      testCase "a tensor's name that is no text is not written as another"
      <| fun _ ->
          use folder = new Folder()
          use one = torch.ones 1L

          refused<ArgumentException> "surrogate" (fun () ->
              Safetensors.Save(folder.At "f", [ struct ("x" + string (char 0xD800), one) ]))

          Expect.isFalse (File.Exists(folder.At "f")) "nothing" ]

let tests = testList "misuse" (batches @ labelled @ folders)
