namespace Sama.DataOptimization

open System
open System.IO
open System.Runtime.InteropServices

/// Rows from files. All text is UTF-8; names that end in .gz are gzipped, and of a file that is not there its .gz is read.
[<AbstractClass; Sealed>]
type DataReader =

    static member private Given(path: string, options: ReadOptions) =
        Check.notNull (nameof path) path
        let options = if isNull options then ReadOptions() else options

        Check.that "options.TextColumn" (not (String.IsNullOrEmpty options.TextColumn)) (fun () ->
            "the column of the text is not named")

        for name, list in
            [ "options.Classes", options.Classes
              "options.VoteColumns", options.VoteColumns ] do
            if not (isNull list) then
                Check.that name (not (Seq.exists String.IsNullOrWhiteSpace list)) (fun () -> "a name is missing")

        options

    /// Rows of a file with one JSON object a line; blank lines are passed over, fields that no option names too.
    /// DataException, naming file, line and field, for a missing field, an unknown label, a row without text or with
    /// another number of votes, a line that is no JSON object, bytes that are not UTF-8, no rows, or a single class.
    /// FileNotFoundException.
    static member ReadJsonLines
        (path: string, [<Optional; DefaultParameterValue(null: ReadOptions)>] options: ReadOptions)
        : Dataset =
        let options = DataReader.Given(path, options)
        JsonLines.read path options

    /// Rows of a file of comma-separated values with a header (RFC 4180; line breaks inside quotes are kept).
    /// DataException as for `ReadJsonLines`, and for a column named twice, a row of more or fewer fields than the
    /// header, and a quote that is not closed.
    static member ReadCsv
        (path: string, [<Optional; DefaultParameterValue(null: ReadOptions)>] options: ReadOptions)
        : Dataset =
        let options = DataReader.Given(path, options)
        CsvFile.read path options

    /// Rows of a file by its ending: .jsonl, .ndjson or .json is JSON lines, .csv or .tsv separated values.
    /// DataException as for these, and for another ending. All throw ArgumentException for options without a column of the text,
    /// a name that is none among classes or columns of votes, and a separator that cannot be one.
    static member Read
        (path: string, [<Optional; DefaultParameterValue(null: ReadOptions)>] options: ReadOptions)
        : Dataset =
        let options = DataReader.Given(path, options)

        match TextFile.kind path with
        | ".jsonl"
        | ".ndjson"
        | ".json" -> JsonLines.read path options
        | ".csv"
        | ".tsv" -> CsvFile.read path options
        | _ when Directory.Exists path ->
            TextFile.bad
                path
                (Nullable())
                null
                "a folder without label.json and train.json, so no WRENCH data set: name one, or a .jsonl, .csv or .tsv file"
        | ending ->
            let what =
                if ending = "" then
                    "files without an ending"
                else
                    $"'{ending}' files"

            TextFile.bad
                path
                (Nullable())
                null
                $"{what} are not read: .jsonl, .csv and .tsv are, gzipped too, and WRENCH folders"

    /// The three splits of a WRENCH folder: label.json, train, valid and test as .json or .json.gz. A row's given label is
    /// the file's label, which is the right one in these benchmarks; votes are the weak labels.
    /// DataException as for `ReadJsonLines`, FileNotFoundException, DirectoryNotFoundException.
    static member ReadWrench(folder: string) : WrenchSplits =
        Check.notNull (nameof folder) folder
        Wrench.read folder

    /// Whether a path is a folder that has the files of WRENCH.
    static member IsWrench(path: string) : bool =
        Directory.Exists path
        && [ "label"; "train" ]
           |> List.forall (fun name ->
               File.Exists(Path.Combine(path, name + ".json"))
               || File.Exists(Path.Combine(path, name + ".json.gz")))

    /// The bytes of a file, unpacked where its name ends in .gz, or its .gz where it is not there. DataException for a gzip
    /// that is damaged or cut short, FileNotFoundException.
    static member ReadBytes(path: string) : byte[] =
        Check.notNull (nameof path) path
        TextFile.bytes path

    /// Texts without labels: the lines of a file, of all .txt and .txt.gz files of a folder in the order of their names, or the
    /// training rows of a WRENCH folder. Blank lines are passed over, spaces at the ends left out. DataException for bytes that
    /// are not UTF-8 or no text, FileNotFoundException where there is no such file or none in the folder.
    static member ReadTexts(path: string) : string[] =
        Check.notNull (nameof path) path

        let lines (file: string) =
            (TextFile.read file).Split('\n', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries)

        if DataReader.IsWrench path then
            (DataReader.ReadWrench path).Train.Texts
        elif Directory.Exists path then
            match
                Directory.GetFiles path
                |> Array.filter (TextFile.kind >> (=) ".txt")
                |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b))
            with
            | [||] -> raise (FileNotFoundException $"{path} has no .txt file, and is no WRENCH data set")
            | files -> files |> Array.collect lines
        else
            lines path
