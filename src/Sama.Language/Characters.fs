namespace Sama.Language

open System
open System.Collections.Concurrent
open System.Text
open System.Text.Json.Nodes

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
