namespace Sama.Language

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// What the first layers of an encoder make of the rows of a batch, computed once and kept in half precision, so that a step
/// costs what the layers above cost (`LastHiddenStateFrom`, `LogProbabilitiesFrom`): for layers that are frozen, whose
/// dropout is then off. `first`: of each row's first token alone, which is all that a classifier reads behind the last
/// layer. It takes the batch over, works on its device, and borrows the encoder while it is made. ArgumentException where
/// `first` is asked of a row that begins with a pad.
[<Sealed; AllowNullLiteral>]
type LayerStates
    (
        encoder: EncoderFunctions,
        batch: TokenBatch,
        layers: int,
        [<Optional; DefaultParameterValue(null: IProgress<float>)>] progress: IProgress<float>,
        [<Optional; DefaultParameterValue(false)>] first: bool
    ) =
    do
        ArgumentNullException.ThrowIfNull(encoder, nameof encoder)
        ArgumentNullException.ThrowIfNull(batch, nameof batch)

        if layers < 0 || layers > encoder.Config.Layers then
            invalidArg (nameof layers) $"the output of {layers} layers of {encoder.Config.Layers} is asked for"

        use scope = torch.NewDisposeScope()

        if first && batch.AttentionMask.select(1L, 0L).min().item<int64> () = 0L then
            invalidArg (nameof batch) "a row begins with a pad, where its first token is asked for: pad on the right"

    let device = batch.InputIds.device

    /// The tokens whose states are kept.
    let tokens =
        if first then
            let column (tensor: Tensor) =
                Scope.tensor (fun () -> tensor.narrow(1L, 0L, 1L).clone ())

            new TokenBatch(column batch.InputIds, column batch.AttentionMask, column batch.TokenTypeIds)
        else
            batch

    /// Where each token's states stand, from 1 on; 0, which is zeros, where a row is padded. As a batch, so that its columns
    /// are left out as those of the tokens are.
    let places =
        let numbers =
            Scope.tensor (fun () ->
                let mask = tokens.AttentionMask
                mask.reshape(-1L).cumsum(0L).view_as mask * mask)

        new TokenBatch(numbers, tokens.AttentionMask.alias ())

    let states =
        Scope.tensor (fun () ->
            use _ = torch.no_grad ()
            let theta = Params.frozen encoder.Layout (encoder.Initial.``to`` device)
            let hidden = encoder.Config.HiddenSize
            let count = tokens.AttentionMask.sum().item<int64> ()
            let all = torch.zeros (count + 1L, hidden, dtype = torch.float16, device = device)

            // rows of like length together
            let order = batch.AttentionMask.sum(1L).argsort(0L).cpu().data<int64>().ToArray()

            for number, chunk in order |> Array.chunkBySize 64 |> Array.indexed do
                use _ = torch.NewDisposeScope()
                let index = torch.tensor (chunk, device = device)
                use rows = batch.Rows index
                use place = places.Rows index
                let found = encoder.HiddenStates(theta, rows).[layers].narrow (1L, 0L, place.Tokens)
                let used = place.InputIds.reshape(-1L).nonzero().reshape -1L
                let at = place.InputIds.reshape(-1L).index_select (0L, used)
                let flat = found.reshape(-1L, hidden).index_select (0L, used)
                all.index_copy_ (0L, at, flat.to_type torch.float16) |> ignore

                if not (isNull progress) then
                    progress.Report(float (number * 64 + chunk.Length) / float order.Length)

            all)

    do
        // they live as long as this, whatever scope it is made in
        tokens.DetachFromDisposeScope() |> ignore
        places.DetachFromDisposeScope() |> ignore
        states.DetachFromDisposeScope() |> ignore

        if first then
            (batch :> IDisposable).Dispose()

    /// Rows.
    member _.Count = tokens.Count

    /// The tokens of all rows that states are kept of; borrowed.
    member _.Batch = tokens

    /// After how many layers.
    member _.Layers = layers

    /// The rows of those numbers (int64 on the batch's device, any may repeat) as `TokenBatch.Rows` gives them, and their states, float32
    /// [rows, tokens, hidden]. The caller disposes both.
    member _.Rows(rows: Tensor) : struct (TokenBatch * Tensor) =
        ArgumentNullException.ThrowIfNull(rows, nameof rows)
        let picked = tokens.Rows rows

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
            (tokens :> IDisposable).Dispose()
