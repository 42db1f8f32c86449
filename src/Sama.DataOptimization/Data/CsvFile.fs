namespace Sama.DataOptimization

open System
open System.Globalization
open System.IO
open System.Text.Json
open CsvHelper
open CsvHelper.Configuration

/// Comma-separated values with a header (RFC 4180).
module internal CsvFile =

    let private bad file line column reason : 'a =
        TextFile.bad file (Nullable line) column reason

    let private separator (path: string) (options: ReadOptions) =
        match options.Separator with
        | null -> if TextFile.kind path = ".tsv" then "\t" else ","
        | "tab" -> "\t"
        | own ->
            Check.that "options.Separator" (own <> "" && own.IndexOfAny [| '"'; '\r'; '\n' |] < 0) (fun () ->
                $"'{own}' cannot separate columns: a comma, a semicolon, tab or the like can")

            own

    /// Names of the header to places; DataException for a name that occurs twice.
    let private header file line (names: string[]) =
        for name, count in Array.countBy id names do
            if count > 1 then
                bad file line name "the header names the column twice"

        fun (column: string) ->
            match Array.IndexOf(names, column) with
            | -1 ->
                let present = String.Join(", ", names)

                let hint =
                    match names with
                    | [| one |] when one.IndexOfAny [| ';'; '\t'; '|'; ',' |] >= 0 ->
                        ". It is one column: name the separator (--separator)"
                    | _ -> ""

                bad file line column $"the column is missing; the file has: {present}{hint}"
            | place -> place

    /// Every record with the line it starts at; none is blank.
    let private records (file: string) (options: ReadOptions) (text: string) : (int * string[])[] =
        let mutable line = 1
        let mutable headed = false

        let configuration =
            CsvConfiguration(
                CultureInfo.InvariantCulture,
                Delimiter = separator file options,
                Mode = CsvMode.RFC4180,
                IgnoreBlankLines = false,
                CountBytes = false,
                BadDataFound =
                    (fun found ->
                        let near = found.RawRecord[.. min 60 found.RawRecord.Length - 1].Trim()
                        bad file line null $"a quote stands inside a field that is not quoted, near: {near}")
            )

        use reader = new StringReader(text)
        use parser = new CsvParser(reader, configuration)

        [| while parser.Read() do
               let raw = parser.RawRecord

               // quotes come in pairs in every whole record
               if (raw |> Seq.filter ((=) '"') |> Seq.length) % 2 = 1 then
                   bad file line null "a quote is not closed"

               let record = parser.Record
               let first = line
               line <- parser.RawRow + 1

               if not (String.IsNullOrWhiteSpace raw) then
                   // before rows are read by a separator that is none
                   if not headed then
                       header file first record options.TextColumn |> ignore

                   headed <- true
                   first, record |]

    let private votes file line column (field: string) : string[] =
        try
            use document = JsonDocument.Parse field

            [| for vote in document.RootElement.EnumerateArray() ->
                   match vote.ValueKind with
                   | JsonValueKind.Null -> null
                   | JsonValueKind.String -> vote.GetString()
                   | _ -> vote.GetRawText() |]
        with
        | :? JsonException
        | :? InvalidOperationException -> bad file line column $"'{field}' is no JSON list of votes"

    let private row file (options: ReadOptions) (has: string -> bool) place number (line, record: string[]) : RawRow =
        let field (column: string) =
            if isNull column then null else record[place column]

        let label =
            if options.LabelRequired || has options.LabelColumn then
                field options.LabelColumn
            else
                null

        { RawId =
            if isNull options.IdColumn then
                string number
            else
                field options.IdColumn
          RawText = field options.TextColumn
          RawLabel = label
          RawTruth = field options.TruthColumn
          RawVotes =
            if not (isNull options.VotesColumn) then
                votes file line options.VotesColumn (field options.VotesColumn)
            elif isNull options.VoteColumns then
                [||]
            else
                [| for column in options.VoteColumns -> field column |]
          RawLine = line }

    let read (file: string) (options: ReadOptions) : Dataset =
        let records = records file options (TextFile.read file)
        let line, names = records[0]
        let place = header file line names
        let has column = Array.contains column names

        for first, record in records do
            if record.Length <> names.Length then
                bad file first null $"{record.Length} fields, the header has {names.Length}"

        let rows = records[1..] |> Array.mapi (row file options has place)
        RowBuilder.build file options (JsonLines.rules file options rows) rows
