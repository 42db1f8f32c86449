/// Low-rank adapters: nothing at first, merged = beside, PEFT's folders.
module Sama.Language.Tests.AdapterTests

open System
open System.IO
open System.Text.Json
open System.Text.Json.Nodes
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language
open Sama.Language.Tests.Tiny

/// θ with every adapter at work.
let private trained (seed: int64) (model: Encoder) = shaken seed model

let tests =
    testList
        "adapters"
        [ for family in families do
              testList
                  $"{family}"
                  [ testCase "at first the function is the base's; θ is adapters and classifier alone"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 1L (config family) Head.Classifier
                        use lora = model.WithLora(LoraOptions(rank = 2), 3L)
                        let batch = batch family 2L

                        Expect.equal
                            (apart (lora.Logits(lora.At(), batch)) (model.Logits(model.At(), batch)))
                            0.0
                            "logits"

                        for slice in lora.Layout.Slices do
                            Expect.isTrue
                                (slice.Name.Contains ".lora_" || slice.Name.StartsWith "classifier")
                                slice.Name

                        let adapters =
                            lora.Layout.Slices |> Seq.filter _.Name.Contains(".lora_") |> Seq.sumBy _.Length

                        Expect.equal adapters (2L * 2L * 2L * (12L + 12L)) "layers, parts, rank, sides"

                    testCase "merged = adapters beside their parts, and a folder of either is the same model"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 4L (config family) Head.Classifier

                        let options =
                            LoraOptions(
                                rank = 3,
                                alpha = 5.0,
                                targets = [| "query"; "key"; "value"; "dense" |],
                                trained = [||]
                            )

                        use lora =
                            if family = Family.Bert then
                                model.WithLora(options, 5L)
                            else
                                model.WithLora(
                                    LoraOptions(rank = 3, alpha = 5.0, targets = [| "key"; "intermediate.dense" |]),
                                    5L
                                )

                        let theta, batch = trained 6L lora, batch family 7L
                        let beside = lora.Logits(lora.At theta, batch)

                        Expect.isGreaterThan
                            (apart beside (model.Logits(model.At(), batch)))
                            1e-3
                            "the adapters do something"

                        let merged = lora.Merge theta
                        Expect.isLessThan (apart (model.Logits(model.At merged, batch)) beside) 1e-12 "merged"

                        use folder = new Folder()
                        lora.Save(folder.Path, theta)
                        use whole = Encoder.Load(folder.Path, dtype = torch.ScalarType.Float64)

                        Expect.equal
                            (apart (whole.Logits(whole.At(), batch)) (model.Logits(model.At merged, batch)))
                            0.0
                            "saved whole"

                        Expect.isNull whole.Lora "an ordinary folder"

                        use own = new Folder()
                        lora.SaveAdapter(own.Path, theta)
                        use again = model.LoadAdapter own.Path
                        Expect.isTrue (again.Initial.Equals theta) "saved alone, bit by bit"
                        Expect.equal (apart (again.Logits(again.At(), batch)) beside) 0.0 "and read" ]

          testCase "the gradient is that of the merged function along A and B"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = exact 8L (config Family.Bert) Head.Classifier
              use lora = model.WithLora(LoraOptions(rank = 2, alpha = 3.0), 9L)
              let theta, batch = trained 10L lora, batch Family.Bert 11L
              let gradient = torch.zeros_like theta
              (lora.Loss(Params.leaves lora.Layout theta gradient, batch, labels ())).backward ()

              let loss (vector: Tensor) =
                  (model.Loss(model.At(lora.Merge vector), batch, labels ())).item<float> ()

              use generator = new torch.Generator 12UL

              let direction =
                  torch.randn (theta.shape, dtype = torch.float64, generator = generator)

              let numeric =
                  (loss (theta + direction * 1e-5) - loss (theta - direction * 1e-5)) / 2e-5

              let exact = (gradient.dot direction).item<float> ()
              Expect.isLessThan (abs (numeric - exact) / abs exact) 1e-7 ""

          testCase "a folder of adapters has PEFT's names and keys"
          <| fun _ ->
              use folder = new Folder()
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
              use lora = model.WithLora(LoraOptions(rank = 4, alpha = 8.0, dropout = 0.1))
              lora.SaveAdapter folder.Path
              use file = SafetensorsFile.Open(folder.At "adapter_model.safetensors")
              let names = [ for e in file.Entries -> e.Name ]
              Expect.contains names "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight" "A"
              Expect.contains names "base_model.model.bert.encoder.layer.1.attention.self.value.lora_B.weight" "B"
              Expect.contains names "base_model.model.classifier.bias" "the classifier"
              use json = JsonDocument.Parse(File.ReadAllText(folder.At "adapter_config.json"))

              let key (name: string) =
                  (json.RootElement.GetProperty name).ToString()

              Expect.equal
                  (key "peft_type", key "r", key "lora_alpha", key "task_type")
                  ("LORA", "4", "8", "SEQ_CLS")
                  "keys"

          testCase
              "a folder as PEFT writes it: modules that the model has not are passed over, options that are not known are not"
          <| fun _ ->
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
              use lora = model.WithLora(LoraOptions(rank = 4))

              let edited (change: JsonObject -> unit) (read: string -> unit) =
                  use folder = new Folder()
                  lora.SaveAdapter folder.Path
                  let path = folder.At "adapter_config.json"
                  let json = JsonNode.Parse(File.ReadAllText path).AsObject()
                  change json
                  File.WriteAllText(path, json.ToJsonString())
                  read folder.Path

              // PEFT names the modules of both kinds of classifiers, and one again that is asked for
              edited
                  (fun json -> json["modules_to_save"] <- JsonNode.Parse """["classifier","classifier","score"]""")
                  (fun folder ->
                      use read = model.LoadAdapter folder
                      Expect.equal (apart read.Initial lora.Initial) 0.0 "the same")

              edited (fun json -> json["modules_to_save"] <- JsonNode.Parse """["score"]""") (fun folder ->
                  Expect.throwsC (fun () -> model.LoadAdapter folder |> ignore) (fun e ->
                      Expect.isTrue (e :? InvalidDataException && e.Message.Contains "classifier") e.Message))

              for key, value in
                  [ "layers_to_transform", "[0]"
                    "layers_to_transform", "0"
                    "exclude_modules", "[\"value\"]"
                    "rank_pattern", "{\"query\":2}" ] do
                  edited (fun json -> json[key] <- JsonNode.Parse value) (fun folder ->
                      Expect.throwsC (fun () -> model.LoadAdapter folder |> ignore) (fun e ->
                          Expect.isTrue (e :? InvalidDataException && e.Message.Contains key) e.Message))

          testCase "adapters in half precision are widened; those of whole numbers are refused"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
              use lora = model.WithLora(LoraOptions(rank = 4))

              let stored (dtype: torch.ScalarType) (read: string -> unit) =
                  use folder = new Folder()
                  lora.SaveAdapter folder.Path
                  let path = folder.At "adapter_model.safetensors"

                  let tensors =
                      use file = SafetensorsFile.Open path
                      [ for entry in file.Entries -> struct (entry.Name, file.Read(entry.Name).to_type dtype) ]

                  Safetensors.Save(path, tensors)
                  read folder.Path

              stored torch.bfloat16 (fun folder ->
                  use read = model.LoadAdapter folder
                  let half = lora.Initial.to_type(torch.bfloat16).to_type torch.float32
                  Expect.equal (apart read.Initial half) 0.0 "exactly")

              stored torch.int64 (fun folder ->
                  Expect.throwsC (fun () -> model.LoadAdapter folder |> ignore) (fun e ->
                      Expect.isTrue (e :? InvalidDataException && e.Message.Contains "I64") e.Message))

          testCase "what does not fit is refused by name"
          <| fun _ ->
              use folder = new Folder()
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
              use lora = model.WithLora(LoraOptions(rank = 4))
              Expect.throwsT<ArgumentException> (fun () -> LoraOptions(rank = 0) |> ignore) "rank"
              Expect.throwsT<ArgumentException> (fun () -> LoraOptions(alpha = nan) |> ignore) "alpha"

              Expect.throwsT<ArgumentException>
                  (fun () -> model.WithLora(LoraOptions(targets = [| "q_proj" |])) |> ignore)
                  "target"

              Expect.throwsT<ArgumentException>
                  (fun () -> model.WithLora(LoraOptions(trained = [| "head" |])) |> ignore)
                  "module"

              Expect.throwsT<InvalidOperationException> (fun () -> lora.WithLora() |> ignore) "twice"
              Expect.throwsT<InvalidOperationException> (fun () -> lora.FreezeLayers 1 |> ignore) "frozen already"
              Expect.throwsT<InvalidOperationException> (fun () -> model.SaveAdapter folder.Path) "none to save"
              lora.SaveAdapter folder.Path

              use other =
                  Encoder.Create({ config Family.Bert with Layers = 1 }, Head.Classifier, 1L)

              Expect.throwsT<InvalidDataException> (fun () -> other.LoadAdapter folder.Path |> ignore) "another model"
              let path = folder.At "adapter_config.json"
              File.WriteAllText(path, File.ReadAllText(path).Replace("\"bias\": \"none\"", "\"bias\": \"all\""))

              Expect.throwsC (fun () -> model.LoadAdapter folder.Path |> ignore) (fun e ->
                  Expect.isTrue (e :? InvalidDataException && e.Message.Contains "'bias'") e.Message) ]
