/// WRENCH data sets: texts with a true label and the votes of weak rules, -1 where a rule abstains.
module NoisyText.Dataset

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression
open System.Text.Json

type Row =
    { Text: string
      Label: int
      Votes: int[] }

type Dataset =
    { Name: string
      Classes: int
      Rules: int
      Train: Row[]
      Valid: Row[]
      Test: Row[] }

/// A training row with the label its rules give it.
type WeakRow = { Row: Row; WeakLabel: int }

let private bad file what : 'a =
    raise (InvalidDataException $"{file}: {what}")

let private parse (path: string) : JsonDocument =
    use file = File.OpenRead path

    use stream: Stream =
        if path.EndsWith ".gz" then
            new GZipStream(file, CompressionMode.Decompress)
        else
            file

    try
        JsonDocument.Parse stream
    with
    | :? JsonException as e -> bad path $"no valid json ({e.Message})"
    | :? InvalidDataException as e -> bad path $"no valid gzip ({e.Message})"

let private find (folder: string) (name: string) =
    [ name + ".json"; name + ".json.gz" ]
    |> List.map (fun file -> Path.Combine(folder, file))
    |> List.tryFind File.Exists
    |> Option.defaultWith (fun () ->
        raise (FileNotFoundException $"{Path.Combine(folder, name)}.json (or .json.gz) does not exist"))

let private readSplit classes (path: string) : Row[] =
    use document = parse path

    if document.RootElement.ValueKind <> JsonValueKind.Object then
        bad path "an object of rows is expected"

    let row (entry: JsonProperty) =
        try
            let votes = entry.Value.GetProperty "weak_labels"

            { Text = entry.Value.GetProperty("data").GetProperty("text").GetString()
              Label = entry.Value.GetProperty("label").GetInt32()
              Votes = [| for vote in votes.EnumerateArray() -> vote.GetInt32() |] }
        with
        | :? KeyNotFoundException
        | :? InvalidOperationException
        | :? FormatException -> bad path $"row {entry.Name}: label, weak_labels and data.text are expected"

    let rows =
        [| for entry in document.RootElement.EnumerateObject() -> entry.Name, row entry |]

    if rows.Length = 0 then
        bad path "the split has no rows"

    for name, row in rows do
        if isNull row.Text then
            bad path $"row {name}: data.text is null"

        if row.Label < 0 || row.Label >= classes then
            bad path $"row {name}: label {row.Label} is not one of the {classes} classes"

        if row.Votes |> Array.exists (fun vote -> vote < -1 || vote >= classes) then
            bad path $"row {name}: a weak label is neither -1 nor one of the {classes} classes"

        if row.Votes.Length <> (snd rows[0]).Votes.Length then
            bad path $"row {name}: {row.Votes.Length} weak labels, the first row has {(snd rows[0]).Votes.Length}"

    Array.map snd rows

/// Reads a WRENCH folder. FileNotFoundException or InvalidDataException name file and row.
let read (folder: string) : Dataset =
    if not (Directory.Exists folder) then
        raise (DirectoryNotFoundException $"the data folder {folder} does not exist")

    let classes =
        use document = parse (find folder "label")
        document.RootElement.EnumerateObject() |> Seq.length

    let split name = readSplit classes (find folder name)
    let train = split "train"

    { Name = DirectoryInfo(folder).Name
      Classes = classes
      Rules = train[0].Votes.Length
      Train = train
      Valid = split "valid"
      Test = split "test" }

/// Majority vote, ties drawn by the seed; rows without a vote and texts of the other splits are dropped.
let weaklyLabelled (seed: int) (data: Dataset) : WeakRow[] =
    let random = Random seed
    let held = HashSet(Seq.append data.Valid data.Test |> Seq.map _.Text)

    let label (row: Row) =
        let counts = row.Votes |> Array.filter (fun vote -> vote >= 0) |> Array.countBy id
        let most = counts |> Array.map snd |> Array.max
        let tied = counts |> Array.filter (fun (_, count) -> count = most)
        fst tied[random.Next tied.Length]

    let rows =
        [| for row in data.Train do
               if Array.exists (fun vote -> vote >= 0) row.Votes && not (held.Contains row.Text) then
                   { Row = row; WeakLabel = label row } |]

    if rows.Length = 0 then
        raise (InvalidDataException $"{data.Name}: no training row has a vote")

    rows
