namespace Sama.DataOptimization

open System
open System.Text.Json

/// Rows as one JSON object a line.
module internal JsonLines =

    let private bad file line column reason : 'a =
        TextFile.bad file (Nullable line) column reason

    /// The field of that name, or by its dots; none where it is missing.
    let rec private find (element: JsonElement) (name: string) : JsonElement option =
        if element.ValueKind <> JsonValueKind.Object then
            None
        else
            match element.TryGetProperty name with
            | true, value -> Some value
            | _ ->
                match name.IndexOf '.' with
                | -1 -> None
                | dot ->
                    match element.TryGetProperty name[.. dot - 1] with
                    | true, inner -> find inner name[dot + 1 ..]
                    | _ -> None

    /// A class, a text or an id: a string, or a number as it is written; null for null.
    let private name file line column (element: JsonElement) : string =
        match element.ValueKind with
        | JsonValueKind.Null -> null
        | JsonValueKind.String -> element.GetString()
        | JsonValueKind.True -> "true"
        | JsonValueKind.False -> "false"
        | JsonValueKind.Number -> Spelling.number (element.GetRawText())
        | kind -> bad file line column $"a string or a number is expected, not {kind}"

    let private parse file line (text: string) : JsonDocument =
        if text.TrimStart().StartsWith '[' then
            bad file line null "a JSON list: one object a line is expected (JSON lines), no list of them"

        try
            let document =
                JsonDocument.Parse(text, JsonDocumentOptions(AllowDuplicateProperties = false))

            if document.RootElement.ValueKind <> JsonValueKind.Object then
                bad file line null "one JSON object a line is expected"

            document
        with :? JsonException as e ->
            raise (DataException(file, Nullable line, null, $"no valid JSON ({e.Message})", e))

    let private required file line (element: JsonElement) (column: string) =
        match find element column with
        | Some value -> name file line column value
        | None -> bad file line column "the field is missing"

    /// A field that may be missing from a row: null then.
    let private optional file line element column =
        match find element column with
        | Some value -> name file line column value
        | None -> null

    let private votes file line (options: ReadOptions) (element: JsonElement) : string[] =
        if not (isNull options.VotesColumn) then
            match find element options.VotesColumn with
            | Some list when list.ValueKind = JsonValueKind.Array ->
                [| for vote in list.EnumerateArray() -> name file line options.VotesColumn vote |]
            | Some _ -> bad file line options.VotesColumn "a list of votes is expected"
            | None -> bad file line options.VotesColumn "the field is missing"
        elif not (isNull options.VoteColumns) then
            [| for column in options.VoteColumns -> required file line element column |]
        else
            [||]

    let private fields file (options: ReadOptions) line number (element: JsonElement) : RawRow =
        { RawId =
            if isNull options.IdColumn then
                number
            else
                required file line element options.IdColumn
          RawText = required file line element options.TextColumn
          RawLabel =
            if isNull options.LabelColumn then
                null
            elif options.LabelRequired then
                required file line element options.LabelColumn
            else
                optional file line element options.LabelColumn
          RawTruth =
            if isNull options.TruthColumn then
                null
            else
                optional file line element options.TruthColumn
          RawVotes = votes file line options element
          RawLine = line }

    let row file (options: ReadOptions) line number (element: JsonElement) : RawRow =
        try
            fields file options line number element
        with :? InvalidOperationException as e ->
            // half of a character, \ud800
            raise (DataException(file, Nullable line, null, $"a string that is no text ({e.Message})", e))

    /// Names of the rules; DataException where a row has another number of votes than the first.
    let rules file (options: ReadOptions) (rows: RawRow[]) : string[] =
        for row in rows do
            if row.RawVotes.Length <> rows[0].RawVotes.Length then
                bad
                    file
                    row.RawLine
                    options.VotesColumn
                    $"{row.RawVotes.Length} votes, the first row has {rows[0].RawVotes.Length}"

        if not (isNull options.VotesColumn) then
            Array.init rows[0].RawVotes.Length (fun rule -> $"{options.VotesColumn}[{rule}]")
        elif isNull options.VoteColumns then
            [||]
        else
            Array.ofSeq options.VoteColumns

    /// Blank lines are passed over.
    let read (file: string) (options: ReadOptions) : Dataset =
        let lines = (TextFile.read file).Split '\n'

        let rows =
            lines
            |> Seq.indexed
            |> Seq.filter (fun (_, text) -> not (String.IsNullOrWhiteSpace text))
            |> Seq.mapi (fun number (index, text) ->
                use document = parse file (index + 1) text
                row file options (index + 1) (string number) document.RootElement)
            |> Array.ofSeq

        RowBuilder.build file options (rules file options rows) rows
