namespace Sama.Language

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// What an encoder computes, as functions of θ: one flat vector whose slices have transformers' names, beside which it may
/// hold parameters of heads of one's own. Passes may run on
/// several threads. Tensors that methods return, and what a graph behind them needs, belong to the caller's scope.
[<AbstractClass; AllowNullLiteral>]
type EncoderFunctions
    internal
    (
        config: EncoderConfig,
        head: Head,
        full: Layout,
        layout: Layout,
        initial: Tensor,
        frozen: Frozen,
        lora: LoraOptions,
        attention: Attention
    ) =
    let prefix = Parameters.prefix config head

    let adapted = Lora.names full lora

    /// θ may hold more than the model, heads of one's own: what is the model's goes by its name.
    let requireParts (theta: Params) =
        if theta.Layout.Length < layout.Length then
            invalidArg (nameof theta) $"θ has {theta.Layout.Length} elements, this model's layout {layout.Length}"

        for slice in layout.Slices do
            let found = theta.Layout.Slices[theta.Layout.IndexOf slice.Name]

            if found.Shape <> slice.Shape then
                let shown (shape: int64[]) = String.Join("x", shape)

                invalidArg
                    (nameof theta)
                    $"'{slice.Name}' is [{shown found.Shape}] in θ, [{shown slice.Shape}] in this model"

    let weights (theta: Params) (training: bool) (attention: Attention) : Weights =
        ArgumentNullException.ThrowIfNull(theta, nameof theta)

        requireParts theta

        let constants =
            if isNull frozen then
                null
            else
                ObjectDisposedException.ThrowIf(initial.IsInvalid, typeof<EncoderFunctions>)
                frozen.Like theta[layout.Slices[0].Name]

        let find (name: string) : Tensor =
            if isNull constants then
                theta[name]
            else
                match constants.TryGetValue name with
                | true, found -> found
                | _ -> theta[name]

        { Config = config
          Prefix = prefix
          Find = find
          Adapter =
            fun name ->
                if adapted.Contains name then
                    ValueSome(struct (theta[Lora.nameA name], theta[Lora.nameB name]))
                else
                    ValueNone
          Scale = (if isNull lora then 0.0 else lora.Scale)
          AdapterDropout = (if isNull lora then 0.0 else lora.Dropout)
          Attention = attention
          Training = training }

    let require (wanted: Head) (what: string) =
        if head <> wanted then
            invalidOp $"{what} needs the head {wanted}, this model has {head}"

    // it is in config.json, which no pass has to read
    let logitsAlone = lazy (Labels.refusal config)

    let requireClasses (what: string) =
        require Head.Classifier what

        if not (isNull logitsAlone.Value) then
            invalidOp (what + logitsAlone.Value)

    let states (theta: Params) (batch: TokenBatch) (training: bool) : Weights * Tensor list =
        ArgumentNullException.ThrowIfNull(batch, nameof batch)
        let w = weights theta training attention
        w, Network.hiddenStates w ignore batch

    let last theta batch training : Weights * Tensor =
        let w, states = states theta batch training
        w, List.last states

    let lastFrom (theta: Params) (batch: TokenBatch) (states: Tensor) (layers: int) (training: bool) =
        ArgumentNullException.ThrowIfNull(batch, nameof batch)
        ArgumentNullException.ThrowIfNull(states, nameof states)

        if layers < 0 || layers > config.Layers then
            invalidArg (nameof layers) $"{layers} layers of {config.Layers} are to be left out"

        if states.shape <> [| batch.Count; batch.Tokens; config.HiddenSize |] then
            let shown = String.Join("x", states.shape)

            invalidArg
                (nameof states)
                $"the states are [{shown}], [{batch.Count}x{batch.Tokens}x{config.HiddenSize}] is expected"

        let w = weights theta training attention
        w, List.last (Network.hiddenStatesFrom (ValueSome(struct (layers, states))) w ignore batch)

    /// What config.json says, with the labels that were asked for.
    member _.Config = config

    /// What follows the encoder.
    member _.Head = head

    /// Names and shapes in θ.
    member _.Layout = layout

    /// Names and shapes of the whole model, frozen parts included.
    member _.FullLayout = full

    /// The values that training starts from, over `Layout`; borrowed.
    member _.Initial: Tensor =
        ObjectDisposedException.ThrowIf(initial.IsInvalid, typeof<EncoderFunctions>)
        initial

    /// The adapters; null without.
    member _.Lora = lora

    /// How attention is computed.
    member _.Attention = attention

    /// Names and views of the initial values, for a level; borrowed, they live as long as the model's values.
    member model.Parameters: IReadOnlyList<struct (string * Tensor)> =
        [| for slice in layout.Slices -> struct (slice.Name, Parameters.view model.Initial slice) |]

    /// θ for a pass that needs no gradient of it: views of a vector over `Layout`. Null: the initial values.
    member model.At([<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor) : Params =
        Params.frozen layout (if isNull vector then model.Initial else vector)

    /// Embeddings, then the output of each layer, [rows, tokens, hidden] each.
    member _.HiddenStates
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : IReadOnlyList<Tensor> =
        snd (states theta batch training) |> Array.ofList :> IReadOnlyList<_>

    /// The output of the last layer: [rows, tokens, hidden].
    member _.LastHiddenState
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        snd (last theta batch training)

    /// The output of the last layer from that of the first `layers` of them, [rows, tokens, hidden], which a caller may keep
    /// where these layers are frozen, as `HiddenStates` gives it at that index: for heads of one's own. ArgumentException for
    /// states of another shape or a number of layers that the model has not.
    member _.LastHiddenStateFrom
        (
            theta: Params,
            batch: TokenBatch,
            states: Tensor,
            layers: int,
            [<Optional; DefaultParameterValue(false)>] training: bool
        ) : Tensor =
        // at all layers it is the given tensor itself: the caller's result is a handle of its own
        (snd (lastFrom theta batch states layers training)).alias ()

    /// Attention probabilities of each layer, [rows, heads, tokens, tokens], without dropout; computed plainly.
    member _.Attentions(theta: Params, batch: TokenBatch) : IReadOnlyList<Tensor> =
        ArgumentNullException.ThrowIfNull(batch, nameof batch)
        let seen = ResizeArray<Tensor>()

        Network.hiddenStates (weights theta false Attention.Plain) seen.Add batch
        |> ignore

        seen

    /// tanh(W h₀ + b) of the first token: [rows, hidden]. InvalidOperationException if the model has no pooler.
    member _.Pooled
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        if not (Parameters.hasPooler config head) then
            invalidOp $"a {config.Family} model with the head {head} has no pooler"

        last theta batch training ||> Network.pooled

    /// Sentence vectors: the mean of the last layer over the tokens that take part, of unit length if `normalise`:
    /// [rows, hidden]. The pooler has no part in it: a level that trains on sentence vectors freezes it.
    member _.Embedding
        (
            theta: Params,
            batch: TokenBatch,
            [<Optional; DefaultParameterValue(false)>] training: bool,
            [<Optional; DefaultParameterValue(true)>] normalise: bool
        ) : Tensor =
        let mean = Network.mean batch (snd (last theta batch training))

        if normalise then
            mean
            / mean.norm(1, true, 2f).clamp_min (Scalar.op_Implicit (torch.finfo(mean.dtype).tiny: float))
        else
            mean

    /// Logits: [rows, labels] of a classifier, [rows, tokens, vocabulary] of a masked language model.
    /// InvalidOperationException without a head.
    member _.Logits
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        match head with
        | Head.Classifier -> last theta batch training ||> Network.classify
        | Head.MaskedLanguageModel -> last theta batch training ||> Network.vocabulary
        | _ -> invalidOp "the model has no head, hence no logits: load it with labels or a head"

    /// Log probabilities of the classes: [rows, labels]. InvalidOperationException for another head, for one class, and where
    /// config.json's `problem_type` is not that of one class a text.
    member model.LogProbabilities
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        requireClasses "a row's log probability"
        torch.nn.functional.log_softmax (model.Logits(theta, batch, training), 1L)

    /// Log probabilities of the classes from the output of the first layers, [rows, tokens, hidden], which a caller may keep
    /// where these layers are frozen: `layers` of them, as `HiddenStates` gives it at that index. ArgumentException for
    /// states of another shape or a number of layers that the model has not.
    member _.LogProbabilitiesFrom
        (
            theta: Params,
            batch: TokenBatch,
            states: Tensor,
            layers: int,
            [<Optional; DefaultParameterValue(false)>] training: bool
        ) : Tensor =
        requireClasses "a row's log probability"
        torch.nn.functional.log_softmax (lastFrom theta batch states layers training ||> Network.classify, 1L)

    /// Cross entropies. Of a classifier, with labels [rows] (int64): [rows]. Of a masked language model, with labels
    /// [rows, tokens] and -100 where there is none: of the labelled positions in row-major order. ArgumentException for
    /// labels of another shape or type, or that are no class; InvalidOperationException as `LogProbabilities`.
    member _.Losses
        (theta: Params, batch: TokenBatch, labels: Tensor, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        ArgumentNullException.ThrowIfNull(batch, nameof batch)
        ArgumentNullException.ThrowIfNull(labels, nameof labels)
        let rows = batch.InputIds.shape

        let expected =
            if head = Head.MaskedLanguageModel then
                rows
            else
                [| rows[0] |]

        if labels.dtype <> torch.ScalarType.Int64 || labels.shape <> expected then
            let shown (shape: int64[]) = String.Join("x", shape)

            invalidArg
                (nameof labels)
                $"the labels are {labels.dtype} [{shown labels.shape}], int64 [{shown expected}] are expected"

        let crossEntropy (logits: Tensor) (labels: Tensor) =
            torch.nn.functional.cross_entropy (logits, labels, reduction = torch.nn.Reduction.None)

        match head with
        | Head.Classifier ->
            requireClasses "a row's loss"
            Labels.require (int64 config.Labels.Count) labels
            crossEntropy (last theta batch training ||> Network.classify) labels
        | Head.MaskedLanguageModel ->
            let w, hidden = last theta batch training
            let flat = labels.reshape -1L
            let at = flat.ne(Scalar.op_Implicit -100L).nonzero().reshape -1L
            let picked = hidden.reshape(-1L, config.HiddenSize).index_select (0L, at)
            let labelled = flat.index_select (0L, at)
            Labels.require config.VocabularySize labelled
            crossEntropy (Network.vocabulary w picked) labelled
        | _ -> invalidOp "the model has no head, hence no losses: load it with labels or a head"

    /// The mean of `Losses`, 0-D; NaN where there is no label at all.
    member model.Loss
        (theta: Params, batch: TokenBatch, labels: Tensor, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        model.Losses(theta, batch, labels, training).mean ()
