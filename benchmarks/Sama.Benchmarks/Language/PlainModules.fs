/// A BERT classifier of TorchSharp's own modules, as one writes it without Sama: what the library's speed is held to.
module Sama.Benchmarks.Language.PlainModules

open System.Collections.Generic
open TorchSharp
open TorchSharp.Modules
open Sama
open Sama.Functional
open Sama.Language

/// A module's parameters by transformers' names.
type private Names = List<struct (string * Parameter)>

let private dense (names: Names) name (inputs: int64) (outputs: int64) : Linear =
    let made = torch.nn.Linear(inputs, outputs)
    names.Add(struct ($"{name}.weight", made.weight))
    names.Add(struct ($"{name}.bias", made.bias))
    made

let private norm (names: Names) name (c: EncoderConfig) : LayerNorm =
    let made = torch.nn.LayerNorm(c.HiddenSize, c.LayerNormEpsilon)
    names.Add(struct ($"{name}.weight", made.weight))
    names.Add(struct ($"{name}.bias", made.bias))
    made

let private table (names: Names) name (rows: int64) (width: int64) (pad: System.Nullable<int64>) : Embedding =
    let made = torch.nn.Embedding(rows, width, padding_idx = pad)
    names.Add(struct ($"{name}.weight", made.weight))
    made

type private Layer(c: EncoderConfig, names: Names, at: string) as this =
    inherit torch.nn.Module<Tensor, Tensor, Tensor>("layer")
    let width = c.HiddenSize
    let query = dense names $"{at}.attention.self.query" width width
    let key = dense names $"{at}.attention.self.key" width width
    let value = dense names $"{at}.attention.self.value" width width
    let out = dense names $"{at}.attention.output.dense" width width
    let first = norm names $"{at}.attention.output.LayerNorm" c
    let up = dense names $"{at}.intermediate.dense" width c.IntermediateSize
    let down = dense names $"{at}.output.dense" c.IntermediateSize width
    let second = norm names $"{at}.output.LayerNorm" c
    let drop = torch.nn.Dropout c.HiddenDropout
    do this.RegisterComponents()

    override this.forward(h, mask) =
        let rows, tokens = h.shape[0], h.shape[1]

        let split (x: Tensor) =
            x.view(rows, tokens, c.Heads, -1L).transpose (1L, 2L)

        let share = if this.training then c.AttentionDropout else 0.0

        let mixed =
            torch.nn.functional.scaled_dot_product_attention (
                split (query.call h),
                split (key.call h),
                split (value.call h),
                mask,
                share,
                false
            )

        let mixed = mixed.transpose(1L, 2L).reshape (rows, tokens, width)
        let h = first.call (drop.call (out.call mixed) + h)
        second.call (drop.call (down.call (torch.nn.functional.gelu (up.call h))) + h)

/// Ids, types and a mask of numbers (or null) ↦ logits.
type Classifier private (c: EncoderConfig, names: Names) as this =
    inherit torch.nn.Module<Tensor, Tensor, Tensor, Tensor>("bert")

    let words =
        table names "bert.embeddings.word_embeddings" c.VocabularySize c.HiddenSize (System.Nullable c.PadTokenId)

    let places =
        table names "bert.embeddings.position_embeddings" c.Positions c.HiddenSize (System.Nullable())

    let types =
        table names "bert.embeddings.token_type_embeddings" c.TokenTypes c.HiddenSize (System.Nullable())

    let start = norm names "bert.embeddings.LayerNorm" c

    let layers =
        torch.nn.ModuleList<torch.nn.Module<Tensor, Tensor, Tensor>>(
            [| for i in 0 .. c.Layers - 1 ->
                   new Layer(c, names, $"bert.encoder.layer.{i}") :> torch.nn.Module<Tensor, Tensor, Tensor> |]
        )

    let pooler = dense names "bert.pooler.dense" c.HiddenSize c.HiddenSize
    let classifier = dense names "classifier" c.HiddenSize (int64 c.Labels.Count)
    let drop = torch.nn.Dropout c.HiddenDropout
    do this.RegisterComponents()

    override _.forward(ids, kinds, mask) =
        let positions = torch.arange (ids.shape[1], dtype = torch.int64)
        let h = words.call ids + types.call kinds + places.call positions
        let h = drop.call (start.call h)

        let last =
            Seq.fold (fun (h: Tensor) (layer: torch.nn.Module<Tensor, Tensor, Tensor>) -> layer.call (h, mask)) h layers

        classifier.call (drop.call (torch.tanh (pooler.call (last.select (1L, 0L)))))

    /// With the values of an encoder.
    static member Of(model: Encoder) : Classifier =
        let names = Names()
        let made = new Classifier(model.Config, names)

        Scope.run (fun _ ->
            use _ = torch.no_grad ()
            let theta = model.At()

            for struct (name, parameter) in names do
                parameter.copy_ theta[name] |> ignore)

        made
