namespace Sama.DataOptimization

open System
open System.Collections
open System.Collections.Generic
open System.Globalization
open System.Runtime.InteropServices
open System.Text.Encodings.Web
open System.Text.Json
open CsvHelper
open CsvHelper.Configuration

/// Tables to files, UTF-8 with line feeds; names that end in .gz are gzipped. A file appears whole or not at all. Values
/// are strings, whole numbers, floats, booleans, null, or sequences of these; another kind of value is an
/// ArgumentException that names row and column.
[<AbstractClass; Sealed>]
type DataWriter =

    static member private Checked(path: string, columns: IReadOnlyList<string>, rows: IEnumerable<IReadOnlyList<obj>>) =
        Check.notNull (nameof path) path
        Check.nonEmpty (nameof columns) columns
        Check.notNull (nameof rows) rows

        for name, count in Seq.countBy id columns do
            Check.that (nameof columns) (count = 1) (fun () -> $"two columns are called {name}")

        rows
        |> Seq.mapi (fun number row ->
            Check.that (nameof rows) (not (isNull row) && row.Count = columns.Count) (fun () ->
                $"row {number} has not {columns.Count} values")

            number, row)

    static member private Json(json: Utf8JsonWriter, row: int, column: string, value: obj) : unit =
        match value with
        | null -> json.WriteNullValue()
        | :? string as text -> json.WriteStringValue text
        | :? bool as flag -> json.WriteBooleanValue flag
        | :? int as number -> json.WriteNumberValue number
        | :? int64 as number -> json.WriteNumberValue number
        | :? float as number when Double.IsFinite number -> json.WriteNumberValue number
        | :? float32 as number when Single.IsFinite number -> json.WriteNumberValue number
        // JSON has no such numbers: "NaN", "Infinity", "-Infinity"
        | :? float
        | :? float32 -> json.WriteStringValue(Convert.ToString(value, CultureInfo.InvariantCulture))
        | :? IEnumerable as items ->
            json.WriteStartArray()

            for item in items do
                DataWriter.Json(json, row, column, item)

            json.WriteEndArray()
        | other -> Check.fail "rows" $"row {row}, column {column}: a {other.GetType().Name} cannot be written"

    static member private Field(row: int, column: string, value: obj) : string =
        match value with
        | null -> ""
        | :? string as text -> text
        | :? bool as flag -> if flag then "true" else "false"
        | :? int
        | :? int64
        | :? float
        | :? float32 -> Convert.ToString(value, CultureInfo.InvariantCulture)
        | :? IEnumerable -> DataWriter.Text(row, column, value)
        | other -> Check.fail "rows" $"row {row}, column {column}: a {other.GetType().Name} cannot be written"

    static member private Text(row: int, column: string, value: obj) : string =
        use stream = new IO.MemoryStream()

        do
            use json =
                new Utf8JsonWriter(stream, JsonWriterOptions(Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping))

            DataWriter.Json(json, row, column, value)

        Text.Encoding.UTF8.GetString(stream.ToArray())

    /// One JSON object a line, its fields in the order of the columns. A float that is not finite is written as
    /// "NaN", "Infinity" or "-Infinity". ArgumentException for a row of another number of values, a column named twice
    /// or a kind of value that cannot be written; IOException.
    static member WriteJsonLines
        (path: string, columns: IReadOnlyList<string>, rows: IEnumerable<IReadOnlyList<obj>>)
        : unit =
        let rows = DataWriter.Checked(path, columns, rows)

        TextFile.write path (fun writer ->
            for number, row in rows do
                let fields =
                    Seq.map2
                        (fun (column: string) value ->
                            $"{DataWriter.Text(number, column, column)}:{DataWriter.Text(number, column, value)}")
                        columns
                        row

                writer.WriteLine("{" + String.Join(",", fields) + "}"))

    /// Comma-separated values with a header (RFC 4180); sequences as JSON. ArgumentException and IOException as for
    /// `WriteJsonLines`.
    static member WriteCsv(path: string, columns: IReadOnlyList<string>, rows: IEnumerable<IReadOnlyList<obj>>) : unit =
        let rows = DataWriter.Checked(path, columns, rows)

        TextFile.write path (fun writer ->
            let configuration =
                CsvConfiguration(
                    CultureInfo.InvariantCulture,
                    NewLine = "\n",
                    Delimiter = (if TextFile.kind path = ".tsv" then "\t" else ",")
                )

            use csv = new CsvWriter(writer, configuration, leaveOpen = true)

            let record (fields: string seq) =
                for field in fields do
                    csv.WriteField field

                csv.NextRecord()

            record columns

            for number, row in rows do
                record (Seq.map2 (fun column value -> DataWriter.Field(number, column, value)) columns row))

    /// The rows of a data set, .csv or .tsv by the path's ending, else JSON lines: `id`, `text`, `label` by name (null
    /// where there is none), `truth` and `votes` where a row has any, then the extra columns, one value a row each.
    /// `DataReader.Read` reads it back with the same numbers, given the classes, and `id`, `truth` and `votes` by option.
    /// ArgumentException for an extra column of another length or of a name that is taken, and for a class that the data set has not.
    static member WriteDataset
        (
            path: string,
            data: Dataset,
            [<Optional; DefaultParameterValue(null: IReadOnlyDictionary<string, IReadOnlyList<obj>>)>] extra:
                IReadOnlyDictionary<string, IReadOnlyList<obj>>
        ) : unit =
        Check.notNull (nameof path) path
        Check.notNull (nameof data) data
        Check.notNull "data.Rows" data.Rows
        Check.nonEmpty "data.Classes" data.Classes

        data.Rows
        |> Array.iteri (fun number row ->
            Check.notNull $"data.Rows[{number}]" row
            Check.notNull $"data.Rows[{number}].Votes" row.Votes

            for value in Seq.append [ row.Label; row.Truth ] row.Votes do
                Check.that (nameof data) (value < data.Classes.Length) (fun () ->
                    $"row {number}: {value} is not one of the {data.Classes.Length} classes"))

        let name number : obj =
            if number < 0 then null else data.Classes[number]

        let some part (value: Row -> obj) =
            if Array.exists part data.Rows then [ value ] else []

        let truth = some (fun row -> row.Truth >= 0) (fun row -> name row.Truth)

        let votes =
            some (fun row -> row.Votes.Length > 0) (fun row -> row.Votes |> Array.map name |> box)

        let extra =
            if isNull extra then
                []
            else
                [ for column in extra -> column.Key, column.Value ]

        for column, values in extra do
            Check.length $"extra[{column}]" data.Rows.Length values

        let columns =
            [| "id"
               "text"
               "label"
               if not truth.IsEmpty then
                   "truth"
               if not votes.IsEmpty then
                   "votes"
               for column, _ in extra do
                   column |]

        let rows =
            data.Rows
            |> Seq.mapi (fun number row ->
                [| box row.Id
                   box row.Text
                   name row.Label
                   for value in truth @ votes do
                       value row
                   for _, values in extra do
                       values[number] |]
                :> IReadOnlyList<obj>)

        match TextFile.kind path with
        | ".csv"
        | ".tsv" -> DataWriter.WriteCsv(path, columns, rows)
        | _ -> DataWriter.WriteJsonLines(path, columns, rows)
