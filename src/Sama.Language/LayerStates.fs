namespace Sama.Language

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// What the first layers of an encoder make of the rows of a batch, computed once and kept in half precision, so that a step
/// costs what the layers above cost (`LastHiddenStateFrom`, `LogProbabilitiesFrom`): for layers that are frozen, whose
/// dropout is then off. It takes the batch over, CPU tensors, and borrows the encoder while it is made. Rows are padded on the
/// right, with RoBERTa, whose positions do not count pads, on either side.
[<Sealed; AllowNullLiteral>]
type LayerStates
    (
        encoder: EncoderFunctions,
        batch: TokenBatch,
        layers: int,
        [<Optional; DefaultParameterValue(null: IProgress<float>)>] progress: IProgress<float>
    ) =
    do
        ArgumentNullException.ThrowIfNull(encoder, nameof encoder)
        ArgumentNullException.ThrowIfNull(batch, nameof batch)

        if layers < 0 || layers > encoder.Config.Layers then
            invalidArg (nameof layers) $"the output of {layers} layers of {encoder.Config.Layers} is asked for"

    /// Where each token's states stand, from 1 on; 0, which is zeros, where a row is padded. As a batch, so that its columns
    /// are left out as those of the tokens are.
    let places =
        let numbers =
            Scope.tensor (fun () ->
                let mask = batch.AttentionMask
                mask.reshape(-1L).cumsum(0L).view_as mask * mask)

        new TokenBatch(numbers, batch.AttentionMask.alias ())

    let states =
        Scope.tensor (fun () ->
            use _ = torch.no_grad ()
            let theta = encoder.At()
            let hidden = encoder.Config.HiddenSize
            let tokens = batch.AttentionMask.sum().item<int64> ()
            let all = torch.zeros (tokens + 1L, hidden, dtype = torch.float16)

            // rows of like length together
            let order = batch.AttentionMask.sum(1L).argsort(0L).data<int64>().ToArray()

            for number, chunk in order |> Array.chunkBySize 64 |> Array.indexed do
                use _ = torch.NewDisposeScope()
                let index = torch.tensor chunk
                use rows = batch.Rows index
                use place = places.Rows index
                let found = encoder.HiddenStates(theta, rows).[layers].reshape (-1L, hidden)
                let used = rows.AttentionMask.reshape(-1L).nonzero().reshape -1L
                let at = place.InputIds.reshape(-1L).index_select (0L, used)

                all.index_copy_ (0L, at, found.index_select(0L, used).to_type torch.float16)
                |> ignore

                if not (isNull progress) then
                    progress.Report(float (number * 64 + chunk.Length) / float order.Length)

            all)

    /// Rows.
    member _.Count = batch.Count

    /// The tokens of all rows; borrowed.
    member _.Batch = batch

    /// After how many layers.
    member _.Layers = layers

    /// The rows of those numbers (int64, any may repeat) as `TokenBatch.Rows` gives them, and their states, float32
    /// [rows, tokens, hidden]. The caller disposes both.
    member _.Rows(rows: Tensor) : struct (TokenBatch * Tensor) =
        ArgumentNullException.ThrowIfNull(rows, nameof rows)
        let picked = batch.Rows rows

        let found =
            Scope.tensor (fun () ->
                use place = places.Rows rows
                let flat = states.index_select (0L, place.InputIds.reshape -1L)
                flat.to_type(torch.float32).view (picked.Count, picked.Tokens, -1L))

        struct (picked, found)

    interface IDisposable with
        /// Frees states and batch.
        member _.Dispose() =
            states.Dispose()
            (places :> IDisposable).Dispose()
            (batch :> IDisposable).Dispose()
