namespace Sama.Language

open System
open System.Text
open System.Text.Json.Nodes

/// Spans of the tokens of a stretch.
module internal Spans =

    /// A normalised character and its source.
    [<Struct>]
    type private Source = { Character: Rune; From: int; To: int }

    let private runes (text: string) (first: int) (last: int) : struct (Rune * int) list =
        let mutable at = first

        [ while at < last do
              let rune = Rune.GetRuneAt(text, at)
              struct (rune, at)
              at <- at + rune.Utf16SequenceLength ]

    let private words (characters: Characters) (text: string) (s: Stretch) : Source list list =
        let found, word = ResizeArray<Source list>(), ResizeArray<Source>()

        let close () =
            if word.Count > 0 then
                found.Add(List.ofSeq word)
                word.Clear()

        for struct (rune, at) in runes text s.From s.To do
            for c in (characters.Normal rune).EnumerateRunes() do
                let source =
                    { Character = c
                      From = at
                      To = at + rune.Utf16SequenceLength }

                match characters.Words c with
                | 1 -> word.Add source
                | 2 -> close ()
                | _ ->
                    close ()
                    found.Add [ source ]

        close ()
        List.ofSeq found

    let private span (part: Source list) : TokenSpan =
        { Start = part.Head.From
          End = (List.last part).To }

    let private spelling (part: Source list) : string =
        String.Join("", part |> List.map (fun s -> s.Character.ToString()))

    let private codePoints (text: string) = text.EnumerateRunes() |> Seq.length

    /// WordPiece: a word is its pieces, later ones behind `prefix`, or one unknown token. None where tokens and words part.
    let wordPiece
        (characters: Characters)
        (unknown: string)
        (prefix: string)
        (text: string)
        (stretch: Stretch)
        (tokens: string list)
        : TokenSpan list option =

        /// The pieces of one word, and the tokens that remain.
        let rec pieces (first: bool) (rest: Source list) (tokens: string list) (found: TokenSpan list) =
            match rest, tokens with
            | [], _ -> Some(List.rev found, tokens)
            | _, token :: more when first && token = unknown && spelling rest <> unknown -> Some([ span rest ], more)
            | _, token :: more ->
                let own =
                    if first then
                        token
                    elif token.StartsWith prefix then
                        token.Substring prefix.Length
                    else
                        ""

                let count = codePoints own

                if count = 0 || count > rest.Length || spelling (List.take count rest) <> own then
                    None
                else
                    pieces false (List.skip count rest) more (span (List.take count rest) :: found)
            | _, [] -> None

        let rec all (words: Source list list) (tokens: string list) (found: TokenSpan list list) =
            match words, tokens with
            | [], [] -> Some(found |> List.rev |> List.concat)
            | word :: more, _ ->
                match pieces true word tokens [] with
                | Some(spans, rest) -> all more rest (spans :: found)
                | None -> None
            | [], _ -> None

        all (words characters text stretch) tokens []

    /// Byte-level BPE: each character of a token is a byte of the text; a space that is put in front has no place in it.
    let byteLevel
        (prefixSpace: bool)
        (trim: bool)
        (text: string)
        (s: Stretch)
        (tokens: string list)
        : TokenSpan list option =
        let buffer = Array.zeroCreate 4

        let owners =
            [| if prefixSpace && s.To > s.From && text[s.From] <> ' ' then
                   struct (32uy, s.From, s.From)
               for struct (rune, at) in runes text s.From s.To do
                   for i in 0 .. rune.EncodeToUtf8(Span buffer) - 1 do
                       struct (buffer[i], at, at + rune.Utf16SequenceLength) |]

        /// Spaces at the token's ends do not count, but for the one that was put in front.
        let trimmed (token: string) (first: int) (last: int) : TokenSpan =
            let leading = token.Length - token.TrimStart('Ġ').Length
            let trailing = token.Length - token.TrimEnd('Ġ').Length

            let leading =
                if leading > 0 && prefixSpace && first = 0 then
                    leading - 1
                else
                    leading

            let first = min (first + leading) last

            { Start = first
              End =
                (if last >= trailing then
                     max (last - trailing) first
                 else
                     last) }

        let place (at: int) (token: string) : TokenSpan =
            let struct (_, first, _) = owners[at]
            let struct (_, _, last) = owners[at + token.Length - 1]

            if trim then
                trimmed token first last
            else
                { Start = first; End = last }

        let spelled =
            String(owners |> Array.map (fun (struct (b, _, _)) -> ByteAlphabet.characters[int b]))

        if String.Join("", tokens) <> spelled then
            None
        else
            let starts = tokens |> List.scan (fun at token -> at + token.Length) 0
            Some(List.map2 place (List.truncate tokens.Length starts) tokens)

/// A text's tokens, followed through it.
module internal Following =

    let private textOf (node: JsonNode) : string =
        if isNull node then "" else node.ToString()

    let private flagOf (node: JsonNode) : bool =
        not (isNull node) && node.GetValue<bool>()

    /// The value of a key; null where the node is no object.
    let private get (node: JsonNode) (key: string) : JsonNode =
        match node with
        | :? JsonObject as found -> found[key]
        | _ -> null

    /// Spans of the tokens between two added ones; None where the model is another or cannot be followed.
    let private stretch
        (json: JsonObject)
        (characters: Lazy<Characters>)
        (text: string)
        (s: Stretch)
        (tokens: string list)
        =
        let model, before, behind =
            json["model"], json["pre_tokenizer"], json["post_processor"]

        match textOf (get model "type"), textOf (get before "type") with
        | "WordPiece", "BertPreTokenizer" ->
            let unknown, prefix =
                textOf (model["unk_token"]), textOf (model["continuing_subword_prefix"])

            Spans.wordPiece characters.Value unknown prefix text s tokens
        | "BPE", "ByteLevel" when isNull (json["normalizer"]) ->
            Spans.byteLevel (flagOf (before["add_prefix_space"])) (flagOf (get behind "trim_offsets")) text s tokens
        | _ -> None

    /// The span of an added token; the white space that it takes along counts where nothing is trimmed.
    let private addedSpan (trims: bool) (text: string) (s: Stretch) : TokenSpan =
        if trims then
            let first = text.IndexOf(s.Added, s.From, StringComparison.Ordinal)

            { Start = first
              End = first + s.Added.Length }
        else
            { Start = s.From; End = s.To }

    /// The spans of a text's own tokens, stretch by stretch; None where they cannot be told, or the stretches' ids are not
    /// the text's. `encode` gives a text's ids, `name` the token of an id, `id` the id of an added token.
    let spans
        (json: JsonObject)
        (characters: Lazy<Characters>)
        (encode: string -> int64[])
        (name: int64 -> string)
        (id: string -> int64)
        (text: string)
        : TokenSpan list option =
        let trims = flagOf (get (json["post_processor"]) "trim_offsets")

        let one (s: Stretch) : (int64 list * TokenSpan list) option =
            if isNull s.Added then
                let found = encode (text.Substring(s.From, s.To - s.From)) |> List.ofArray

                stretch json characters text s (found |> List.map name)
                |> Option.map (fun spans -> found, spans)
            else
                Some([ id s.Added ], [ addedSpan trims text s ])

        match Alignment.added json with
        | None -> None
        | Some added ->
            let parts = Alignment.split added text |> List.map one

            if parts |> List.contains None then
                None
            else
                let found = List.map Option.get parts

                if (found |> List.collect fst |> Array.ofList) = encode text then
                    Some(found |> List.collect snd)
                else
                    None
