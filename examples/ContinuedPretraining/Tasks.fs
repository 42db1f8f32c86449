/// The end task and its auxiliary tasks: rows that an encoder reads, behind the layers that stay as they are.
module ContinuedPretraining.Tasks

open System
open System.IO
open System.Text.RegularExpressions
open System.Threading
open TorchSharp
open Sama
open Sama.Functional
open Sama.DataOptimization
open Sama.Language

/// Tokens, what the frozen layers make of them, and a class a row or a word a token, -100 where none was hidden.
type Rows = TokenBatch * Tensor * Tensor

[<NoComparison; NoEquality>]
type Task =
    {
        Name: string
        /// what reads its rows; tasks may share it
        Head: string
        States: LayerStates
        Answers: Tensor
    }

    member task.Rows: RowSource<Rows> =
        Rows.create task.States.Count (fun rows ->
            let index = torch.tensor (Array.ofSeq rows)
            let struct (batch, states) = task.States.Rows index
            let answers = task.Answers.index_select (0L, index)

            let answers =
                if answers.dim () = 1L then
                    answers
                else
                    answers.narrow (1L, 0L, batch.Tokens)

            batch, states, answers)

/// The encoder, its tasks, and the words that occur, from which hidden ones are guessed.
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

/// Texts of a folder: a WRENCH data set's training rows, or the lines of all files of a pattern.
let private texts (folder: string) (pattern: string) : string[] =
    if DataReader.IsWrench folder then
        (DataReader.ReadWrench folder).Train.Texts
    else
        match Directory.GetFiles(folder, pattern) with
        | [||] -> raise (FileNotFoundException $"{folder} has no {pattern}, and is no WRENCH data set")
        | files -> files |> Array.sort |> Array.collect DataReader.ReadTexts

/// Pairs of sentences that follow one another, every other one reversed, and whether it is.
let private pairs (texts: string[]) : (string * string * int)[] =
    texts
    |> Array.map (fun text -> Regex.Split(text, @"(?<=[.!?])\s+(?=\p{Lu})") |> Array.filter (fun s -> s.Split(' ').Length > 3))
    |> Array.filter (fun sentences -> sentences.Length > 1)
    |> Array.mapi (fun i s -> if i % 2 = 0 then s[0], s[1], 0 else s[1], s[0], 1)

/// Reads what is in the first folder (train, dev and test as JSON lines, domain*.txt), at most as many texts of the third as
/// of the domain, and runs them through the frozen layers of the model in the second, all but one by default.
let read (token: CancellationToken) (folder: string, model: string, other: string) (frozen: int option) : World =
    let whole = Encoder.Load(model, head = Nullable Head.None)
    let layers = whole.Config.Layers
    let frozen = defaultArg frozen (layers - 1)

    if frozen < 0 || frozen >= layers then
        raise (ArgumentException $"--frozen {frozen}: {model} has {layers} layers, of which at least one is trained")

    use tokenizer = Tokenizer.Load model

    let stop =
        { new IProgress<float> with
            member _.Report _ = token.ThrowIfCancellationRequested() }

    let task name head batch answers =
        { Name = name
          Head = head
          States = new LayerStates(whole, batch, frozen, stop)
          Answers = answers }

    let labelled name head texts pairs (labels: int[]) =
        task name head (tokenizer.EncodeBatch(texts, pairs, maxLength = tokens)) (torch.tensor (Array.map int64 labels))

    let rows name classes =
        let path = Path.Combine(folder, $"{name}.jsonl")
        DataReader.ReadJsonLines((if File.Exists path then path else path + ".gz"), ReadOptions(Classes = classes))

    let judged name (rows: Row[]) =
        labelled name "class" (rows |> Array.map _.Text) null (rows |> Array.map _.Label)

    let train = rows "train" null
    // every eighth row of each class is left out
    let left, kept =
        train.Rows
        |> Array.groupBy _.Label
        |> Array.collect (snd >> Array.indexed)
        |> Array.partition (fun (i, _) -> i % 8 = 7)

    let domain = texts folder "domain*.txt*"
    let others = texts other "*.txt*" |> Array.truncate domain.Length
    let firsts, seconds, reversed = Array.unzip3 (pairs domain)

    let domain, others =
        tokenizer.EncodeBatch(domain, maxLength = tokens), tokenizer.EncodeBatch(others, maxLength = tokens)

    let struct (words, _, _) =
        torch.cat([| domain.InputIds.flatten (); others.InputIds.flatten () |]).unique ()

    // hidden words, by their place among those
    let guessed name batch seed =
        let struct (seen, labels) = MaskedWords.Hide(tokenizer, batch, seed = seed)
        task name "masked" seen (torch.where (labels.lt (Scalar.op_Implicit 0L), labels, torch.searchsorted (words, labels)))

    { Encoder =
        whole.Freeze(fun name ->
            not (Seq.exists (fun i -> name.StartsWith $"encoder.layer.{i}.") [ frozen .. layers - 1 ]))
      Frozen = frozen
      Classes = int64 train.Classes.Length
      Words = whole.At().["embeddings.word_embeddings.weight"].index_select (0L, words)
      Tasks =
        [ judged names[0] (Array.map snd kept)
          guessed names[1] domain 0L
          labelled names[2] "order" firsts seconds reversed
          guessed names[3] others 1L ]
      Judged =
        Map
            [ "held-out", judged "held-out" (Array.map snd left)
              "meta", judged "meta" (rows "dev" train.Classes).Rows
              "test", judged "test" (rows "test" train.Classes).Rows ] }
