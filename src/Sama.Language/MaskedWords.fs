namespace Sama.Language

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// Words that are hidden for a model to guess (Devlin et al., *BERT*, 2019, whose tenths of other and of unchanged words are
/// left out).
[<AbstractClass; Sealed>]
type MaskedWords =

    /// A batch with `share` of its tokens, drawn by the seed, behind the mask, and their ids as labels, int64 [rows, tokens],
    /// -100 elsewhere, as `Encoder.Losses` reads them. Special tokens are not hidden. CPU tensors; the caller disposes both.
    /// ArgumentException for a share outside (0, 1), InvalidOperationException for a vocabulary without mask or pad.
    static member Hide
        (
            tokenizer: Tokenizer,
            batch: TokenBatch,
            [<Optional; DefaultParameterValue(0.15)>] share: float,
            [<Optional; DefaultParameterValue(0L)>] seed: int64
        ) : struct (TokenBatch * Tensor) =
        ArgumentNullException.ThrowIfNull(tokenizer, nameof tokenizer)
        ArgumentNullException.ThrowIfNull(batch, nameof batch)

        if not (share > 0.0 && share < 1.0) then
            invalidArg (nameof share) $"{share} of the words are to be hidden; a share in (0, 1) is expected"

        let special =
            [| yield! tokenizer.Encode("", "").Ids; tokenizer.PadId; tokenizer.MaskId |]

        Scope.run (fun keep ->
            use generator = new torch.Generator(uint64 seed)
            let ids = batch.InputIds

            let hidden =
                torch.rand(ids.shape, generator = generator).lt (Scalar.op_Implicit share)
                &&& ids.isin(torch.tensor special).logical_not ()

            let seen = torch.where (hidden, torch.tensor tokenizer.MaskId, ids)
            let labels = torch.where (hidden, ids, torch.tensor -100L)

            struct (new TokenBatch(keep seen, keep (batch.AttentionMask.alias ()), keep (batch.TokenTypeIds.alias ())),
                    keep labels))

    /// Mean cross entropy of each row's hidden words, 0 for a row without any: [rows]. `states` [rows, tokens, hidden] are a
    /// model's, `labels` [rows, tokens] as `Hide` gives them; `logits` makes of states [words, hidden] the logits
    /// [words, vocabulary] that labels count in. Differentiable. ArgumentException for labels of
    /// another shape or type, or that are no word.
    static member Losses(states: Tensor, labels: Tensor, logits: Func<Tensor, Tensor>) : Tensor =
        ArgumentNullException.ThrowIfNull(states, nameof states)
        ArgumentNullException.ThrowIfNull(labels, nameof labels)
        ArgumentNullException.ThrowIfNull(logits, nameof logits)

        if
            labels.dtype <> torch.ScalarType.Int64
            || labels.shape <> states.shape[.. states.shape.Length - 2]
        then
            let shown (tensor: Tensor) = String.Join("x", tensor.shape)

            invalidArg
                (nameof labels)
                $"the labels are {labels.dtype} [{shown labels}], int64 [rows, tokens] of states [{shown states}] are expected"

        Scope.tensor (fun () ->
            let flat = labels.reshape -1L
            let hidden = labels.ge (Scalar.op_Implicit 0L)
            let at = hidden.reshape(-1L).nonzero().reshape -1L
            let picked = states.reshape(flat.shape[0], -1L).index_select (0L, at)

            let scores, words = logits.Invoke picked, flat.index_select (0L, at)
            Labels.require scores.shape[1] words

            let each =
                torch.nn.functional.cross_entropy (scores, words, reduction = torch.nn.Reduction.None)

            let sums = torch.zeros_like(flat, dtype = each.dtype).index_add (0L, at, each, 1)
            sums.view_as(labels).sum 1L / hidden.sum(1L).clamp_min (Scalar.op_Implicit 1L))
