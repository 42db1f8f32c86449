namespace Sama.DataOptimization

open System
open System.IO
open System.Text.Json

/// Folders of the WRENCH benchmark (Zhang et al., 2021): label.json names the classes; train, valid and test are
/// objects `{"0": {"label": 1, "weak_labels": [-1, 1], "data": {"text": ".."}}, ..}`, each may be gzipped.
module internal Wrench =

    let private options classes =
        ReadOptions(
            TextColumn = "data.text",
            VotesColumn = "weak_labels",
            Classes = classes,
            LabelRequired = false,
            SeveralClasses = false
        )

    let private parse (path: string) : JsonDocument =
        let text = TextFile.read path

        try
            let document =
                JsonDocument.Parse(text, JsonDocumentOptions(AllowDuplicateProperties = false))

            if document.RootElement.ValueKind <> JsonValueKind.Object then
                TextFile.bad path (Nullable()) null "one JSON object is expected"

            document
        with :? JsonException as e ->
            // lines count from 0 here
            let line =
                if e.LineNumber.HasValue then
                    Nullable(int e.LineNumber.Value + 1)
                else
                    Nullable()

            raise (DataException(path, line, null, $"no valid JSON ({e.Message})", e))

    let private find (folder: string) (name: string) =
        [ name + ".json"; name + ".json.gz" ]
        |> List.map (fun file -> Path.Combine(folder, file))
        |> List.tryFind File.Exists
        |> Option.defaultWith (fun () ->
            let path = Path.Combine(folder, name + ".json")
            raise (FileNotFoundException($"{path} (or .json.gz) does not exist", path)))

    /// Names by number, {"0": "HAM", "1": "SPAM"}.
    let private classes (path: string) : string[] =
        use document = parse path

        let names =
            [| for entry in document.RootElement.EnumerateObject() ->
                   match entry.Value.ValueKind with
                   | JsonValueKind.String -> entry.Name, entry.Value.GetString()
                   | _ -> TextFile.bad path (Nullable()) entry.Name "the name of a class is expected" |]
            |> dict

        if names.Count < 2 then
            TextFile.bad path (Nullable()) null $"{names.Count} classes; at least two are needed"

        Array.init names.Count (fun number ->
            match names.TryGetValue(string number) with
            | true, name -> name
            | _ -> TextFile.bad path (Nullable()) (string number) "classes are numbered from 0 without a gap")

    let private split (names: string[]) (path: string) : Dataset =
        let numbers = Array.init names.Length string
        let options = options numbers
        use document = parse path

        let keys = document.RootElement.EnumerateObject() |> Seq.map _.Name |> Array.ofSeq

        // these files have no lines: a row is named by its key
        let named (read: unit -> 'a) : 'a =
            try
                read ()
            with :? DataException as e when e.Line.HasValue ->
                let reason = $"row {keys[e.Line.Value - 1]}: {e.Reason}"
                raise (DataException(path, Nullable(), e.Column, reason, e))

        let labelled (row: RawRow) =
            if not (isNull row.RawLabel) && Spelling.whole row.RawLabel = "-1" then
                { row with RawLabel = null }
            else
                row

        named (fun () ->
            let rows =
                document.RootElement.EnumerateObject()
                |> Seq.mapi (fun index entry -> JsonLines.row path options (index + 1) entry.Name entry.Value)
                |> Seq.map labelled
                |> Array.ofSeq

            let rules =
                if rows.Length = 0 then
                    [||]
                else
                    JsonLines.rules path options rows

            { RowBuilder.build path options rules rows with
                Classes = names })

    let read (folder: string) : WrenchSplits =
        if not (Directory.Exists folder) then
            raise (DirectoryNotFoundException $"the folder {folder} does not exist")

        let names = classes (find folder "label")
        let train = split names (find folder "train")

        let other name =
            let path = find folder name
            let data = split names path

            if data.Rules.Length <> train.Rules.Length then
                TextFile.bad
                    path
                    (Nullable())
                    "weak_labels"
                    $"{data.Rules.Length} votes, {train.Name} has {train.Rules.Length}"

            data

        { Train = train
          Valid = other "valid"
          Test = other "test" }
