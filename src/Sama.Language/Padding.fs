namespace Sama.Language

open System
open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// To which length short rows are padded.
type Padding =
    /// the longest row's
    | Longest = 0
    /// the length that is given
    | MaxLength = 1

/// On which side rows are padded.
type PaddingSide =
    /// behind the text
    | Right = 0
    /// before it
    | Left = 1

/// A text or a pair as the model reads it, special tokens included.
[<NoComparison; NoEquality>]
type Encoding =
    {
        /// token ids
        Ids: int64[]
        /// 0, and 1 for what belongs to the second sentence where the model tells them apart
        TypeIds: int64[]
        /// the tokens' texts, as the vocabulary has them
        Tokens: string[]
    }

/// Encodings of different lengths as one batch.
module internal Padded =

    /// Rows of one length; `padId` is asked for where a row is padded. ArgumentException as `Tokenizer.Pad` says.
    let batch
        (encodings: IReadOnlyList<Encoding>)
        (padding: Padding)
        (maxLength: int)
        (multipleOf: int)
        (side: PaddingSide)
        (padId: unit -> int64)
        : TokenBatch =
        ArgumentNullException.ThrowIfNull(encodings, nameof encodings)

        if encodings.Count = 0 then
            invalidArg (nameof encodings) "there is no row"

        if multipleOf < 1 then
            invalidArg (nameof multipleOf) $"multipleOf is {multipleOf}"

        let longest = encodings |> Seq.map _.Ids.Length |> Seq.max

        if padding = Padding.MaxLength && longest > maxLength then
            invalidArg (nameof maxLength) $"a row has {longest} tokens, maxLength is {maxLength}"

        let width = if padding = Padding.MaxLength then maxLength else longest
        let width = max 1 ((width + multipleOf - 1) / multipleOf * multipleOf)
        let rows = encodings.Count
        let padded = encodings |> Seq.exists (fun e -> e.Ids.Length < width)

        let ids = Array.create (rows * width) (if padded then padId () else 0L)

        let mask, kinds = Array.zeroCreate (rows * width), Array.zeroCreate (rows * width)

        for i in 0 .. rows - 1 do
            let row = encodings[i]

            let at =
                i * width
                + (if side = PaddingSide.Left then
                       width - row.Ids.Length
                   else
                       0)

            Array.blit row.Ids 0 ids at row.Ids.Length
            Array.blit row.TypeIds 0 kinds at row.Ids.Length
            Array.fill mask at row.Ids.Length 1L

        let tensor (values: int64[]) : Tensor =
            torch.tensor(values, dtype = torch.ScalarType.Int64).view (int64 rows, int64 width)

        new TokenBatch(
            tensor ids,
            tensor mask,
            tensor kinds,
            { LargestId = Array.max ids
              LargestType = Array.max kinds
              Padded = padded }
        )
