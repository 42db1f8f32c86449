namespace Sama.Language

open System
open System.Text.Json.Nodes

/// Which sentence of a pair gives way where both do not fit.
type Truncation =
    /// the longer one
    | LongestFirst = 0
    /// the first one
    | OnlyFirst = 1
    /// the second one
    | OnlySecond = 2

/// A part of what the model reads.
type internal Piece =
    /// an id of its own and its type
    | Special of id: int64 * kind: int64
    /// the first (0) or second (1) sentence and its type
    | Sentence of which: int * kind: int64

/// How one sentence and a pair are framed by special tokens.
[<NoComparison; NoEquality>]
type internal Frame = { Single: Piece[]; Pair: Piece[] }

module internal Framing =

    let private integer (node: JsonNode) : int64 = node.GetValue<int64>()

    let private text (node: JsonNode) : string = node.GetValue<string>()

    let private template (json: JsonObject) : Frame =
        let idsOf (name: string) : int64[] =
            let token = (json["special_tokens"]).Item name
            (token["ids"]).AsArray() |> Seq.map integer |> Array.ofSeq

        let pieces (key: string) =
            [| for item in (json[key]).AsArray() do
                   match item["SpecialToken"], item["Sequence"] with
                   | null, sentence ->
                       let which = if text (sentence["id"]) = "A" then 0 else 1
                       Sentence(which, integer (sentence["type_id"]))
                   | special, _ ->
                       for id in idsOf (text (special["id"])) do
                           Special(id, integer (special["type_id"])) |]

        { Single = pieces "single"
          Pair = pieces "pair" }

    let private classic (json: JsonObject) (roberta: bool) : Frame =
        let id (key: string) = integer ((json[key]).AsArray()[1])
        let cls, sep = id "cls", id "sep"
        let second = if roberta then 0L else 1L

        { Single = [| Special(cls, 0L); Sentence(0, 0L); Special(sep, 0L) |]
          Pair =
            [| Special(cls, 0L)
               Sentence(0, 0L)
               Special(sep, 0L)
               if roberta then
                   Special(sep, 0L)
               Sentence(1, second)
               Special(sep, second) |] }

    let private bare: Frame =
        { Single = [| Sentence(0, 0L) |]
          Pair = [| Sentence(0, 0L); Sentence(1, 1L) |] }

    let rec private frames (path: string) (node: JsonNode) : Frame list =
        match node with
        | null -> []
        | node ->
            match text (node["type"]) with
            | "TemplateProcessing" -> [ template (node.AsObject()) ]
            | "RobertaProcessing" -> [ classic (node.AsObject()) true ]
            | "BertProcessing" -> [ classic (node.AsObject()) false ]
            | "ByteLevel" -> []
            | "Sequence" ->
                [ for inner in (node["processors"]).AsArray() do
                      yield! frames path inner ]
            | other -> raise (Json.fail path $"'post_processor' is '{other}', which is not known here")

    /// The frame that tokenizer.json's post_processor describes. InvalidDataException for one that is not known.
    let read (path: string) (json: JsonObject) : Frame =
        let found =
            try
                frames path (json["post_processor"])
            with
            | :? NullReferenceException
            | :? InvalidOperationException
            | :? ArgumentException -> raise (Json.fail path "'post_processor' is not as the format has it")

        match found with
        | [] -> bare
        | [ one ] -> one
        | _ -> raise (Json.fail path "'post_processor' frames twice")

    /// Lengths of two sentences of a and b tokens that share `room`, by transformers' longest_first: the longer one gives way
    /// down to the shorter, then both halve the room.
    let private longestFirst (a: int) (b: int) (room: int) : struct (int * int) =
        let low = min a b
        let high = if low > room then low else max low (room - low)

        let low, high =
            if low + high > room then
                room / 2, room / 2 + room % 2
            else
                low, high

        if a <= b then struct (low, high) else struct (high, low)

    /// Lengths after truncation to `room` tokens. ArgumentException where the sentence that gives way is not long enough.
    let cut (strategy: Truncation) (pair: bool) (room: int) (a: int) (b: int) : struct (int * int) =
        let excess = a + b - room

        let shorter which length =
            if excess >= length then
                invalidArg
                    "maxLength"
                    $"the {which} sentence has {length} tokens, {excess} are too many: truncate longest first, or give more room"

            length - excess

        if excess <= 0 then
            struct (a, b)
        elif not pair then
            struct (room, 0)
        else
            match strategy with
            | Truncation.OnlyFirst -> struct (shorter "first" a, b)
            | Truncation.OnlySecond -> struct (a, shorter "second" b)
            | _ -> longestFirst a b room
