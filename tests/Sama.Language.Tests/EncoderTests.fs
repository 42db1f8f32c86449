/// The network against a plain one, and folders.
module Sama.Language.Tests.EncoderTests

open System
open System.IO
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language
open Sama.Language.Tests.Tiny

let private gradientOf (model: Encoder) (vector: Tensor) (loss: Params -> Tensor) : Tensor =
    Scope.tensor (fun () ->
        let gradient = torch.zeros_like vector
        (loss (Params.leaves model.Layout vector gradient)).backward ()
        gradient)

let private masked (draw: int64) (body: unit -> Tensor) =
    Draw.masks
        { Seed = draw
          Step = 3L
          Stream = 0
          Rank = 0 }
        body

let private heads = [ Head.None; Head.Classifier; Head.MaskedLanguageModel ]

let tests =
    testList
        "encoder"
        [ for family in families do
              testList
                  $"{family}"
                  [ testCase "logits = those of loops over rows and tokens, padding and masks included"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 1L (config family) Head.Classifier
                        let batch = batch family 2L
                        let found = model.Logits(model.At(), batch)
                        let ids, types = batch.InputIds, batch.TokenTypeIds

                        for row, length in [ 0L, 7L; 1L, 5L; 2L, 3L ] do
                            let values (t: Tensor) =
                                t[row].narrow(0L, 0L, length).contiguous().data<int64>().ToArray()

                            let expected = oracle model.Config (model.At()) (values ids) (values types)
                            Expect.isLessThan (apart found[row] expected) 1e-12 $"row {row}"

                    testCase
                        "log-probabilities from kept states of any layer are the whole model's, gradient above included"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 5L (config family) Head.Classifier
                        let batch = batch family 6L
                        let states = model.HiddenStates(model.At(), batch)
                        let whole = model.LogProbabilities(model.At(), batch)

                        for layers in 0 .. model.Config.Layers do
                            let part = model.LogProbabilitiesFrom(model.At(), batch, states[layers], layers)

                            Expect.isLessThan (apart part whole) 1e-12 $"{layers} layers"

                        use frozen = model.FreezeLayers 1

                        let gradient (log: Params -> Tensor) =
                            gradientOf frozen frozen.Initial (fun theta -> (log theta).square().sum ())

                        let kept =
                            gradient (fun theta -> frozen.LogProbabilitiesFrom(theta, batch, states[1], 1))

                        let expected = gradient (fun theta -> frozen.LogProbabilities(theta, batch))
                        Expect.isLessThan (apart kept expected) 1e-12 "gradient"

                        Expect.throwsT<ArgumentException>
                            (fun () ->
                                model.LogProbabilitiesFrom(model.At(), batch, states[0].narrow (1L, 0L, 2L), 0)
                                |> ignore)
                            "another shape"

                    testCase
                        "a head of one's own lies beside the encoder in θ, behind kept states too; a name or shape that is not the model's is told"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use whole = exact 5L (config family) Head.None
                        use model = whole.FreezeLayers 1
                        let batch = batch family 6L
                        let states = whole.HiddenStates(whole.At(), batch)

                        let beside (more: (string * Tensor) list) =
                            let named = more @ [ for struct (name, value) in model.Parameters -> name, value ]
                            Params.frozen (Layout.ofNamed named) (Layout.ravel named)

                        let head = torch.ones (3L, 12L, dtype = torch.float64)
                        let theta = beside [ "head", head ]

                        for layers in 1 .. model.Config.Layers do
                            let last = model.LastHiddenStateFrom(theta, batch, states[layers], layers)
                            Expect.isLessThan (apart last (Seq.last states)) 1e-12 $"{layers} layers"

                        Expect.isLessThan (apart theta["head"] head) 1e-15 "the head is there"
                        let first = Seq.head model.Layout.Slices

                        let other (changed: string -> Tensor -> (string * Tensor) list) =
                            let named =
                                ("head", torch.ones (1000L, 12L, dtype = torch.float64))
                                :: [ for struct (name, value) in model.Parameters do
                                         yield!
                                             if name = first.Name then
                                                 changed name value
                                             else
                                                 [ name, value ] ]

                            let theta = Params.frozen (Layout.ofNamed named) (Layout.ravel named)

                            Expect.throwsC (fun () -> model.LastHiddenState(theta, batch) |> ignore) (fun e ->
                                Expect.isTrue (e :? ArgumentException) "an argument's"
                                Expect.stringContains e.Message first.Name "named")

                        other (fun _ _ -> [])
                        other (fun name value -> [ name, value.unsqueeze 0L ])

                    testCase "plain = fused attention, in value and gradient"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 3L (config family) Head.Classifier
                        use plain = model.WithAttention Attention.Plain
                        let batch = batch family 4L

                        let both (m: Encoder) =
                            m.Logits(m.At(), batch),
                            gradientOf m m.Initial (fun theta -> m.Loss(theta, batch, labels ()))

                        let (a, ga), (b, gb) = both model, both plain
                        Expect.isLessThan (apart a b) 1e-13 "float64 logits"
                        Expect.isLessThan (apart ga gb) 1e-13 "float64 gradient"
                        use narrow = Encoder.Create(config family, Head.Classifier, 5L)
                        use narrowPlain = narrow.WithAttention Attention.Plain
                        let a, b = narrow.Logits(narrow.At(), batch), narrowPlain.Logits(narrow.At(), batch)
                        Expect.isLessThan (apart a b) 1e-5 "float32 logits of size 1"

                    testCase "a row without any token is finite, both ways"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = Encoder.Create(config family, Head.Classifier, 6L)
                        use plain = model.WithAttention Attention.Plain
                        let ids = torch.full ([| 2L; 4L |], Scalar.op_Implicit 7L, dtype = torch.int64)
                        let mask = torch.tensor([| 1L; 1L; 1L; 1L; 0L; 0L; 0L; 0L |]).view (2L, 4L)
                        let batch = new TokenBatch(ids, mask)

                        for m in [ model; plain ] do
                            Expect.isTrue (m.Logits(m.At(), batch).isfinite().all().item<bool> ()) $"{m.Attention}"

                    testCase "dropout is the draw's, and off in evaluation"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = Encoder.Create(config family, Head.Classifier, 7L)
                        let batch = batch family 8L

                        let logits draw training =
                            masked draw (fun () -> model.Logits(model.At(), batch, training))

                        Expect.equal (apart (logits 1L true) (logits 1L true)) 0.0 "the same draw"
                        Expect.isGreaterThan (apart (logits 1L true) (logits 2L true)) 1e-3 "another draw"
                        Expect.isGreaterThan (apart (logits 1L true) (logits 1L false)) 1e-3 "training"
                        Expect.equal (apart (logits 1L false) (logits 2L false)) 0.0 "evaluation"

                    testCase "masked language model: losses of the labelled positions, tied output table"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 9L (config family) Head.MaskedLanguageModel
                        let batch = batch family 10L

                        let wanted =
                            torch.full ([| 3L; 7L |], Scalar.op_Implicit -100L, dtype = torch.int64)

                        wanted[0L, 1L] <- torch.tensor 6L
                        wanted[2L, 0L] <- torch.tensor 9L
                        let losses = model.Losses(model.At(), batch, wanted)
                        let all = torch.nn.functional.log_softmax (model.Logits(model.At(), batch), 2L)
                        let expected = torch.stack [| -all[0L, 1L, 6L]; -all[2L, 0L, 9L] |]
                        Expect.isLessThan (apart losses expected) 1e-12 "row-major"

                        let none = torch.full_like (wanted, Scalar.op_Implicit -100L)
                        Expect.isTrue (Double.IsNaN(model.Loss(model.At(), batch, none).item<float> ())) "no label"
                        let names = [ for s in model.Layout.Slices -> s.Name ]
                        Expect.isFalse (names |> List.exists _.Contains("decoder")) "no table of its own"

                    for head in heads do
                        testCase $"{head}: written and read back bit by bit, files of the tokenizer along"
                        <| fun _ ->
                            use folder = new Folder()
                            use again = new Folder()
                            use start = Encoder.Create(config family, head, 11L)
                            use vector = shaken 12L start
                            File.WriteAllText(folder.At "tokenizer_config.json", "{}")
                            start.Save(folder.Path, vector, shardBytes = 2000L)
                            use read = Encoder.Load folder.Path
                            Expect.isTrue (read.Initial.Equals vector) "from shards"

                            Expect.equal
                                (read.Head, read.Report.NewlyInitialised.Count, read.Report.Unused.Count)
                                (head, 0, 0)
                                "whole"

                            read.Save again.Path
                            use twice = Encoder.Load again.Path
                            Expect.isTrue (twice.Initial.Equals vector) "from one file"
                            Expect.isTrue (File.Exists(again.At "tokenizer_config.json")) "copied"
                            use file = SafetensorsFile.Open(again.At "model.safetensors")
                            Expect.equal file.Metadata["format"] "pt" "metadata"

                    testCase "a head that the folder has not is drawn by the seed and reported"
                    <| fun _ ->
                        use folder = new Folder()
                        use bare = Encoder.Create(config family, Head.None, 13L)
                        bare.Save folder.Path
                        use a = Encoder.Load(folder.Path, labels = 4, seed = 1L)
                        use b = Encoder.Load(folder.Path, labels = 4, seed = 1L)
                        use c = Encoder.Load(folder.Path, labels = 4, seed = 2L)
                        Expect.isTrue (a.Initial.Equals b.Initial) "the same seed"
                        Expect.isFalse (a.Initial.Equals c.Initial) "another seed"

                        Expect.isTrue
                            (a.Report.NewlyInitialised |> Seq.forall _.StartsWith("classifier."))
                            "the head alone"

                        Expect.isGreaterThan a.Report.NewlyInitialised.Count 1 "reported"
                        Expect.equal a.Config.Labels.Count 4 "labels"

                    testCase "an encoder that is not whole is refused, whatever its head"
                    <| fun _ ->
                        for head in [ Head.None; Head.Classifier; Head.MaskedLanguageModel ] do
                            use folder = new Folder()
                            use model = Encoder.Create(config family, head, 13L)
                            model.Save folder.Path
                            let path = folder.At "config.json"
                            let json = File.ReadAllText path
                            let deeper = json.Replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")
                            Expect.notEqual deeper json "another number of layers"
                            File.WriteAllText(path, deeper)

                            Expect.throwsC
                                (fun () -> Encoder.Load(folder.Path, labels = 4, resetHead = true) |> ignore)
                                (fun e ->
                                    Expect.isTrue (e :? InvalidDataException) (string e)
                                    Expect.stringContains e.Message folder.Path "folder"
                                    Expect.stringContains e.Message "encoder.layer.2." "parameter")

                    testCase "disposed twice; used afterwards it says so"
                    <| fun _ ->
                        use folder = new Folder()
                        let model = Encoder.Create(config family, Head.Classifier, 13L)
                        let dispose () = (model :> IDisposable).Dispose()
                        dispose ()
                        dispose ()

                        for call in
                            [ (fun () -> model.Initial |> ignore)
                              (fun () -> model.At() |> ignore)
                              (fun () -> model.Parameters |> ignore)
                              (fun () -> model.Save folder.Path)
                              (fun () -> model.Merge() |> ignore)
                              (fun () -> model.WithAttention Attention.Plain |> ignore)
                              (fun () -> model.WithLora() |> ignore)
                              (fun () -> model.WithMeanPooling() |> ignore)
                              (fun () -> model.FreezeLayers 1 |> ignore) ] do
                            Expect.throwsT<ObjectDisposedException> call "disposed"

                    testCase "a head of another size is refused, or drawn anew when asked"
                    <| fun _ ->
                        use folder = new Folder()
                        use model = Encoder.Create(config family, Head.Classifier, 14L)
                        model.Save folder.Path

                        let load labels reset =
                            Encoder.Load(folder.Path, labels = labels, resetHead = reset)

                        Expect.throwsC (fun () -> load 5 false |> ignore) (fun e ->
                            Expect.isTrue (e :? InvalidDataException && e.Message.Contains "resetHead") e.Message)

                        use again = load 5 true
                        Expect.isGreaterThan again.Report.NewlyInitialised.Count 1 "drawn"
                        Expect.isGreaterThan again.Report.Unused.Count 1 "and the old one unused"

                    testCase "frozen parts are constants: value and gradient of the rest stay"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = exact 15L (config family) Head.Classifier
                        use frozen = model.FreezeLayers 1
                        use twice = frozen.Freeze(fun name -> name.EndsWith "LayerNorm.bias")
                        let batch = batch family 16L

                        let whole =
                            gradientOf model model.Initial (fun theta -> model.Loss(theta, batch, labels ()))

                        for part in [ frozen; twice ] do
                            Expect.isLessThan part.Layout.Length model.Layout.Length "smaller"

                            Expect.equal
                                (apart (part.Logits(part.At(), batch)) (model.Logits(model.At(), batch)))
                                0.0
                                "logits"

                            let own =
                                gradientOf part part.Initial (fun theta -> part.Loss(theta, batch, labels ()))

                            let expected = Parameters.views model.Layout whole

                            for slice in part.Layout.Slices do
                                Expect.isLessThan
                                    (apart (Parameters.view own slice) expected[slice.Name])
                                    1e-15
                                    slice.Name

                            use merged = part.Merge()
                            Expect.isTrue (merged.Equals model.Initial) "the whole model is still there"

                        Expect.throwsT<ArgumentException> (fun () -> model.Freeze(fun _ -> true) |> ignore) "everything"
                        Expect.throwsT<ArgumentException> (fun () -> model.Freeze(fun _ -> false) |> ignore) "nothing"

                    testCase "frozen parts follow θ to another type"
                    <| fun _ ->
                        use _ = torch.NewDisposeScope()
                        use model = Encoder.Create(config family, Head.Classifier, 17L)
                        use frozen = model.FreezeLayers 2
                        let batch = batch family 18L
                        let wide = frozen.Initial.to_type torch.float64
                        let found = frozen.Logits(frozen.At wide, batch)
                        Expect.equal found.dtype torch.float64 "type"
                        Expect.isLessThan (apart found (model.Logits(model.At(), batch))) 1e-4 "value"
                        let half = frozen.Initial.to_type torch.bfloat16
                        let found = frozen.Logits(frozen.At half, batch, true)
                        Expect.equal found.dtype torch.bfloat16 "bfloat16, dropout included"
                        Expect.isTrue (found.isfinite().all().item<bool> ()) "finite" ]

          testCase "dropout masks: shares, scale, independence, seeds, every length"
          <| fun _ ->
              for share in [ 0.1; 0.5; 0.9 ] do
                  let mask seed length =
                      let values = Array.zeroCreate<float32> length
                      DropoutMask.fill seed share 2f (Span values)
                      values |> Array.map float

                  let count = 1 <<< 20
                  let a, b = mask 1L count, mask 2L count
                  Expect.isTrue (a |> Array.forall (fun x -> x = 0.0 || x = 2.0)) "two values"
                  let kept = a |> Array.map (fun x -> x / 2.0 - (1.0 - share))
                  let spread = sqrt (share * (1.0 - share) / float count)
                  Expect.isLessThan (abs (Array.average kept)) (5.0 * spread) "share"

                  // neighbours, the lanes' own next numbers, other seeds
                  let correlation (x: float[]) (y: float[]) =
                      (Array.map2 (*) x y |> Array.average) / (share * (1.0 - share))

                  for lag in [ 1; 2; 4; 8; 16; 64 ] do
                      let x, y = Array.truncate (count - lag) kept, Array.skip lag kept
                      Expect.isLessThan (abs (correlation x y)) 0.005 $"lag {lag}"

                  let other = b |> Array.map (fun x -> x / 2.0 - (1.0 - share))
                  Expect.isLessThan (abs (correlation kept other)) 0.005 "seeds"

                  for length in 0..20 do
                      Expect.equal (mask 1L length) (Array.truncate length a) $"the first {length}"

          testCase "dropout keeps the mean, in each type, and its gradient is the mask"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              for dtype in [ torch.float32; torch.float64; torch.bfloat16 ] do
                  let x = torch.ones([| 1000L; 101L |], dtype = dtype).requires_grad_ true
                  let y = DropoutMask.apply 0.25 x
                  Expect.equal y.dtype dtype "type"
                  let mean = y.to_type(torch.float64).mean().item<float> ()
                  Expect.isLessThan (abs (mean - 1.0)) 0.02 "mean"
                  y.sum().backward ()
                  Expect.equal (apart x.grad (y.detach ())) 0.0 "gradient"

          testCase "what a model cannot read is refused by name"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 1L)
              use roberta = Encoder.Create(config Family.Roberta, Head.Classifier, 1L)
              let ids (values: int64[]) = torch.tensor(values).unsqueeze 0L
              let logits (m: Encoder) batch = m.Logits(m.At(), batch) |> ignore

              let refused shown body =
                  Expect.throwsC body (fun e ->
                      Expect.isTrue (e :? ArgumentException) (string e)
                      Expect.stringContains e.Message shown "reason")

              refused "id 40" (fun () -> logits model (new TokenBatch(ids [| 40L |])))
              refused "token type 2" (fun () -> logits model (new TokenBatch(ids [| 4L |], null, ids [| 2L |])))
              refused "17 tokens" (fun () -> logits model (new TokenBatch(ids (Array.create 17 5L))))
              refused "15 tokens" (fun () -> logits roberta (new TokenBatch(ids (Array.create 15 5L))))
              logits roberta (new TokenBatch(ids (Array.create 14 5L)))
              refused "-1" (fun () -> new TokenBatch(ids [| -1L |]) |> ignore)
              refused "int64" (fun () -> new TokenBatch(torch.ones ([| 1L; 2L |])) |> ignore)
              refused "[1x2]" (fun () -> new TokenBatch(ids [| 1L; 2L |], ids [| 1L |]) |> ignore)
              refused "labels" (fun () -> model.Loss(model.At(), new TokenBatch(ids [| 4L |]), ids [| 1L |]) |> ignore)

              refused "elements" (fun () ->
                  logits model (new TokenBatch(ids [| 4L |])) |> ignore
                  model.Logits(roberta.At(), new TokenBatch(ids [| 4L |])) |> ignore)

              use bare = Encoder.Create(config Family.Bert, Head.None, 1L)
              Expect.throwsT<InvalidOperationException> (fun () -> logits bare (new TokenBatch(ids [| 4L |]))) "no head"

          testCase "weights in half precision are widened exactly, old names and copies of the output table are known"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use folder = new Folder()
              use model = Encoder.Create(config Family.Bert, Head.MaskedLanguageModel, 2L)
              let half = model.Initial.to_type torch.float16
              model.Save folder.Path

              let old (name: string) =
                  name.Replace("LayerNorm.weight", "LayerNorm.gamma").Replace("LayerNorm.bias", "LayerNorm.beta")

              let views = Parameters.views model.Layout half

              let save (decoder: Tensor) =
                  Safetensors.Save(
                      folder.At "model.safetensors",
                      [ for slice in model.Layout.Slices do
                            yield struct (old slice.Name, views[slice.Name])
                        yield
                            struct ("bert.embeddings.position_ids", torch.arange(16L, dtype = torch.int64).unsqueeze 0L)
                        yield struct ("cls.predictions.decoder.weight", decoder)
                        yield struct ("cls.seq_relationship.weight", torch.ones ([| 2L; 12L |])) ]
                  )

              let words = views["bert.embeddings.word_embeddings.weight"]
              save words
              use read = Encoder.Load folder.Path
              Expect.isTrue (read.Initial.Equals(half.to_type torch.float32)) "exact"
              Expect.equal (List.ofSeq read.Report.Unused) [ "cls.seq_relationship.weight" ] "unused"
              save (words + 1.0)

              Expect.throwsC (fun () -> Encoder.Load folder.Path |> ignore) (fun e ->
                  Expect.isTrue
                      (e :? InvalidDataException && e.Message.Contains "cls.predictions.decoder.weight")
                      e.Message)

          for family in families do
              testCase $"{family}: rows padded on the left are picked with the positions they have in the whole batch"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()
                  use model = exact 4L (config family) Head.Classifier
                  let right = batch family 5L
                  let left (tensor: Tensor) = tensor.flip 1L

                  let batch =
                      new TokenBatch(left right.InputIds, left right.AttentionMask, left right.TokenTypeIds)

                  let picked = model.Logits(model.At(), batch.Rows(torch.tensor [| 2L; 1L |]))
                  Expect.isLessThan (apart picked[0L] (model.Logits(model.At(), batch)[2L])) 1e-12 "the same row"

          testCase "rows of a batch: picked, and cut to what takes part"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = exact 4L (config Family.Bert) Head.Classifier
              let batch = batch Family.Bert 5L
              let picked = batch.Rows(torch.tensor [| 2L; 1L |])
              Expect.equal picked.InputIds.shape [| 2L; 5L |] "cut"
              let whole, part = model.Logits(model.At(), batch), model.Logits(model.At(), picked)
              Expect.isLessThan (apart part[0L] whole[2L]) 1e-12 "the same rows"
              Expect.isFalse (batch.Rows(torch.tensor [| 0L |])).Facts.Padded "nothing masked"

          testCase "sentence vectors are means over what takes part, of unit length"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = exact 6L (config Family.Bert) Head.None
              let batch = batch Family.Bert 7L
              let last = model.LastHiddenState(model.At(), batch)
              let mean = last[1L].narrow(0L, 0L, 5L).mean [| 0L |]
              let found = model.Embedding(model.At(), batch, normalise = false)
              Expect.isLessThan (apart found[1L] mean) 1e-13 "mean"
              Expect.isLessThan (apart (model.Embedding(model.At(), batch).[1L]) (mean / mean.norm ())) 1e-13 "unit"

          for family in [ Family.Bert; Family.Roberta ] do
              testCase $"{family}: mean pooling is the head over the normed mean, trained, saved and read as any model"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()
                  use model = exact 6L (config family) Head.Classifier
                  let batch = batch family 7L
                  use pooled = model.WithMeanPooling()
                  let last = model.LastHiddenState(model.At(), batch)
                  let width = model.Config.HiddenSize

                  let norm (x: Tensor) =
                      torch.nn.functional.layer_norm (x, [| width |], eps = 0.0)

                  let theta = pooled.At()

                  let final =
                      if family = Family.Bert then
                          "classifier"
                      else
                          "classifier.out_proj"

                  let expected =
                      torch.nn.functional.linear (
                          torch.tanh (norm (last[1L].narrow(0L, 0L, 5L).mean [| 0L |])),
                          theta[final + ".weight"],
                          theta[final + ".bias"]
                      )

                  // the residual is a thousandth of what is normed
                  Expect.isLessThan
                      (apart ((pooled.Logits(theta, batch)).[1L]) expected)
                      3e-3
                      "normed mean of five tokens"

                  Expect.isGreaterThan
                      (apart ((model.Logits(model.At(), batch)).[1L]) expected)
                      1e-2
                      "not the first token's"

                  use folder = new Folder()
                  pooled.Save folder.Path
                  use read = Encoder.Load(folder.Path, dtype = torch.ScalarType.Float64)
                  Expect.equal read.Config.Layers (model.Config.Layers + 1) "one layer more"
                  Expect.equal (apart (read.Logits(read.At(), batch)) (pooled.Logits(theta, batch))) 0.0 "saved"

          testCase "mean pooling is for whole models that are read by a head"
          <| fun _ ->
              use language = Encoder.Create(config Family.Bert, Head.MaskedLanguageModel, 8L)
              use whole = Encoder.Create(config Family.Bert, Head.Classifier, 8L)
              use frozen = whole.FreezeLayers 1
              use adapted = whole.WithLora()

              for model in [ language; frozen; adapted ] do
                  Expect.throwsT<InvalidOperationException> (fun () -> model.WithMeanPooling() |> ignore) "refused"

          testCase "a pass frees what it made but its result"
          <| fun _ ->
              use model = Encoder.Create(config Family.Bert, Head.Classifier, 8L)
              use batch = batch Family.Bert 9L
              use frozen = model.FreezeLayers 1

              let once (m: Encoder) =
                  Scope.run (fun _ -> m.Logits(m.At(), batch, true) |> ignore)

              once model
              once frozen
              // what earlier tests left to the collector
              GC.Collect()
              GC.WaitForPendingFinalizers()
              let before = Tensor.TotalCount

              for _ in 1..20 do
                  once model
                  once frozen
                  use merged = frozen.Merge()
                  use other = model.WithLora()
                  use another = other.WithAttention Attention.Plain
                  once another

              Expect.equal Tensor.TotalCount before "tensors alive" ]
