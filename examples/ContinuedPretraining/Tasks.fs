/// The end task and its auxiliary tasks: rows that an encoder reads, behind the layers that stay as they are.
module ContinuedPretraining.Tasks

open System
open System.IO
open System.IO.Compression
open System.Text.RegularExpressions
open System.Threading
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

/// Tokens of a row, at most.
let private tokens = 48

let private file (folder: string) (name: string) : string =
    [ name; name + ".gz" ]
    |> List.map (fun name -> Path.Combine(folder, name))
    |> List.tryFind File.Exists
    |> Option.defaultWith (fun () -> raise (FileNotFoundException $"{folder} has neither {name} nor {name}.gz"))

/// Texts of a folder: a WRENCH data set's training rows, or the lines of all files of a pattern.
let private texts (folder: string) (pattern: string) : string[] =
    if DataReader.IsWrench folder then
        (DataReader.ReadWrench folder).Train.Texts
    else
        let lines =
            [| for path in Directory.GetFiles(folder, pattern) |> Array.sort do
                   use file: Stream = File.OpenRead path
                   let zipped = path.EndsWith ".gz"

                   use stream =
                       if zipped then
                           new GZipStream(file, CompressionMode.Decompress) :> Stream
                       else
                           file

                   yield! (new StreamReader(stream)).ReadToEnd().Split('\n', StringSplitOptions.TrimEntries) |]
            |> Array.filter ((<>) "")

        if lines.Length = 0 then
            raise (FileNotFoundException $"{folder} has no line of text in {pattern}, and is no WRENCH data set")

        lines

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

/// Reads what is in the first folder (train, dev and test as JSON lines, domain*.txt), at most as many texts of the third as
/// of the domain, and runs them through the frozen layers of the model in the second.
let read (token: CancellationToken) watch (folder: string, model: string, other: string) (frozen: int option) : World =
    let whole = Encoder.Load(model, head = Nullable Head.None)
    let layers = whole.Config.Layers
    let frozen = defaultArg frozen (layers - 1)

    if frozen < 0 || frozen >= layers then
        raise (ArgumentException $"--frozen {frozen}: {model} has {layers} layers, of which at least one is trained")

    use tokenizer = Tokenizer.Load model
    let theta = whole.At()

    let task name head (batch: TokenBatch) (answers: Tensor) =
        let states =
            torch.zeros (batch.Count, batch.Tokens, whole.Config.HiddenSize, dtype = torch.float16)

        for chunk in Array.chunkBySize 64 [| 0L .. batch.Count - 1L |] do
            token.ThrowIfCancellationRequested()
            watch (float chunk[0] / float batch.Count) name
            use _ = torch.NewDisposeScope()
            use part = batch.Rows(torch.tensor chunk)
            let place = states.narrow(0L, chunk[0], part.Count).narrow (1L, 0L, part.Tokens)
            place.copy_ (whole.HiddenStates(theta, part).[frozen]) |> ignore

        { Name = name
          Head = head
          Batch = batch
          States = states
          Answers = answers }

    let labelled name head texts pairs (labels: int seq) =
        let batch = tokenizer.EncodeBatch(texts, pairs, maxLength = tokens)
        task name head batch (torch.tensor [| for label in labels -> int64 label |])

    let rows name classes =
        DataReader.ReadJsonLines(file folder $"{name}.jsonl", ReadOptions(Classes = classes))

    let judged name (rows: Row[]) =
        labelled name "class" (rows |> Array.map _.Text) null (rows |> Seq.map _.Label)

    let train = rows "train" null
    // every eighth row of each class
    let left, kept =
        train.Rows
        |> Array.groupBy _.Label
        |> Array.collect (snd >> Array.indexed)
        |> Array.partition (fun (i, _) -> i % 8 = 7)

    let domain = texts folder "domain*.txt*"
    let firsts, seconds, reversed = Array.unzip3 (pairs domain)

    let read (texts: string[]) =
        tokenizer.EncodeBatch(texts, maxLength = tokens)

    let own, others =
        read domain, read (texts other "*.txt*" |> Array.truncate domain.Length)

    // words that occur, and the place of each among them
    let words =
        [| own; others |]
        |> Array.collect _.InputIds.data<int64>().ToArray()
        |> Array.distinct
        |> Array.sort
        |> torch.tensor

    let places =
        torch
            .zeros(whole.Config.VocabularySize, dtype = torch.int64)
            .scatter_ (0L, words, torch.arange (words.numel ()))

    use generator = new torch.Generator 0UL

    let special =
        (tokenizer.Encode "").Ids |> Array.append [| tokenizer.PadId |] |> torch.tensor

    let mask =
        tokenizer.Id(
            if whole.Config.Family = Family.Bert then
                "[MASK]"
            else
                "<mask>"
        )

    // 15 % of the words, drawn once
    let guessed name (batch: TokenBatch) =
        let ids = batch.InputIds

        let hidden =
            torch.rand(ids.shape, generator = generator).lt (Scalar.op_Implicit 0.15)
            &&& ids.isin(special).logical_not ()

        let answers = torch.where (hidden, places[ids], torch.tensor -1L)
        let seen = torch.where (hidden, torch.tensor mask, ids)
        task name "masked" (new TokenBatch(seen, batch.AttentionMask, batch.TokenTypeIds)) answers

    { Encoder =
        whole.Freeze(fun name ->
            not (Seq.exists (fun i -> name.StartsWith $"encoder.layer.{i}.") [ frozen .. layers - 1 ]))
      Frozen = frozen
      Classes = int64 train.Classes.Length
      Words = theta["embeddings.word_embeddings.weight"].index_select (0L, words)
      Tasks =
        [ judged names[0] (Array.map snd kept)
          guessed names[1] own
          labelled names[2] "order" firsts seconds reversed
          guessed names[3] others ]
      Judged =
        Map
            [ "held-out", judged "held-out" (Array.map snd left)
              "meta", judged "meta" (rows "dev" train.Classes).Rows
              "test", judged "test" (rows "test" train.Classes).Rows ] }
