namespace Sama.Language

open System
open System.Collections.Generic
open System.IO
open System.Text
open System.Text.Json.Nodes

/// tokenizer.json, as it is in a folder or written from vocabulary files.
module internal Vocabulary =

    let private text (x: string) : JsonNode = JsonValue.Create x
    let private flag (x: bool) : JsonNode = JsonValue.Create x

    let private whole (x: int64) : JsonNode = JsonValue.Create x

    let private object (items: (string * JsonNode) seq) : JsonObject =
        JsonObject(items |> Seq.map (fun (key, value) -> KeyValuePair(key, value)))

    let private list (items: JsonNode seq) : JsonArray = JsonArray(Array.ofSeq items)

    let private readText (path: string) : string =
        if not (File.Exists path) then
            raise (FileNotFoundException($"there is no file '{path}'", path))

        try
            UTF8Encoding(false, true).GetString(File.ReadAllBytes path)
        with :? DecoderFallbackException as e ->
            raise (Json.fail path $"it is not UTF-8: {e.Message}")

    let private addedToken (id: int64) (content: string) (lstrip: bool) (special: bool) : JsonNode =
        object
            [ "id", whole id
              "content", text content
              "single_word", flag false
              "lstrip", flag lstrip
              "rstrip", flag false
              "normalized", flag (not special)
              "special", flag special ]

    let private document added normalizer preTokenizer postProcessor decoder model : JsonObject =
        object
            [ "version", text "1.0"
              "truncation", null
              "padding", null
              "added_tokens", list added
              "normalizer", normalizer
              "pre_tokenizer", preTokenizer
              "post_processor", postProcessor
              "decoder", decoder
              "model", model ]

    let private requireTokens path (vocabulary: Dictionary<string, int64>) (names: string list) : unit =
        for name in names do
            if not (vocabulary.ContainsKey name) then
                let hint =
                    if vocabulary.ContainsKey(name + "\r") then
                        " (its lines end in CR LF; LF is expected)"
                    else
                        ""

                raise (Json.fail path $"the vocabulary has no token {name}{hint}")

    let private vocabularyOf (vocabulary: Dictionary<string, int64>) : JsonNode =
        object [ for item in vocabulary -> item.Key, whole item.Value ]

    /// WordPiece of a vocab.txt: one token a line, its id the line's number from 0; lines are not trimmed.
    let wordPiece (path: string) (lower: bool) (stripAccents: Nullable<bool>) (ideographs: bool) : JsonObject =
        let lines = (readText path).Split '\n'
        let vocabulary = Dictionary<string, int64>()

        let count =
            if lines[lines.Length - 1] = "" then
                lines.Length - 1
            else
                lines.Length

        for id in 0 .. count - 1 do
            vocabulary[lines[id]] <- int64 id

        requireTokens path vocabulary [ "[PAD]"; "[UNK]"; "[CLS]"; "[SEP]" ]

        let special name : JsonNode =
            object [ "SpecialToken", object [ "id", text name; "type_id", whole 0L ] ]

        let sequence name kind : JsonNode =
            object [ "Sequence", object [ "id", text name; "type_id", whole kind ] ]

        let closing: JsonNode =
            object [ "SpecialToken", object [ "id", text "[SEP]"; "type_id", whole 1L ] ]

        let known name : string * JsonNode =
            name,
            object
                [ "id", text name
                  "ids", list [ whole vocabulary[name] ]
                  "tokens", list [ text name ] ]

        document
            [ for name in [ "[PAD]"; "[UNK]"; "[CLS]"; "[SEP]"; "[MASK]" ] do
                  if vocabulary.ContainsKey name then
                      addedToken vocabulary[name] name false true ]
            (object
                [ "type", text "BertNormalizer"
                  "clean_text", flag true
                  "handle_chinese_chars", flag ideographs
                  "strip_accents",
                  (if stripAccents.HasValue then
                       flag stripAccents.Value
                   else
                       null)
                  "lowercase", flag lower ])
            (object [ "type", text "BertPreTokenizer" ])
            (object
                [ "type", text "TemplateProcessing"
                  "single", list [ special "[CLS]"; sequence "A" 0L; special "[SEP]" ]
                  "pair", list [ special "[CLS]"; sequence "A" 0L; special "[SEP]"; sequence "B" 1L; closing ]
                  "special_tokens", object [ known "[CLS]"; known "[SEP]" ] ])
            (object [ "type", text "WordPiece"; "prefix", text "##"; "cleanup", flag true ])
            (object
                [ "type", text "WordPiece"
                  "unk_token", text "[UNK]"
                  "continuing_subword_prefix", text "##"
                  "max_input_chars_per_word", whole 100L
                  "vocab", vocabularyOf vocabulary ])

    let private ids (path: string) : Dictionary<string, int64> =
        let found = Dictionary<string, int64>()

        for item in Json.read path do
            match item.Value with
            | :? JsonValue as value ->
                match value.TryGetValue<int64>() with
                | true, id when id >= 0L -> found[item.Key] <- id
                | _ -> raise (Json.fail path $"the id of '{item.Key}' is {value.ToJsonString()}")
            | _ -> raise (Json.fail path $"the id of '{item.Key}' is no number")

        found

    /// Byte-level BPE of a vocab.json and a merges.txt (first line `#version`, then a pair a line by rank).
    let byteLevel (path: string) (mergesPath: string) (prefixSpace: bool) (trim: bool) (maskStrips: bool) : JsonObject =
        let vocabulary = ids path
        requireTokens path vocabulary [ "<s>"; "</s>"; "<pad>"; "<unk>" ]

        let merges =
            [ for number, line in (readText mergesPath).Split '\n' |> Seq.indexed do
                  if line <> "" && not (number = 0 && line.StartsWith "#version") then
                      match line.Split ' ' with
                      | [| a; b |] -> list [ text a; text b ] :> JsonNode
                      | _ -> raise (Json.fail mergesPath $"line {number + 1}, '{line}', is no pair") ]

        let level: (string * JsonNode) list =
            [ "type", text "ByteLevel"
              "add_prefix_space", flag prefixSpace
              "trim_offsets", flag trim
              "use_regex", flag true ]

        document
            [ for name in [ "<s>"; "<pad>"; "</s>"; "<unk>"; "<mask>" ] do
                  if vocabulary.ContainsKey name then
                      addedToken vocabulary[name] name (name = "<mask>" && maskStrips) true ]
            null
            (object level)
            (object
                [ "type", text "RobertaProcessing"
                  "sep", list [ text "</s>"; whole vocabulary["</s>"] ]
                  "cls", list [ text "<s>"; whole vocabulary["<s>"] ]
                  "trim_offsets", flag trim
                  "add_prefix_space", flag prefixSpace ])
            (object
                [ "type", text "ByteLevel"
                  "add_prefix_space", flag true
                  "trim_offsets", flag true
                  "use_regex", flag true ])
            (object
                [ "type", text "BPE"
                  "dropout", null
                  "unk_token", null
                  "continuing_subword_prefix", text ""
                  "end_of_word_suffix", text ""
                  "fuse_unk", flag false
                  "byte_fallback", flag false
                  "ignore_merges", flag false
                  "vocab", vocabularyOf vocabulary
                  "merges", list merges ])

    /// Tokens that a folder without tokenizer.json adds to its vocabulary.
    let private addMore (folder: string) (json: JsonObject) : unit =
        let path = Path.Combine(folder, "added_tokens.json")

        if File.Exists path then
            let known = (json["added_tokens"]).AsArray()

            let contents =
                HashSet(known |> Seq.map (fun token -> (token["content"]).GetValue<string>()))

            for item in ids path do
                if contents.Add item.Key then
                    known.Add(addedToken item.Value item.Key false false)

    /// tokenizer.json of a folder, or what its vocab.txt, or vocab.json and merges.txt, say with tokenizer_config.json.
    /// FileNotFoundException if there is none of them. The path is the one that errors name.
    let ofFolder (folder: string) : string * JsonObject =
        let at name = Path.Combine(folder, name)

        if File.Exists(at "tokenizer.json") then
            at "tokenizer.json", Json.read (at "tokenizer.json")
        else
            let path = at "tokenizer_config.json"
            let config = if File.Exists path then Json.read path else JsonObject()
            let flag key missing = Json.flag path config key missing

            let file, json =
                if File.Exists(at "vocab.txt") then
                    let strip =
                        if isNull (Json.tryGet config "strip_accents") then
                            Nullable()
                        else
                            Nullable(flag "strip_accents" false)

                    at "vocab.txt",
                    wordPiece (at "vocab.txt") (flag "do_lower_case" true) strip (flag "tokenize_chinese_chars" true)
                elif File.Exists(at "vocab.json") then
                    at "vocab.json",
                    byteLevel
                        (at "vocab.json")
                        (at "merges.txt")
                        (flag "add_prefix_space" false)
                        (flag "trim_offsets" true)
                        true
                else
                    raise (
                        FileNotFoundException(
                            $"'{folder}' holds no tokenizer.json, no vocab.txt and no vocab.json",
                            at "tokenizer.json"
                        )
                    )

            addMore folder json
            file, json

    /// The model's tokens and those that were added, by id. InvalidDataException for a model without such a vocabulary.
    let tokensOf (path: string) (json: JsonObject) : Dictionary<int64, string> =
        let found = Dictionary<int64, string>()

        try
            for item in (json["model"]["vocab"]).AsObject() do
                found[item.Value.GetValue<int64>()] <- item.Key

            match json["added_tokens"] with
            | null -> ()
            | added ->
                for token in added.AsArray() do
                    let id, content = token["id"], token["content"]
                    found[id.GetValue<int64>()] <- content.GetValue<string>()
        with
        | :? NullReferenceException
        | :? InvalidOperationException
        | :? FormatException
        | :? ArgumentException ->
            raise (Json.fail path "its vocabulary is not as the format has it: tokens with their ids are expected")

        found

    /// The pad's token as tokenizer_config.json names it, plainly or as an object; null if it does not.
    let padOf (folder: string) : string =
        let path = Path.Combine(folder, "tokenizer_config.json")

        if File.Exists path then
            match Json.tryGet (Json.read path) "pad_token" with
            | :? JsonObject as token when not (isNull token["content"]) -> token["content"].ToString()
            | null -> null
            | token -> token.ToString()
        else
            null
