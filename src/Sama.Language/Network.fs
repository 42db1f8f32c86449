namespace Sama.Language

open System
open TorchSharp
open Sama
open Sama.Functional

/// How attention is computed.
type Attention =
    /// libtorch's fused kernel: faster; on the CPU without second derivatives, which SAMA and first-order methods never ask
    /// for, and only where no probability is dropped: with dropout libtorch falls back to products that are slower than
    /// the plain ones, which are taken then
    | Fused = 0
    /// products and a softmax: any derivative
    | Plain = 1

/// What a pass computes with: numbers by their full names, and how.
[<NoComparison; NoEquality>]
type internal Weights =
    {
        Config: EncoderConfig
        /// in front of the encoder's names
        Prefix: string
        Find: string -> Tensor
        /// A and B of a dense part that has an adapter
        Adapter: string -> struct (Tensor * Tensor) voption
        /// alpha/rank
        Scale: float
        AdapterDropout: float
        Attention: Attention
        Training: bool
    }

/// BERT and RoBERTa as transformers computes them: post-norm layers, learned absolute positions.
module internal Network =

    let private drop (w: Weights) (share: float) (x: Tensor) : Tensor =
        if w.Training && share > 0.0 then
            DropoutMask.apply share x
        else
            x

    /// W x + b, and (alpha/rank) B A x where there is an adapter.
    let dense (w: Weights) (name: string) (x: Tensor) : Tensor =
        let plain =
            torch.nn.functional.linear (x, w.Find(name + ".weight"), w.Find(name + ".bias"))

        match w.Adapter name with
        | ValueSome(struct (a, b)) ->
            let low = torch.nn.functional.linear (drop w w.AdapterDropout x, a)
            plain + torch.nn.functional.linear (low, b) * w.Scale
        | ValueNone -> plain

    /// Biased variance, ε inside the root.
    let norm (w: Weights) (name: string) (x: Tensor) : Tensor =
        torch.nn.functional.layer_norm (
            x,
            [| w.Config.HiddenSize |],
            w.Find(name + ".weight"),
            w.Find(name + ".bias"),
            w.Config.LayerNormEpsilon
        )

    let private geluTanh (x: Tensor) : Tensor =
        x
        * 0.5
        * (torch.tanh ((x + x * x * x * 0.044715) * Math.Sqrt(2.0 / Math.PI)) + 1.0)

    let activate (activation: Activation) (x: Tensor) : Tensor =
        match activation with
        | Activation.GeluTanh -> geluTanh x
        | Activation.Relu -> torch.nn.functional.relu x
        | Activation.Silu -> torch.nn.functional.silu x
        | _ -> torch.nn.functional.gelu x

    /// Rows of a table. A pad's row counts and is not trained, as torch.nn.Embedding's padding_idx has it: null for none.
    let private rows (table: Tensor) (ids: Tensor) (pad: Nullable<int64>) : Tensor =
        let found =
            table.index_select(0L, ids.reshape -1L).view (ids.shape[0], ids.shape[1], -1L)

        if pad.HasValue && found.requires_grad then
            torch.where (ids.eq(Scalar.op_Implicit pad.Value).unsqueeze -1L, found.detach (), found)
        else
            found

    /// BERT counts from 0; RoBERTa's tokens from pad + 1, from the ids and not from the mask, and its pads have pad's.
    let private positions (w: Weights) (ids: Tensor) : Tensor =
        let table = w.Find(w.Prefix + "embeddings.position_embeddings.weight")

        if w.Config.Family = Family.Roberta then
            let pad = w.Config.PadTokenId
            let real = ids.ne(Scalar.op_Implicit pad).to_type torch.int64
            let counted = real.cumsum 1L * real + Scalar.op_Implicit pad
            rows table counted (Nullable pad)
        else
            table.narrow (0L, 0L, ids.shape[1])

    /// LayerNorm(word + type + position), dropped: [rows, tokens, hidden].
    let private embed (w: Weights) (batch: TokenBatch) : Tensor =
        let at name = w.Prefix + "embeddings." + name

        let words =
            rows (w.Find(at "word_embeddings.weight")) batch.InputIds (Nullable w.Config.PadTokenId)

        let types =
            rows (w.Find(at "token_type_embeddings.weight")) batch.TokenTypeIds (Nullable())

        (words + types + positions w batch.InputIds)
        |> norm w (at "LayerNorm")
        |> drop w w.Config.HiddenDropout

    /// 0 at what takes part and the type's lowest number elsewhere, [rows, 1, 1, tokens]: finite, so that a row without
    /// any token attends evenly and gives no NaN. Null where nothing is masked.
    let private bias (batch: TokenBatch) (like: Tensor) : Tensor =
        if batch.Facts.Padded then
            let lowest = Scalar.op_Implicit (torch.finfo(like.dtype).min: float)

            torch
                .zeros_like(batch.AttentionMask, dtype = like.dtype)
                .masked_fill(batch.AttentionMask.eq (Scalar.op_Implicit 0L), lowest)
                .unsqueeze(1L)
                .unsqueeze
                1L
        else
            null

    /// softmax(q kᵀ/√d + bias) before dropout: [rows, heads, tokens, tokens].
    let private probabilities (bias: Tensor) (q: Tensor) (k: Tensor) : Tensor =
        let width = q.shape[q.shape.Length - 1]
        let scores = q.matmul (k.transpose (2L, 3L)) / Math.Sqrt(float width)
        torch.nn.functional.softmax ((if isNull bias then scores else scores + bias), -1L)

    let private attend (w: Weights) (bias: Tensor) (watch: Tensor -> unit) (at: string) (h: Tensor) : Tensor =
        let rows, tokens = h.shape[0], h.shape[1]

        let split part =
            (dense w $"{at}.self.{part}" h).view(rows, tokens, w.Config.Heads, -1L).transpose (1L, 2L)

        let q, k, v = split "query", split "key", split "value"

        let share = if w.Training then w.Config.AttentionDropout else 0.0

        let fused =
            w.Attention = Attention.Fused
            && (share = 0.0 || h.device_type <> DeviceType.CPU)

        let mixed =
            if fused then
                torch.nn.functional.scaled_dot_product_attention (q, k, v, bias, share, false)
            else
                let p = probabilities bias q k
                watch p
                (drop w share p).matmul v

        let mixed = mixed.transpose(1L, 2L).reshape (rows, tokens, w.Config.HiddenSize)

        norm w $"{at}.output.LayerNorm" (drop w w.Config.HiddenDropout (dense w $"{at}.output.dense" mixed) + h)

    /// The output of a number of layers, which is given, or the embeddings; then that of every layer above, the last one
    /// last. `watch` sees attention probabilities where they
    /// are computed plainly. ArgumentException for a batch with ids, types or lengths that the model has not.
    let hiddenStatesFrom
        (from: struct (int * Tensor) voption)
        (w: Weights)
        (watch: Tensor -> unit)
        (batch: TokenBatch)
        : Tensor list =
        let c, facts = w.Config, batch.Facts

        if facts.LargestId >= c.VocabularySize then
            invalidArg (nameof batch) $"the batch holds id {facts.LargestId}, the vocabulary has {c.VocabularySize}"

        if facts.LargestType >= c.TokenTypes then
            invalidArg (nameof batch) $"the batch holds token type {facts.LargestType}, the model has {c.TokenTypes}"

        if batch.Tokens > c.MaximumTokens then
            invalidArg
                (nameof batch)
                $"the batch is {batch.Tokens} tokens long, the model reads {c.MaximumTokens}: give maxLength when encoding"

        // what the graph does not hold is freed layer by layer: memory that is warm is used again
        let layer (bias: Tensor) (h: Tensor) (i: int) =
            Scope.run (fun keep ->
                let at = $"{w.Prefix}encoder.layer.{i}"
                let h = attend w bias (keep >> watch) $"{at}.attention" h
                let inner = activate c.Activation (dense w $"{at}.intermediate.dense" h)

                let raised = drop w c.HiddenDropout (dense w $"{at}.output.dense" inner) + h

                keep (norm w $"{at}.output.LayerNorm" raised))

        let first =
            match from with
            | ValueSome(struct (_, states: Tensor)) -> states
            | ValueNone -> Scope.tensor (fun () -> embed w batch)

        let below =
            match from with
            | ValueSome(struct (layers, _)) -> layers
            | ValueNone -> 0

        List.scan (layer (bias batch first)) first [ below .. c.Layers - 1 ]

    /// The embeddings and the output of every layer. As `hiddenStatesFrom`.
    let hiddenStates (w: Weights) (watch: Tensor -> unit) (batch: TokenBatch) : Tensor list =
        hiddenStatesFrom ValueNone w watch batch

    /// tanh(W h₀ + b), h₀ the first token's: [rows, hidden].
    let pooled (w: Weights) (last: Tensor) : Tensor =
        torch.tanh (dense w (w.Prefix + "pooler.dense") (last.select (1L, 0L)))

    /// Mean over the tokens that take part, [rows, hidden]; 0 for a row without any.
    let mean (batch: TokenBatch) (last: Tensor) : Tensor =
        let weight = batch.AttentionMask.to_type(last.dtype).unsqueeze -1L
        (last * weight).sum 1L / weight.sum(1L).clamp_min (Scalar.op_Implicit 1.0)

    /// Logits of the classes: [rows, labels].
    let classify (w: Weights) (last: Tensor) : Tensor =
        let c = w.Config

        let drop =
            drop
                w
                (if c.ClassifierDropout.HasValue then
                     c.ClassifierDropout.Value
                 else
                     c.HiddenDropout)

        match c.Family with
        | Family.Bert -> dense w "classifier" (drop (pooled w last))
        | _ ->
            let inner = torch.tanh (dense w "classifier.dense" (drop (last.select (1L, 0L))))
            dense w "classifier.out_proj" (drop inner)

    /// Logits of the vocabulary, by the transform and the word table: [..., vocabulary].
    let vocabulary (w: Weights) (hidden: Tensor) : Tensor =
        let inner, bias =
            match w.Config.Family with
            | Family.Bert ->
                let at = "cls.predictions.transform"

                norm w $"{at}.LayerNorm" (activate w.Config.Activation (dense w $"{at}.dense" hidden)),
                "cls.predictions.bias"
            | _ ->
                // gelu whatever hidden_act says
                norm w "lm_head.layer_norm" (activate Activation.Gelu (dense w "lm_head.dense" hidden)), "lm_head.bias"

        torch.nn.functional.linear (inner, w.Find(w.Prefix + "embeddings.word_embeddings.weight"), w.Find bias)
