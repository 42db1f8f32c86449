/// Tokens, ids, pairs, truncation and batches of recorded strings.
module Sama.Fixtures.Language.Tokens

open System
open System.IO
open System.Text.Json
open TorchSharp
open Sama.Fixtures.Hypergradients.Json
open Sama.Fixtures.Language.Values
open Sama.Fixtures.Row
open Sama.Language

let private flagOr missing name (json: JsonElement) =
    tryGet name json |> Option.map _.GetBoolean() |> Option.defaultValue missing

let private optionalFlag name (json: JsonElement) =
    match tryGet name json with
    | Some value -> Nullable(value.GetBoolean())
    | None -> Nullable()

/// From its vocabulary files, with the options of the file and then those of a variant.
let private ofVocabulary (folder: string) (record: JsonElement) (variant: JsonElement option) : Tokenizer =
    let at key =
        Path.GetFullPath(Path.Combine(folder, text key record))

    let find read missing key =
        match variant with
        | Some options when (tryGet key options).IsSome -> read key options
        | _ -> tryGet "options" record |> Option.map (read key) |> Option.defaultValue missing

    let flag missing key = find (flagOr missing) missing key

    match text "kind" record with
    | "wordpiece" ->
        Tokenizer.WordPiece(
            at "vocab",
            flag true "do_lower_case",
            find optionalFlag (Nullable()) "strip_accents",
            flag true "tokenize_chinese_chars"
        )
    | _ ->
        let plainMask =
            variant |> Option.exists (fun options -> (tryGet "mask_token" options).IsSome)

        Tokenizer.ByteLevel(
            at "vocab",
            at "merges",
            flag false "add_prefix_space",
            flag true "trim_offsets",
            not plainMask
        )

let private equal (found: int64[]) (expected: JsonElement) = found = Array.ofSeq (whole expected)

let private offsets (tokenizer: Tokenizer) (sentence: string) (record: JsonElement) : bool =
    let expected =
        tryGet "offsets_utf16" record
        |> Option.defaultWith (fun () -> item "offsets" record)

    let found = tokenizer.Offsets sentence

    [| for span in found do
           int64 span.Start
           int64 span.End |] = Array.ofSeq (whole expected)

let private encodingRows family (tokenizer: Tokenizer) (sentences: string[]) (record: JsonElement) : Row list =
    let number = integer "string" record
    let sentence = sentences[number]
    let case = $"string {number}"

    guarded family case (fun () ->
        let found = tokenizer.Encode sentence

        [ sameRow family case "ids" (equal found.Ids (item "ids" record))
          sameRow family case "tokens" (found.Tokens = strings (item "tokens" record))
          sameRow family case "offsets" (offsets tokenizer sentence record)
          for limit in [ 16; 32 ] do
              let expected =
                  tryGet $"truncated_{limit}" record
                  |> Option.defaultWith (fun () -> item "ids" record)

              let found = tokenizer.Encode(sentence, maxLength = limit)
              sameRow family case $"truncated to {limit}" (equal found.Ids expected) ])

let private strategies =
    [ "longest_first", Truncation.LongestFirst
      "only_first", Truncation.OnlyFirst
      "only_second", Truncation.OnlySecond ]

let private pairRows family (tokenizer: Tokenizer) (sentences: string[]) (record: JsonElement) : Row list =
    let both = integers "strings" record
    let case = $"strings {both[0]} and {both[1]}"

    guarded family case (fun () ->
        let same quantity (expected: JsonElement) (found: Encoding) =
            sameRow
                family
                case
                quantity
                (equal found.Ids (item "ids" expected)
                 && equal found.TypeIds (item "types" expected))

        [ same "ids and types" record (tokenizer.Encode(sentences[both[0]], sentences[both[1]]))
          for name, strategy in strategies do
              for limit in [ 16; 32 ] do
                  match tryGet $"{name}_{limit}" record with
                  | Some expected ->
                      tokenizer.Encode(sentences[both[0]], sentences[both[1]], limit, strategy)
                      |> same $"{name} to {limit}" expected
                  | None -> () ])

let private batchRows family (tokenizer: Tokenizer) (sentences: string[]) (i: int) (record: JsonElement) : Row list =
    guarded family $"batch {i}" (fun () ->
        let options = item "options" record

        let limit =
            tryGet "max_length" options |> Option.map _.GetInt32() |> Option.defaultValue 0

        let full = (item "padding" options).ValueKind = JsonValueKind.String

        let multiple =
            tryGet "pad_to_multiple_of" options
            |> Option.map _.GetInt32()
            |> Option.defaultValue 1

        let left =
            tryGet "padding_side" options
            |> Option.exists (fun side -> side.GetString() = "left")

        use batch =
            tokenizer.EncodeBatch(
                [| for n in integers "strings" record -> sentences[n] |],
                maxLength = limit,
                padding = (if full then Padding.MaxLength else Padding.Longest),
                multipleOf = multiple,
                side = (if left then PaddingSide.Left else PaddingSide.Right)
            )

        [ for name, tensor in
              [ "input_ids", batch.InputIds
                "attention_mask", batch.AttentionMask
                "token_type_ids", batch.TokenTypeIds ] ->
              sameRow family $"batch {i}" name (equal (wholeOf tensor) (item name record)) ])

let private all family (tokenizer: Tokenizer) sentences (record: JsonElement) : Row list =
    List.collect (encodingRows family tokenizer sentences) (items "encodings" record)
    @ List.collect (pairRows family tokenizer sentences) (items "pairs" record)
    @ (items "batches" record
       |> List.mapi (batchRows family tokenizer sentences)
       |> List.concat)

let private tokenizerRows (folder: string) (sentences: string[]) (name: string) (record: JsonElement) : Row list =
    let family = $"language/tokens/{name}"

    guarded family "vocabulary" (fun () ->
        use tokenizer = ofVocabulary folder record None
        all family tokenizer sentences record)
    // the published file of the same folder, where there is one
    @ guarded family "tokenizer.json" (fun () ->
        let own = Path.GetDirectoryName(Path.Combine(folder, text "vocab" record))

        if File.Exists(Path.Combine(own, "tokenizer.json")) then
            use tokenizer = Tokenizer.Load own
            all $"{family}/tokenizer.json" tokenizer sentences record
        else
            [])
    @ [ for variant in
            tryGet "variants" record
            |> Option.map (fun v -> List.ofSeq (v.EnumerateArray()))
            |> Option.defaultValue [] do
            let options = item "options" variant

            yield!
                guarded family $"variant {options.GetRawText()}" (fun () ->
                    use tokenizer = ofVocabulary folder record (Some options)
                    let family = $"{family} {options.GetRawText()}"

                    items "encodings" variant
                    |> List.collect (encodingRows family tokenizer sentences)
                    |> List.filter (fun row -> not (row.Quantity.StartsWith "truncated"))) ]

let rows (folder: string) (json: JsonElement) : Row list =
    use _ = torch.NewDisposeScope()
    let sentences = [| for s in items "strings" json -> text "text" s |]

    [ for record in (item "tokenizers" json).EnumerateObject() do
          yield! tokenizerRows folder sentences record.Name record.Value ]
