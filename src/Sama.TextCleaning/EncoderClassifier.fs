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
/// as they are, without dropout: their output is computed once a text and kept in half precision, so that a step costs
/// what the layers above cost.
[<Sealed; AllowNullLiteral>]
type EncoderClassifier
    (
        folder: string,
        texts: string[],
        classes: string[],
        [<Optional; DefaultParameterValue(-1)>] frozen: int,
        [<Optional; DefaultParameterValue(64)>] tokens: int,
        [<Optional; DefaultParameterValue(2e-4)>] rate: float,
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
        Encoder.Load(folder, labelNames = classes, head = Nullable Head.Classifier, resetHead = true, seed = seed)

    let layers = whole.Config.Layers
    // three quarters of the layers, at least one trained
    let frozen = if frozen < 0 then layers * 3 / 4 else frozen

    let encoder = if frozen = 0 then whole else whole.FreezeLayers frozen

    let encodings =
        use tokenizer = Tokenizer.Load folder
        let most = int (min (int64 tokens) whole.Config.MaximumTokens)
        tokenizer.EncodeAll(texts, maxLength = most)

    let starts = encodings |> Array.scan (fun at row -> at + row.Ids.Length) 0

    let tensor (width: int) (rows: int[]) (fill: int64) (values: int -> int64[]) : Tensor =
        let flat = Array.create (rows.Length * width) fill

        rows
        |> Array.iteri (fun i row -> Array.blit (values row) 0 flat (i * width) (values row).Length)

        torch.tensor(flat, device = device).view (int64 rows.Length, int64 width)

    let widthOf (rows: int[]) =
        rows |> Array.fold (fun most row -> max most encodings[row].Ids.Length) 1

    /// Ids, mask and types.
    let read (rows: int[]) : Tensor[] =
        let width = widthOf rows

        [| tensor width rows whole.Config.PadTokenId (fun row -> encodings[row].Ids)
           tensor width rows 0L (fun row -> Array.create encodings[row].Ids.Length 1L)
           tensor width rows 0L (fun row -> encodings[row].TypeIds) |]

    let batchOf (inputs: Tensor[]) =
        // it takes its tensors over, and these are the caller's
        new TokenBatch(inputs[0].alias (), inputs[1].alias (), inputs[2].alias ())

    /// What the frozen layers make of every token of every text, and a row of zeros: [tokens + 1, hidden], half precision.
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
                 let inputs = read chunk
                 use batch = batchOf inputs
                 let found = (whole.HiddenStates(theta, batch, false)).[frozen].``to`` torch.float16

                 chunk
                 |> Array.iteri (fun i row ->
                     let count = int64 encodings[row].Ids.Length

                     all.narrow(0L, int64 starts[row], count).copy_ (found[int64 i].narrow (0L, 0L, count))
                     |> ignore)

             all.DetachFromDisposeScope())

    let stateRows (rows: int[]) : Tensor =
        let width = widthOf rows
        let none = int64 (Array.last starts)

        let index =
            tensor width rows none (fun row -> Array.init encodings[row].Ids.Length (fun i -> int64 (starts[row] + i)))

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
                read rows
            else
                Array.append (read rows) [| stateRows rows |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], training: bool) : Tensor =
            use batch = batchOf inputs

            if frozen = 0 then
                encoder.LogProbabilities(theta, batch, training)
            else
                encoder.LogProbabilitiesFrom(theta, batch, inputs[3], frozen, training)

        member _.Dispose() =
            if states.IsValueCreated then
                states.Value.Dispose()

            (encoder :> IDisposable).Dispose()

            if not (Object.ReferenceEquals(encoder, whole)) then
                (whole :> IDisposable).Dispose()
