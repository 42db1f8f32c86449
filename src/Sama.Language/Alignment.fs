namespace Sama.Language

open System
open System.Collections.Concurrent
open System.Collections.Generic
open System.Text
open System.Text.Json.Nodes

/// Where a token stands in its text: from `Start` to before `End`, in UTF-16 units as .NET counts; both 0 for a special
/// token that was added.
[<Struct>]
type TokenSpan =
    {
        /// index of its first unit
        Start: int
        /// index behind its last unit
        End: int
    }

/// A token that is found in the raw text.
[<Struct; NoComparison; NoEquality>]
type internal AddedToken =
    { Content: string
      StripsLeft: bool
      StripsRight: bool }

/// A stretch of text: a token that was found in it, or what lies between two.
[<Struct; NoComparison; NoEquality>]
type internal Stretch =
    {
        From: int
        To: int
        /// null between tokens
        Added: string
    }

/// The native wrapper gives ids alone. Spans are found again by following its tokens through the text; what a character
/// becomes, and where words end, is asked of the library itself, so that its own Unicode tables count.
module internal Alignment =

    let private text (node: JsonNode) : string = node.GetValue<string>()

    let private flag (node: JsonNode) : bool =
        not (isNull node) && node.GetValue<bool>()

    /// Tokens that are looked for before anything else; None where some are looked for in another way.
    let added (json: JsonObject) : AddedToken list option =
        match json["added_tokens"] with
        | null -> Some []
        | tokens ->
            let tokens = List.ofSeq (tokens.AsArray())

            if
                tokens
                |> List.exists (fun t -> flag (t["normalized"]) || flag (t["single_word"]))
            then
                None
            else
                Some
                    [ for t in tokens ->
                          { Content = text (t["content"])
                            StripsLeft = flag (t["lstrip"])
                            StripsRight = flag (t["rstrip"]) } ]

    /// The text in stretches: the leftmost token, the longest where several begin.
    let split (added: AddedToken list) (text: string) : Stretch list =
        let longest =
            added
            |> List.filter (fun t -> t.Content <> "")
            |> List.sortByDescending _.Content.Length

        let found = ResizeArray()
        let mutable plain, at = 0, 0

        let between (stop: int) =
            if stop > plain then
                found.Add
                    { From = plain
                      To = stop
                      Added = null }

        while at < text.Length do
            match
                longest
                |> List.tryFind (fun t -> String.CompareOrdinal(text, at, t.Content, 0, t.Content.Length) = 0)
            with
            | Some token ->
                let mutable first, last = at, at + token.Content.Length

                while token.StripsLeft && first > plain && Char.IsWhiteSpace text[first - 1] do
                    first <- first - 1

                while token.StripsRight && last < text.Length && Char.IsWhiteSpace text[last] do
                    last <- last + 1

                between first

                found.Add
                    { From = first
                      To = last
                      Added = token.Content }

                plain <- last
                at <- last
            | None -> at <- at + 1

        between text.Length
        List.ofSeq found

/// GPT-2's visible characters for bytes.
module internal ByteAlphabet =

    let characters: char[] =
        let visible b =
            (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174

        let mutable hidden = 0

        [| for b in 0..255 do
               if visible b then
                   char b
               else
                   char (256 + hidden)
                   hidden <- hidden + 1 |]

/// What the library's normalizer and splitter do to single characters.
[<Sealed>]
type internal Characters(path: string, json: JsonObject) =

    let byteLevel () : JsonNode =
        JsonNode.Parse """{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}"""

    let bytesModel () : JsonNode =
        let vocabulary = JsonObject()

        ByteAlphabet.characters
        |> Array.iteri (fun b c -> vocabulary[string c] <- JsonValue.Create b)

        let model = JsonNode.Parse """{"type":"BPE","merges":[]}"""
        model["vocab"] <- vocabulary
        model

    let document (normalizer: JsonNode) (preTokenizer: JsonNode) (model: JsonNode) =
        let own = JsonNode.Parse("""{"version":"1.0","added_tokens":[]}""").AsObject()
        own["normalizer"] <- normalizer
        own["pre_tokenizer"] <- preTokenizer
        own["model"] <- model
        NativeTokenizer.load path own

    let copy (node: JsonNode) =
        if isNull node then null else node.DeepClone()

    /// text ↦ the bytes of what the normalizer makes of it
    let normalizer =
        lazy (document (copy (json["normalizer"])) (byteLevel ()) (bytesModel ()))

    /// text ↦ one id a word
    let splitter =
        lazy
            (document
                null
                (copy (json["pre_tokenizer"]))
                (JsonNode.Parse """{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"}"""))

    let normal = ConcurrentDictionary<Rune, string>()
    let widths = ConcurrentDictionary<Rune, int>()

    /// What a character becomes.
    member _.Normal(c: Rune) : string =
        normal.GetOrAdd(
            c,
            fun c ->
                NativeTokenizer.encode normalizer.Value (c.ToString())
                |> Array.map byte
                |> Encoding.UTF8.GetString
        )

    /// Words that "a", the character and "a" make: 1 within a word, 2 for white space, 3 for a word of its own.
    member _.Words(c: Rune) : int =
        widths.GetOrAdd(c, (fun c -> (NativeTokenizer.encode splitter.Value $"a{c}a").Length))

    interface IDisposable with
        member _.Dispose() =
            for native in [ normalizer; splitter ] do
                if native.IsValueCreated then
                    native.Value.Dispose()

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
