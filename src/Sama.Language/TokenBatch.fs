namespace Sama.Language

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// What the values of a batch are, found once: no pass waits for a device to ask.
[<Struct>]
type internal BatchFacts =
    { LargestId: int64
      LargestType: int64
      Padded: bool }

/// Rows of token ids, [rows, tokens], int64, as an encoder reads them.
[<Sealed; AllowNullLiteral>]
type TokenBatch internal (inputIds: Tensor, attentionMask: Tensor, tokenTypeIds: Tensor, facts: BatchFacts) =

    static let check (name: string) (reference: Tensor) (tensor: Tensor) =
        if tensor.IsInvalid then
            invalidArg name $"{name} is disposed"

        if tensor.dtype <> torch.ScalarType.Int64 then
            invalidArg name $"{name} is {tensor.dtype}, int64 is expected"

        if tensor.dim () <> 2L || tensor.numel () = 0L then
            let shape = String.Join("x", tensor.shape)
            invalidArg name $"{name} is [{shape}], [rows, tokens] with at least one of each is expected"

        if tensor.shape <> reference.shape then
            let shown (t: Tensor) = String.Join("x", t.shape)
            invalidArg name $"{name} is [{shown tensor}], the ids are [{shown reference}]"

    static let number (tensor: Tensor) =
        use one = tensor
        one.item<int64> ()

    static let range (name: string) (most: int64) (tensor: Tensor) =
        let least, largest = number (tensor.min ()), number (tensor.max ())

        if least < 0L || largest > most then
            invalidArg name $"{name} holds {(if least < 0L then least else largest)}; 0 to {most} is expected"

        least, largest

    /// ObjectDisposedException once it, or the scope that it was made in, is disposed.
    static let alive (tensor: Tensor) : Tensor =
        ObjectDisposedException.ThrowIf(tensor.IsInvalid, typeof<TokenBatch>)
        tensor

    let requireRows (rows: Tensor) =
        if rows.dtype <> torch.ScalarType.Int64 || rows.dim () <> 1L || rows.numel () = 0L then
            let shape = String.Join("x", rows.shape)
            invalidArg (nameof rows) $"the rows are {rows.dtype} [{shape}], int64 [rows] with at least one is expected"

        range (nameof rows) ((alive inputIds).shape[0] - 1L) rows |> ignore

    /// Of tensors that the batch takes over: it disposes them. The mask is 1 at what takes part and 0 elsewhere (null:
    /// ones), the types are those of the sentences (null: zeros). ArgumentException for other types or shapes, and for
    /// values that cannot be.
    new
        (
            inputIds: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] attentionMask: Tensor,
            [<Optional; DefaultParameterValue(null: Tensor)>] tokenTypeIds: Tensor
        ) =
        ArgumentNullException.ThrowIfNull(inputIds, nameof inputIds)
        check (nameof inputIds) inputIds inputIds

        let mask =
            if isNull attentionMask then
                torch.ones_like inputIds
            else
                attentionMask

        let types =
            if isNull tokenTypeIds then
                torch.zeros_like inputIds
            else
                tokenTypeIds

        check (nameof attentionMask) inputIds mask
        check (nameof tokenTypeIds) inputIds types
        let _, largestId = range (nameof inputIds) Int64.MaxValue inputIds
        let least, _ = range (nameof attentionMask) 1L mask
        let _, largestType = range (nameof tokenTypeIds) Int64.MaxValue types

        new TokenBatch(
            inputIds,
            mask,
            types,
            { LargestId = largestId
              LargestType = largestType
              Padded = (least = 0L) }
        )

    /// Token ids.
    member _.InputIds = alive inputIds

    /// 1 at what takes part.
    member _.AttentionMask = alive attentionMask

    /// 0, and 1 for the second sentence of a BERT pair.
    member _.TokenTypeIds = alive tokenTypeIds

    /// Rows.
    member _.Count = (alive inputIds).shape[0]

    /// Tokens of a row, pads included.
    member _.Tokens = (alive inputIds).shape[1]

    member internal _.Facts = facts

    /// The rows of those numbers (int64, on the batch's device, any may repeat), as a new batch; the last columns that are
    /// masked in all of them are left out (the first ones are not, since BERT counts positions from them). The caller disposes it.
    /// ArgumentException for other rows.
    member _.Rows(rows: Tensor) : TokenBatch =
        ArgumentNullException.ThrowIfNull(rows, nameof rows)
        requireRows rows

        Scope.run (fun keep ->
            let pick (tensor: Tensor) = tensor.index_select (0L, rows)
            let mask = pick attentionMask
            let used = mask.amax([| 0L |]).nonzero().reshape -1L

            let count =
                if used.numel () = 0L then
                    mask.shape[1]
                else
                    number (used.max ()) + 1L

            let cut (tensor: Tensor) =
                keep (tensor.narrow(1L, 0L, count).contiguous ())

            let mask = cut mask
            let padded = facts.Padded && number (mask.min ()) = 0L
            new TokenBatch(cut (pick inputIds), mask, cut (pick tokenTypeIds), { facts with Padded = padded }))

    /// The batch on a device; the caller disposes it.
    member _.To(device: torch.Device) : TokenBatch =
        let moved (tensor: Tensor) = (alive tensor).``to``(device).alias ()

        new TokenBatch(moved inputIds, moved attentionMask, moved tokenTypeIds, facts)

    /// The batch itself, whose tensors from now on outlive the dispose scope that they were made in.
    member batch.DetachFromDisposeScope() : TokenBatch =
        for tensor in [ inputIds; attentionMask; tokenTypeIds ] do
            (alive tensor).DetachFromDisposeScope() |> ignore

        batch

    interface IDisposable with
        /// Frees its tensors.
        member _.Dispose() =
            inputIds.Dispose()
            attentionMask.Dispose()
            tokenTypeIds.Dispose()
