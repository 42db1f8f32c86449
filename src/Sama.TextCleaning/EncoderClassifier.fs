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
/// step costs what the layers above cost. The head reads the mean over the tokens (`Encoder.WithMeanPooling`).
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

    let encodings =
        use tokenizer = Tokenizer.Load folder
        let most = int (min (int64 tokens) whole.Config.MaximumTokens)
        tokenizer.EncodeAll(texts, maxLength = most)

    /// Of how many tokens the output of the frozen layers is kept.
    let kept (row: int) =
        if isWhole then 1 else encodings[row].Ids.Length

    let starts = Array.init texts.Length kept |> Array.scan (+) 0

    let tensor (width: int) (rows: int[]) (fill: int64) (values: int -> int64[]) : Tensor =
        let flat = Array.create (rows.Length * width) fill

        rows
        |> Array.iteri (fun i row -> Array.blit (values row) 0 flat (i * width) (values row).Length)

        torch.tensor(flat, device = device).view (int64 rows.Length, int64 width)

    let widthOf (count: int -> int) (rows: int[]) =
        rows |> Array.fold (fun most row -> max most (count row)) 1

    /// Ids, mask and types of the first tokens of each row, as many as `count` says.
    let read (count: int -> int) (rows: int[]) : Tensor[] =
        let width = widthOf count rows

        [| tensor width rows whole.Config.PadTokenId (fun row -> Array.truncate (count row) encodings[row].Ids)
           tensor width rows 0L (fun row -> Array.create (count row) 1L)
           tensor width rows 0L (fun row -> Array.truncate (count row) encodings[row].TypeIds) |]

    let tokensOf (row: int) = encodings[row].Ids.Length

    let batchOf (inputs: Tensor[]) =
        // it takes its tensors over, and these are the caller's
        new TokenBatch(inputs[0].alias (), inputs[1].alias (), inputs[2].alias ())

    /// What the frozen layers make of every token of every text, of the first alone where nothing else is read, and a row of
    /// zeros: [tokens + 1, hidden], half precision.
    let states =
        lazy
            (use _ = torch.NewDisposeScope()
             use _ = torch.no_grad ()
             let total = int64 (Array.last starts)
             let hidden = whole.Config.HiddenSize
             let all = torch.zeros (total + 1L, hidden, dtype = torch.float16, device = device)
             let theta = whole.At()

             let theta =
                 if device.``type`` = DeviceType.CPU then
                     theta
                 else
                     Params.frozen whole.Layout (whole.Initial.``to`` device)

             // texts of like length together
             let order =
                 Array.init texts.Length id
                 |> Array.sortBy (fun row -> encodings[row].Ids.Length)

             for chunk in Array.chunkBySize 64 order do
                 use _ = torch.NewDisposeScope()
                 let inputs = read tokensOf chunk
                 use batch = batchOf inputs
                 let found = (whole.HiddenStates(theta, batch, false)).[below].``to`` torch.float16

                 chunk
                 |> Array.iteri (fun i row ->
                     let count = int64 (kept row)

                     all.narrow(0L, int64 starts[row], count).copy_ (found[int64 i].narrow (0L, 0L, count))
                     |> ignore)

             all.DetachFromDisposeScope())

    let stateRows (rows: int[]) : Tensor =
        let width = widthOf kept rows
        let none = int64 (Array.last starts)

        let index =
            tensor width rows none (fun row -> Array.init (kept row) (fun i -> int64 (starts[row] + i)))

        states.Value
            .index_select(0L, index.reshape -1L)
            .``to``(torch.float32)
            .view (int64 rows.Length, int64 width, whole.Config.HiddenSize)

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
            if frozen = 0 then
                read tokensOf rows
            else
                Array.append (read kept rows) [| stateRows rows |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], training: bool) : Tensor =
            use batch = batchOf inputs

            if frozen = 0 then
                encoder.LogProbabilities(theta, batch, training)
            else
                encoder.LogProbabilitiesFrom(theta, batch, inputs[3], below, training)

        member _.Dispose() =
            if states.IsValueCreated then
                states.Value.Dispose()

            (encoder :> IDisposable).Dispose()
            (whole :> IDisposable).Dispose()
