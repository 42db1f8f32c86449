/// The end task and its auxiliary tasks: rows that an encoder reads, behind the layers that stay as they are.
module ContinuedPretraining.Tasks

open System
open System.IO
open System.IO.Compression
open System.Text.RegularExpressions
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.Language

[<NoComparison; NoEquality>]
type Task =
    {
        Name: string
        /// what reads its rows; tasks may share it
        Head: string
        Batch: TokenBatch
        /// what the frozen layers make of every token: [rows, tokens, hidden], half precision
        States: Tensor
        /// a class a row [rows], or a word a token, -1 where none was masked [rows, tokens]
        Answers: Tensor
    }

    /// Some of its rows: ids, states, answers.
    member task.Rows: RowSource<TokenBatch * Tensor * Tensor> =
        Rows.create task.Batch.Count (fun rows ->
            let index = torch.tensor (Array.ofSeq rows)
            let batch = task.Batch.Rows index

            let states =
                task.States.index_select(0L, index).narrow(1L, 0L, batch.Tokens).to_type torch.float32

            let answers = task.Answers.index_select (0L, index)

            let answers =
                if answers.dim () = 1L then
                    answers
                else
                    answers.narrow (1L, 0L, batch.Tokens)

            batch, states, answers)

/// The encoder, its tasks, and the words that masked tokens are guessed from.
[<NoComparison; NoEquality>]
type World =
    {
        Encoder: Encoder
        Frozen: int
        Classes: int64
        Words: Tensor
        /// as `names` has them
        Tasks: Task list
        /// rows of the end task by split: meta (the file's dev rows), held-out (left out of the training rows), test
        Judged: Map<string, Task>
    }

/// The end task, then the auxiliary tasks.
let names =
    [ "end task"
      "masked words, domain"
      "order of sentences"
      "masked words, other" ]

let private file (folder: string) (name: string) : string =
    [ name; name + ".gz" ]
    |> List.map (fun name -> Path.Combine(folder, name))
    |> List.tryFind File.Exists
    |> Option.defaultWith (fun () -> raise (FileNotFoundException $"{folder} has neither {name} nor {name}.gz"))

let private lines (path: string) : string[] =
    use file = File.OpenRead path

    use stream: Stream =
        if path.EndsWith ".gz" then
            new GZipStream(file, CompressionMode.Decompress)
        else
            file

    use reader = new StreamReader(stream)
    reader.ReadToEnd().Split('\n', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries)

/// Texts of a folder: a WRENCH data set's training rows, or the lines of all its text files.
let private texts (folder: string) : string[] =
    if DataReader.IsWrench folder then
        (DataReader.ReadWrench folder).Train.Texts
    else
        let files = Directory.GetFiles(folder, "*.txt*") |> Array.sort

        if files.Length = 0 then
            raise (FileNotFoundException $"{folder} has no text file, and is no WRENCH data set")

        Array.collect lines files

/// Pairs of sentences that follow one another, every other one reversed, and whether it is.
let private pairs (texts: string[]) : (string * string * int)[] =
    texts
    |> Array.choose (fun text ->
        let sentences =
            Regex.Split(text, @"(?<=[.!?])\s+(?=\p{Lu})")
            |> Array.filter (fun s -> s.Split(' ').Length > 3)

        if sentences.Length < 2 then
            None
        else
            Some(sentences[0], sentences[1]))
    |> Array.mapi (fun i (first, second) -> if i % 2 = 0 then first, second, 0 else second, first, 1)

/// Every row with 15 % of its words replaced by the mask, and these words; drawn once.
let private masked (mask: int64) (rows: Encoding[]) : (Encoding * int64[])[] =
    let random = Random 0

    rows
    |> Array.filter (fun row -> row.Ids.Length > 6)
    |> Array.map (fun row ->
        // the special tokens around the text stay
        let places = Array.init (row.Ids.Length - 2) ((+) 1)
        random.Shuffle places
        let hidden = Set.ofArray places[.. int (round (0.15 * float places.Length)) - 1]

        let pick a b =
            row.Ids |> Array.mapi (fun i id -> if hidden.Contains i then a id else b id)

        { row with
            Ids = pick (fun _ -> mask) id },
        pick id (fun _ -> -1L))

/// Reads what is in `folder` (train, dev and test as JSON lines, domain.*.txt), at most as many texts of `other` as of the
/// domain, and runs them through the frozen layers.
let read
    (token: Threading.CancellationToken)
    watch
    (folder: string, model: string, other: string)
    (frozen: int option)
    tokens
    : World =
    let whole = Encoder.Load(model, head = Nullable Head.None)
    let frozen = defaultArg frozen (whole.Config.Layers - 1)

    if frozen < 0 || frozen >= whole.Config.Layers then
        raise (
            ArgumentException
                $"--frozen {frozen}: {model} has {whole.Config.Layers} layers, of which at least one is trained"
        )

    let trained =
        [ for i in frozen .. whole.Config.Layers - 1 -> $"encoder.layer.{i}." ]

    use tokenizer = Tokenizer.Load model

    let rows name classes =
        DataReader.ReadJsonLines(file folder $"{name}.jsonl", ReadOptions(Classes = classes))

    let train = rows "train" null

    let encode (texts: string[]) =
        tokenizer.EncodeAll(texts, maxLength = tokens)

    let domain = Directory.GetFiles(folder, "domain*.txt*") |> Array.collect lines

    if domain.Length = 0 then
        raise (FileNotFoundException $"{folder} has no lines in domain*.txt")

    let mask =
        tokenizer.Id(
            if whole.Config.Family = Family.Bert then
                "[MASK]"
            else
                "<mask>"
        )

    let own, others =
        encode domain, encode (texts other |> Array.truncate domain.Length)

    let words =
        Array.append own others |> Array.collect _.Ids |> Array.distinct |> Array.sort

    let numbers = words |> Array.mapi (fun i id -> id, int64 i) |> dict
    let theta = whole.At()

    let task name head (encodings: Encoding[]) (answers: Tensor) =
        let batch = tokenizer.Pad encodings

        let states =
            torch.zeros (batch.Count, batch.Tokens, whole.Config.HiddenSize, dtype = torch.float16)

        for chunk in Array.chunkBySize 64 [| 0L .. batch.Count - 1L |] do
            token.ThrowIfCancellationRequested()
            watch (float chunk[0] / float batch.Count) name
            use _ = torch.NewDisposeScope()
            use part = batch.Rows(torch.tensor chunk)
            let found = whole.HiddenStates(theta, part).[frozen]

            states.narrow(0L, chunk[0], part.Count).narrow(1L, 0L, part.Tokens).copy_ found
            |> ignore

        { Name = name
          Head = head
          Batch = batch
          States = states
          Answers = answers }

    let labelled name (rows: Row[]) =
        task name "class" (encode (rows |> Array.map _.Text)) (torch.tensor [| for row in rows -> int64 row.Label |])

    let guessed name (encodings: Encoding[]) =
        let rows = masked mask encodings
        let width = rows |> Array.map (fun (row, _) -> row.Ids.Length) |> Array.max

        let answers =
            rows
            |> Array.collect (fun (_, ids) ->
                Array.init width (fun i ->
                    if i < ids.Length && ids[i] >= 0L then
                        numbers[ids[i]]
                    else
                        -1L))

        task name "masked" (Array.map fst rows) (torch.tensor(answers).view (-1L, int64 width))

    let ordered = pairs domain
    let firsts, seconds, reversed = Array.unzip3 ordered
    // every eighth row of each class
    let left, kept =
        train.Rows
        |> Array.groupBy _.Label
        |> Array.collect (snd >> Array.indexed)
        |> Array.partition (fun (i, _) -> i % 8 = 7)

    { Encoder = whole.Freeze(fun name -> not (trained |> List.exists name.StartsWith))
      Frozen = frozen
      Classes = int64 train.Classes.Length
      Words = theta["embeddings.word_embeddings.weight"].index_select (0L, torch.tensor words)
      Tasks =
        [ labelled names[0] (Array.map snd kept)
          guessed names[1] own
          task
              names[2]
              "order"
              (tokenizer.EncodeAll(firsts, seconds, tokens))
              (torch.tensor (reversed |> Array.map int64))
          guessed names[3] others ]
      Judged =
        Map
            [ "held-out", labelled "held-out" (Array.map snd left)
              "meta", labelled "meta" (rows "dev" train.Classes).Rows
              "test", labelled "test" (rows "test" train.Classes).Rows ] }
