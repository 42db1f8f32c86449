namespace Sama.Language

open System
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
