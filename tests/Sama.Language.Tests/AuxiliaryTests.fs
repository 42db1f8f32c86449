/// What continued pretraining is made of: states of frozen layers, and hidden words.
module Sama.Language.Tests.AuxiliaryTests

open System
open Expecto
open FsCheck
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language
open Sama.Language.Tests.Tiny
open Sama.Tests.Watching

/// The batch with its columns turned round, so that it is padded on the left.
let private turned (batch: TokenBatch) =
    let flip (tensor: Tensor) = tensor.flip 1L
    new TokenBatch(flip batch.InputIds, flip batch.AttentionMask, flip batch.TokenTypeIds)

let private wordPiece () =
    use folder = new Folder()
    wordPieceFile (folder.At "vocab.txt")
    Tokenizer.Load folder.Path

let private ints (tensor: Tensor) = tensor.data<int64>().ToArray()

let tests =
    testList
        "auxiliary tasks"
        [ for family in families do
              for side, make in [ "right", batch family; "left", batch family >> turned ] do
                  testCase $"{family}: the layers above kept states give the whole model's, padded on the {side}"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()
                      use model = Encoder.Create(config family, Head.None, 3L)
                      let theta = model.At()

                      for layers in 0 .. model.Config.Layers do
                          let shares = ResizeArray()

                          let progress = watching (fun share -> shares.Add share)

                          use kept = new LayerStates(model, make 5L, layers, progress)
                          Expect.equal (List.ofSeq shares) [ 1.0 ] "progress"

                          for rows in [ [ 0L; 1L; 2L ]; [ 2L ]; [ 1L; 2L; 1L ] ] do
                              let struct (batch, states) = kept.Rows(torch.tensor (Array.ofList rows))
                              let mask = batch.AttentionMask.to_type(torch.float32).unsqueeze -1L
                              let last = model.LastHiddenStateFrom(theta, batch, states, layers)
                              let whole = model.LastHiddenState(theta, batch)

                              Expect.isLessThan
                                  (apart (last * mask) (whole * mask))
                                  2e-2
                                  $"{layers} layers, rows {rows}"

          testCase "the first tokens' states are those of whole rows, whatever scope they are made in"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = Encoder.Create(config Family.Bert, Head.None, 3L)

              let made first =
                  use _ = torch.NewDisposeScope()
                  new LayerStates(model, batch Family.Bert 5L, 2, first = first)

              use whole = made false
              use first = made true
              let rows = torch.tensor [| 2L; 0L; 2L |]
              let struct (tokens, states) = first.Rows rows
              let struct (_, all) = whole.Rows rows
              Expect.equal (tokens.Count, tokens.Tokens) (3L, 1L) "one token a row"
              Expect.equal (apart states (all.narrow (1L, 0L, 1L))) 0.0 "the same states"

          testCase "of a row that begins with a pad the first token's states are refused"
          <| fun _ ->
              use model = Encoder.Create(config Family.Bert, Head.None, 3L)
              use batch = turned (batch Family.Bert 5L)

              Expect.throwsT<ArgumentException>
                  (fun () -> new LayerStates(model, batch, 1, first = true) |> ignore)
                  "padded on the left"

          testCase "a number of layers that the model has not is told"
          <| fun _ ->
              use model = Encoder.Create(config Family.Bert, Head.None, 3L)
              use batch = batch Family.Bert 5L

              for layers in [ -1; 3 ] do
                  Expect.throwsT<ArgumentException>
                      (fun () -> new LayerStates(model, batch, layers) |> ignore)
                      $"{layers}"

          testCase "hidden words are the labels, and all else is as it was"
          <| fun _ ->
              use tokenizer = wordPiece ()

              let property (seed: int) (texts: NonEmptyArray<NonEmptyString>) =
                  let clean (text: NonEmptyString) =
                      String.filter Char.IsAsciiLetter text.Get

                  use _ = torch.NewDisposeScope()
                  use batch = tokenizer.EncodeBatch(texts.Get |> Array.map clean, maxLength = 12)
                  let struct (seen, labels) = MaskedWords.Hide(tokenizer, batch, 0.4, int64 seed)
                  let struct (again, _) = MaskedWords.Hide(tokenizer, batch, 0.4, int64 seed)
                  let special = set [ tokenizer.PadId; tokenizer.Id "[CLS]"; tokenizer.Id "[SEP]" ]

                  ints again.InputIds = ints seen.InputIds
                  && ints seen.AttentionMask = ints batch.AttentionMask
                  && Array.forall
                      (fun (was, is, label) ->
                          if label = -100L then
                              is = was
                          else
                              label = was && is = tokenizer.MaskId && not (special.Contains was))
                      (Array.zip3 (ints batch.InputIds) (ints seen.InputIds) (ints labels))

              Check.QuickThrowOnFailure property

          testCase "so many are hidden as the share says; a share that is none is told"
          <| fun _ ->
              use tokenizer = wordPiece ()
              use _ = torch.NewDisposeScope()
              use batch = tokenizer.EncodeBatch(Array.replicate 400 "therunning!aaaaaaaa")
              let struct (_, labels) = MaskedWords.Hide(tokenizer, batch)
              let words = batch.AttentionMask.sum().item<int64> () - 2L * batch.Count
              let hidden = labels.ge(scalar 0.0).sum().item<int64> ()
              Expect.floatClose { absolute = 0.02; relative = 0.0 } (float hidden / float words) 0.15 "share"

              for share in [ 0.0; 1.0; nan ] do
                  Expect.throwsT<ArgumentException>
                      (fun () -> MaskedWords.Hide(tokenizer, batch, share) |> ignore)
                      $"{share}"

          testCase "losses by row are the model's own, in the mean over a row's hidden words"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use model = exact 4L (config Family.Bert) Head.MaskedLanguageModel
              let theta = model.At()
              let batch = batch Family.Bert 7L
              let labels = torch.full_like (batch.InputIds, scalar -100.0)

              for row, token, word in [ 0L, 1L, 9L; 0L, 4L, 30L; 2L, 2L, 11L ] do
                  labels[row, token] <- torch.tensor word

              let each = model.Losses(theta, batch, labels)

              let own =
                  torch.stack [| (each[0] + each[1]) / 2.0; torch.zeros_like each[0]; each[2] |]

              let states = model.LastHiddenState(theta, batch).detach().requires_grad_ true
              let p name = theta[$"cls.predictions.{name}"]

              let head (x: Tensor) =
                  let x =
                      torch.nn.functional.gelu (
                          torch.nn.functional.linear (x, p "transform.dense.weight", p "transform.dense.bias")
                      )

                  let x =
                      torch.nn.functional.layer_norm (
                          x,
                          [| 12L |],
                          p "transform.LayerNorm.weight",
                          p "transform.LayerNorm.bias",
                          model.Config.LayerNormEpsilon
                      )

                  torch.nn.functional.linear (x, theta["bert.embeddings.word_embeddings.weight"], p "bias")

              let found = MaskedWords.Losses(states, labels, head)
              Expect.isLessThan (apart found own) 1e-12 "losses"
              found.sum().backward ()
              let moved = states.grad.abs().sum(2L).gt (scalar 0.0)
              Expect.isTrue (moved.Equals(labels.ge (scalar 0.0))) "states of hidden words alone have a gradient"

              for bad in [ labels.to_type torch.int32; labels[0] ] do
                  Expect.throwsT<ArgumentException> (fun () -> MaskedWords.Losses(states, bad, head) |> ignore) "labels" ]
