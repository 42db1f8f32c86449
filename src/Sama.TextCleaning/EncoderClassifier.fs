namespace Sama.TextCleaning

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.Language

/// A classifier of texts over a Hugging Face folder (BERT or RoBERTa). The embeddings and the first `frozen` layers stay
/// as they are, without dropout (-1: all of them): their output is computed once a text and kept in half precision, so that a
/// step costs what the layers above cost. The head reads the mean over the tokens (`Encoder.WithMeanPooling`). ArgumentException for
/// no texts, fewer than two classes, more layers than there are, no tokens, or a rate that is not positive.
[<Sealed; AllowNullLiteral>]
type EncoderClassifier
    (
        folder: string,
        texts: string[],
        classes: string[],
        [<Optional; DefaultParameterValue(-1)>] frozen: int,
        [<Optional; DefaultParameterValue(64)>] tokens: int,
        [<Optional; DefaultParameterValue(Nullable<float>())>] rate: Nullable<float>,
        [<Optional; DefaultParameterValue(0L)>] seed: int64,
        [<Optional; DefaultParameterValue(null: torch.Device)>] device: torch.Device
    ) =
    do
        ArgumentException.ThrowIfNullOrEmpty(folder, nameof folder)
        ArgumentNullException.ThrowIfNull(texts, nameof texts)
        ArgumentNullException.ThrowIfNull(classes, nameof classes)

        if texts.Length = 0 then
            invalidArg (nameof texts) "there are no texts"

        if classes.Length < 2 then
            invalidArg (nameof classes) $"{classes.Length} classes: at least two are expected"

        if frozen < -1 then
            invalidArg (nameof frozen) $"{frozen} layers are to be frozen; -1 is all"

        if tokens < 1 then
            invalidArg (nameof tokens) $"{tokens} tokens of a text"

        if rate.HasValue && not (rate.Value > 0.0 && Double.IsFinite rate.Value) then
            invalidArg (nameof rate) $"{rate.Value} is not a positive number"

    let device = if isNull device then torch.CPU else device

    let whole =
        use read =
            Encoder.Load(folder, labelNames = classes, head = Nullable Head.Classifier, resetHead = true, seed = seed)

        read.WithMeanPooling()

    // the last of its layers averages: it is never trained, and needs no room where all are frozen
    let layers = whole.Config.Layers - 1

    do
        if frozen > layers then
            invalidArg (nameof frozen) $"{frozen} layers of {layers} are to be frozen"

    let frozen = if frozen < 0 then layers else frozen
    let isWhole = frozen = layers

    // the head alone bears a higher rate
    let rate =
        if rate.HasValue then rate.Value
        elif isWhole then 1e-3
        else 2e-4

    let below = if isWhole then layers + 1 else frozen

    let encoder =
        let averages = $"encoder.layer.{layers}."

        let fixed' =
            if frozen = 0 then
                []
            else
                "embeddings." :: [ for i in 0 .. frozen - 1 -> $"encoder.layer.{i}." ]

        whole.Freeze(fun name -> averages :: fixed' |> List.exists (fun part -> name.Contains("." + part)))

    let parts (tokens: TokenBatch) =
        [| tokens.InputIds; tokens.AttentionMask; tokens.TokenTypeIds |]

    let batch =
        use tokenizer = Tokenizer.Load folder
        let most = int (min (int64 tokens) whole.Config.MaximumTokens)
        use read = tokenizer.EncodeBatch(texts, maxLength = most)
        (read.To device).DetachFromDisposeScope()

    /// What the frozen layers make of every token of every text, of the first alone where nothing else is read.
    let states = lazy (new LayerStates(whole, batch, below, first = isWhole))

    /// The model, the frozen part included; borrowed.
    member _.Encoder = encoder

    /// The texts that it knows, by their number.
    member _.Texts: IReadOnlyList<string> = texts

    /// How many layers are frozen.
    member _.Frozen = frozen

    /// Writes a Hugging Face folder with these parameters and the folder's tokenizer. IOException.
    member _.Save(target: string, theta: float32[]) : unit =
        ArgumentException.ThrowIfNullOrEmpty(target, nameof target)
        ArgumentNullException.ThrowIfNull(theta, nameof theta)
        use vector = torch.tensor theta
        encoder.Save(target, vector)

    interface IRowClassifier with
        member _.Classes = classes.Length
        member _.Rows = texts.Length
        member _.Rate = rate

        member _.Start(_: int64) : IReadOnlyList<struct (string * Tensor)> =
            use _ = torch.NewDisposeScope()

            [| for struct (name, value) in encoder.Parameters ->
                   struct (name, value.``to``(device).clone().DetachFromDisposeScope()) |]

        member _.Read(rows: int[]) : Tensor[] =
            Rows.Require(rows, texts.Length)
            let index = torch.tensor (Array.map int64 rows, device = device)

            if frozen = 0 then
                parts (batch.Rows index)
            else
                let struct (tokens, found) = states.Value.Rows index
                Array.append (parts tokens) [| found |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], training: bool) : Tensor =
            // it takes its tensors over, and these are the caller's
            use batch =
                new TokenBatch(inputs[0].alias (), inputs[1].alias (), inputs[2].alias ())

            if frozen = 0 then
                encoder.LogProbabilities(theta, batch, training)
            else
                encoder.LogProbabilitiesFrom(theta, batch, inputs[3], below, training)

        member _.Dispose() =
            if states.IsValueCreated then
                (states.Value :> IDisposable).Dispose()
            else
                (batch :> IDisposable).Dispose()

            (encoder :> IDisposable).Dispose()
            (whole :> IDisposable).Dispose()
