namespace Sama.Language

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open System.Text.Json.Nodes

/// Hugging Face's tokenizer of a folder. Methods may be called from several threads at once; after `Dispose` they throw
/// ObjectDisposedException.
[<Sealed; AllowNullLiteral>]
type Tokenizer
    private
    (
        path: string,
        json: JsonObject,
        native: Tokenizers.DotNet.Tokenizer,
        frame: Frame,
        tokens: Dictionary<int64, string>,
        pad: string
    ) =
    let ids =
        Dictionary(tokens |> Seq.map (fun item -> KeyValuePair(item.Value, item.Key)))

    let mutable disposed = false

    static let largeBatch = 64

    /// The library's part: what is done here (framing, truncation, padding) is left out.
    static let load (path: string) (json: JsonObject) : Tokenizers.DotNet.Tokenizer =
        let own = json.DeepClone().AsObject()

        for key in [ "truncation"; "padding"; "post_processor" ] do
            own[key] <- null

        NativeTokenizer.load path own

    static let create (path: string) (json: JsonObject) (pad: string) : Tokenizer =
        let frame, tokens = Framing.read path json, Vocabulary.tokensOf path json

        let pad =
            let known name = tokens.ContainsValue name

            if not (isNull pad) && known pad then
                pad
            else
                [ "[PAD]"; "<pad>" ] |> List.tryFind known |> Option.toObj

        new Tokenizer(path, json, load path json, frame, tokens, pad)

    /// .NET's texts may hold half a surrogate pair, which no character is.
    let checkText (name: string) (text: string) : unit =
        ArgumentNullException.ThrowIfNull(text, name)
        let mutable i = 0

        while i < text.Length do
            if
                Char.IsHighSurrogate text[i]
                && i + 1 < text.Length
                && Char.IsLowSurrogate text[i + 1]
            then
                i <- i + 2
            elif Char.IsSurrogate text[i] then
                invalidArg
                    name
                    $"the text holds a lone surrogate (U+{int text[i]:X4}) at index {i}, which is no character"
            else
                i <- i + 1

    let content (name: string) (text: string) : int64[] =
        checkText name text
        ObjectDisposedException.ThrowIf(disposed, native)

        try
            NativeTokenizer.encode native text
        with :? Tokenizers.DotNet.TokenizerException as e ->
            raise (InvalidDataException($"'{path}' cannot encode '{text}': {e.Message}", e))

    let characters = lazy (new Characters(path, json))

    let name (id: int64) : string =
        match tokens.TryGetValue id with
        | true, token -> token
        | _ -> raise (Json.fail path $"its library gives id {id}, which its vocabulary has not")

    let specials (pieces: Piece[]) =
        pieces
        |> Array.sumBy (function
            | Special _ -> 1
            | Sentence _ -> 0)

    let assemble (pieces: Piece[]) (a: ReadOnlyMemory<int64>) (b: ReadOnlyMemory<int64>) : Encoding =
        let ids, kinds = ResizeArray(), ResizeArray()

        for piece in pieces do
            match piece with
            | Special(id, kind) ->
                ids.Add id
                kinds.Add kind
            | Sentence(which, kind) ->
                for id in (if which = 0 then a else b).ToArray() do
                    ids.Add id
                    kinds.Add kind

        { Ids = ids.ToArray()
          TypeIds = kinds.ToArray()
          Tokens = [| for id in ids -> name id |] }

    let encode (text: string) (pair: string) (maxLength: int) (truncation: Truncation) : Encoding =
        let paired = not (isNull pair)
        let pieces = if paired then frame.Pair else frame.Single
        let a = content "text" text
        let b = if paired then content "pair" pair else [||]

        let struct (keepA, keepB) =
            if maxLength = 0 then
                struct (a.Length, b.Length)
            else
                let room = maxLength - specials pieces

                if room < 0 then
                    invalidArg
                        (nameof maxLength)
                        $"{maxLength} tokens do not hold the {specials pieces} special tokens alone"

                if not paired && truncation = Truncation.OnlySecond then
                    invalidArg (nameof truncation) "there is no second sentence to truncate"

                Framing.cut truncation paired room a.Length b.Length

        assemble pieces (ReadOnlyMemory(a, 0, keepA)) (ReadOnlyMemory(b, 0, keepB))

    /// Reads tokenizer.json of a folder, or, where there is none, vocab.txt (WordPiece) or vocab.json and merges.txt
    /// (byte-level BPE) with tokenizer_config.json. Padding and truncation that tokenizer.json asks for are left out: each
    /// call says its own. The caller disposes it. FileNotFoundException; InvalidDataException naming the file.
    static member Load(folder: string) : Tokenizer =
        ArgumentException.ThrowIfNullOrEmpty(folder, nameof folder)
        let path, json = Vocabulary.ofFolder folder
        create path json (Vocabulary.padOf folder)

    /// WordPiece of a vocab.txt. `stripAccents` null: as `lowerCase`. Errors as `Load`.
    static member WordPiece
        (
            vocabulary: string,
            [<Optional; DefaultParameterValue(true)>] lowerCase: bool,
            [<Optional; DefaultParameterValue(Nullable<bool>())>] stripAccents: Nullable<bool>,
            [<Optional; DefaultParameterValue(true)>] splitIdeographs: bool
        ) : Tokenizer =
        create vocabulary (Vocabulary.wordPiece vocabulary lowerCase stripAccents splitIdeographs) null

    /// Byte-level BPE of a vocab.json and a merges.txt. `maskStripsSpace`: a mask takes the white space before it, as in
    /// the published RoBERTa. Errors as `Load`.
    static member ByteLevel
        (
            vocabulary: string,
            merges: string,
            [<Optional; DefaultParameterValue(false)>] addPrefixSpace: bool,
            [<Optional; DefaultParameterValue(true)>] trimOffsets: bool,
            [<Optional; DefaultParameterValue(true)>] maskStripsSpace: bool
        ) : Tokenizer =
        create vocabulary (Vocabulary.byteLevel vocabulary merges addPrefixSpace trimOffsets maskStripsSpace) null

    /// Tokens, those that were added included.
    member _.VocabularySize: int = tokens.Count

    /// The token of an id. ArgumentException if there is none.
    member _.Token(id: int64) : string =
        match tokens.TryGetValue id with
        | true, token -> token
        | _ -> invalidArg (nameof id) $"'{path}' has no token of id {id}"

    /// The id of a token, like "[MASK]". ArgumentException if there is none.
    member _.Id(token: string) : int64 =
        match ids.TryGetValue token with
        | true, id -> id
        | _ -> invalidArg (nameof token) $"'{path}' has no token '{token}'"

    /// The id that pads. InvalidOperationException if the vocabulary has no pad.
    member tokenizer.PadId: int64 =
        if isNull pad then
            invalidOp $"'{path}' names no pad token"

        tokenizer.Id pad

    /// The id that hides a word. InvalidOperationException if the vocabulary has none.
    member tokenizer.MaskId: int64 =
        match [ "[MASK]"; "<mask>" ] |> List.tryFind ids.ContainsKey with
        | Some token -> tokenizer.Id token
        | None -> invalidOp $"'{path}' has no mask token"

    /// A text, or a pair of texts, framed by the special tokens; special tokens in the text itself count as such.
    /// `maxLength` counts the special tokens; 0: no limit. ArgumentException for a text with half a surrogate pair, and for
    /// a length that cannot be kept.
    member _.Encode
        (
            text: string,
            [<Optional; DefaultParameterValue(null: string)>] pair: string,
            [<Optional; DefaultParameterValue(0)>] maxLength: int,
            [<Optional; DefaultParameterValue(Truncation.LongestFirst)>] truncation: Truncation
        ) : Encoding =
        if maxLength < 0 then
            invalidArg (nameof maxLength) $"maxLength is {maxLength}"

        encode text pair maxLength truncation

    /// Where the tokens of `Encode text` stand in the text. The library's wrapper gives none: they are found again by
    /// following its tokens. NotSupportedException for a tokenizer that is neither WordPiece with BERT's rules nor
    /// byte-level BPE, or whose tokens cannot be followed.
    member _.Offsets(text: string) : TokenSpan[] =
        checkText (nameof text) text
        ObjectDisposedException.ThrowIf(disposed, native)

        match Following.spans json characters (content "text") name (fun token -> ids[token]) text with
        | None -> raise (NotSupportedException $"'{path}': the places of its tokens cannot be told from their ids")
        | Some spans ->
            [| for piece in frame.Single do
                   match piece with
                   | Special _ -> { Start = 0; End = 0 }
                   | Sentence _ -> yield! spans |]

    /// Encodings of many texts, or pairs, in their order; large numbers of them on several threads. Errors as `Encode`,
    /// naming the row.
    member _.EncodeAll
        (
            texts: IReadOnlyList<string>,
            [<Optional; DefaultParameterValue(null: IReadOnlyList<string>)>] pairs: IReadOnlyList<string>,
            [<Optional; DefaultParameterValue(0)>] maxLength: int,
            [<Optional; DefaultParameterValue(Truncation.LongestFirst)>] truncation: Truncation
        ) : Encoding[] =
        ArgumentNullException.ThrowIfNull(texts, nameof texts)

        if not (isNull pairs) && pairs.Count <> texts.Count then
            invalidArg (nameof pairs) $"{pairs.Count} second texts for {texts.Count} first ones"

        if maxLength < 0 then
            invalidArg (nameof maxLength) $"maxLength is {maxLength}"

        // an error of one thread is one of many: the first row's is told
        let row i : Result<Encoding, exn> =
            try
                let pair = if isNull pairs then null else pairs[i]

                if not (isNull pairs) && isNull pair then
                    nullArg (nameof pairs)

                Ok(encode texts[i] pair maxLength truncation)
            with
            | :? ArgumentException as e -> Error(ArgumentException($"row {i}: {e.Message}", e))
            | e -> Error e

        let rows =
            if texts.Count < largeBatch then
                Array.init texts.Count row
            else
                Array.Parallel.init texts.Count row

        rows
        |> Array.map (function
            | Ok encoding -> encoding
            | Error e -> raise e)

    /// Rows of one length as tensors on the CPU; the caller disposes them. `maxLength` is for Padding.MaxLength; the width is
    /// rounded up to a multiple of `multipleOf`. ArgumentException for no row, an empty one, or one longer than maxLength.
    member tokenizer.Pad
        (
            encodings: IReadOnlyList<Encoding>,
            [<Optional; DefaultParameterValue(Padding.Longest)>] padding: Padding,
            [<Optional; DefaultParameterValue(0)>] maxLength: int,
            [<Optional; DefaultParameterValue(1)>] multipleOf: int,
            [<Optional; DefaultParameterValue(PaddingSide.Right)>] side: PaddingSide
        ) : TokenBatch =
        Padded.batch encodings padding maxLength multipleOf side (fun () -> tokenizer.PadId)

    /// `EncodeAll`, then `Pad`: what a model reads.
    member tokenizer.EncodeBatch
        (
            texts: IReadOnlyList<string>,
            [<Optional; DefaultParameterValue(null: IReadOnlyList<string>)>] pairs: IReadOnlyList<string>,
            [<Optional; DefaultParameterValue(0)>] maxLength: int,
            [<Optional; DefaultParameterValue(Truncation.LongestFirst)>] truncation: Truncation,
            [<Optional; DefaultParameterValue(Padding.Longest)>] padding: Padding,
            [<Optional; DefaultParameterValue(1)>] multipleOf: int,
            [<Optional; DefaultParameterValue(PaddingSide.Right)>] side: PaddingSide
        ) : TokenBatch =
        let encodings = tokenizer.EncodeAll(texts, pairs, maxLength, truncation)
        tokenizer.Pad(encodings, padding, maxLength, multipleOf, side)

    interface IDisposable with
        /// Frees the library's tokenizer.
        member _.Dispose() =
            if not disposed then
                disposed <- true
                native.Dispose()

                if characters.IsValueCreated then
                    (characters.Value :> IDisposable).Dispose()
