/// config.json: transformers' defaults, what is kept, what is refused.
module Sama.Language.Tests.ConfigTests

open System
open System.IO
open System.Text.Json
open Expecto
open Sama.Language
open Sama.Language.Tests.Tiny

let private read (json: string) : EncoderConfig =
    use folder = new Folder()
    File.WriteAllText(folder.At "config.json", json)
    EncoderConfig.Read folder.Path

let private refused =
    [ """{}""", "model_type"
      """{"model_type":"gpt2"}""", "gpt2"
      """{"model_type":"bert","is_decoder":true}""", "is_decoder"
      """{"model_type":"bert","add_cross_attention":true}""", "add_cross_attention"
      """{"model_type":"bert","position_embedding_type":"relative_key"}""", "relative_key"
      """{"model_type":"bert","hidden_size":10,"num_attention_heads":3}""", "heads"
      """{"model_type":"bert","hidden_act":"mish"}""", "mish"
      """{"model_type":"bert","num_hidden_layers":2.5}""", "num_hidden_layers"
      """{"model_type":"bert","vocab_size":-3}""", "vocab_size"
      """{"model_type":"bert","hidden_dropout_prob":1.0}""", "hidden_dropout_prob"
      """{"model_type":"bert","tie_word_embeddings":false}""", "tie_word_embeddings"
      """{"model_type":"bert","id2label":{"0":"a","2":"b"}}""", "id2label"
      """{"model_type":"bert","pad_token_id":40000}""", "pad"
      """{"model_type":"roberta","max_position_embeddings":2}""", "positions"
      """[1]""", "object"
      """{"model_type":""", "JSON" ]

let tests =
    testList
        "configuration"
        [ testCase "absent keys have the class's defaults, RoBERTa's too"
          <| fun _ ->
              for family, name in [ Family.Bert, "bert"; Family.Roberta, "roberta" ] do
                  let found = read $$"""{"model_type":"{{name}}"}"""
                  let usual = EncoderConfig.Default family

                  Expect.equal
                      { found with
                          Labels = usual.Labels
                          Source = null }
                      usual
                      name

                  Expect.equal (List.ofSeq found.Labels) [ "LABEL_0"; "LABEL_1" ] "two labels"
                  Expect.equal found.LayerNormEpsilon 1e-12 "layer_norm_eps"
                  Expect.equal found.MaximumTokens (if family = Family.Bert then 512L else 510L) "longest input"

          testCase "what is written is read, unknown keys are kept"
          <| fun _ ->
              use folder = new Folder()

              let source =
                  { config Family.Roberta with
                      ClassifierDropout = Nullable 0.25
                      Activation = Activation.Silu
                      Source = """{"chunk_size_feed_forward":7,"torch_dtype":"float16","hidden_act":"swish"}""" }

              source.Write(folder.Path, "RobertaForSequenceClassification")
              let found = EncoderConfig.Read folder.Path
              Expect.equal (List.ofSeq found.Labels) (List.ofSeq source.Labels) "labels"

              Expect.equal
                  { found with
                      Source = null
                      Architecture = null
                      Labels = null }
                  { source with
                      Source = null
                      Labels = null }
                  "all"

              use json = JsonDocument.Parse(File.ReadAllText(folder.At "config.json"))

              let key (name: string) =
                  (json.RootElement.GetProperty name).ToString()

              Expect.equal (key "chunk_size_feed_forward") "7" "kept"
              Expect.equal (key "hidden_act") "swish" "its own name stays"
              Expect.equal (key "dtype") "float32" "dtype"
              Expect.isFalse (fst (json.RootElement.TryGetProperty "torch_dtype")) "the old key is gone"

          testCase "other labels are of one class a text: the kind of problem before is not written"
          <| fun _ ->
              let found =
                  read
                      """{"model_type":"bert","problem_type":"multi_label_classification","chunk_size_feed_forward":7}"""

              let keys (config: EncoderConfig) =
                  use folder = new Folder()
                  config.Write(folder.Path, "BertForSequenceClassification")
                  use json = JsonDocument.Parse(File.ReadAllText(folder.At "config.json"))
                  [ for key in json.RootElement.EnumerateObject() -> key.Name ]

              Expect.contains (keys found) "problem_type" "its own labels"
              let other = keys (found.WithLabels [| "a"; "b"; "c" |])
              Expect.isFalse (List.contains "problem_type" other) "other labels"
              Expect.contains other "chunk_size_feed_forward" "the rest"

          for name, change in
              [ "vocabulary", (fun (c: EncoderConfig) -> { c with VocabularySize = 0L })
                "hidden size", (fun c -> { c with HiddenSize = -12L })
                "heads", (fun c -> { c with Heads = 0L })
                "layers", (fun c -> { c with Layers = -1 })
                "intermediate", (fun c -> { c with IntermediateSize = 0L })
                "positions", (fun c -> { c with Positions = Int64.MaxValue })
                "token types", (fun c -> { c with TokenTypes = Int64.MaxValue })
                "hidden dropout", (fun c -> { c with HiddenDropout = -1.0 })
                "attention dropout", (fun c -> { c with AttentionDropout = 1e308 })
                "classifier dropout",
                (fun c ->
                    { c with
                        ClassifierDropout = Nullable nan })
                "epsilon", (fun c -> { c with LayerNormEpsilon = nan })
                "new weights", (fun c -> { c with InitializerRange = infinity })
                "labels", (fun c -> { c with Labels = null })
                "pad", (fun c -> { c with PadTokenId = -1L }) ] do
              testCase $"a model of an impossible {name} is refused, the thing named"
              <| fun _ ->
                  Expect.throwsC
                      (fun () -> Encoder.Create(change (config Family.Bert), Head.Classifier) |> ignore)
                      (fun e ->
                          Expect.isTrue (e :? ArgumentException) (string e)
                          Expect.stringContains e.Message name "named"
                          Expect.stringContains e.Message "(Parameter 'config')" "argument")

          testCase "no config, no such head, shards of nothing"
          <| fun _ ->
              let refused (call: unit -> unit) (word: string) =
                  Expect.throwsC call (fun e ->
                      Expect.isTrue (e :? ArgumentException) (string e)
                      Expect.stringContains e.Message word "named")

              refused (fun () -> Encoder.Create(Unchecked.defaultof<_>, Head.None) |> ignore) "config"
              refused (fun () -> Encoder.Create(config Family.Bert, enum<Head> 99) |> ignore) "head"
              use model = Encoder.Create(config Family.Bert, Head.Classifier)

              for bytes in [ 0L; -1L ] do
                  refused (fun () -> model.Save("nowhere", shardBytes = bytes)) "shardBytes"

              Expect.isFalse (Directory.Exists "nowhere") "nothing is written"

          for json, shown in refused do
              testCase $"refused: {json}"
              <| fun _ ->
                  Expect.throwsC (fun () -> read json |> ignore) (fun e ->
                      Expect.isTrue (e :? InvalidDataException) (string e)
                      Expect.stringContains e.Message "config.json" "file"
                      Expect.stringContains e.Message shown "reason") ]
