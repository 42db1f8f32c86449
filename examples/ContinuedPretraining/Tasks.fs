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

/// Tokens, what the frozen layers make of them, and a class a row or a word a token, -100 where none is hidden.
type Rows = TokenBatch * Tensor * Tensor

type Head =
    | Classes of name: string * count: int
    /// hidden words
    | Words

[<NoComparison; NoEquality>]
type World =
    {
        Encoder: Encoder
        Frozen: int
        /// vectors of the words that occur, of which hidden ones are guessed
        Words: Tensor
        /// as `names` has them
        Tasks: (Head * RowSource<Rows>) list
        /// rows of the end task
        LeftOut: RowSource<Rows>
        Dev: RowSource<Rows>
        Test: RowSource<Rows>
    }

/// The end task, then the auxiliary tasks.
let names =
    [ "end task"
      "masked words, domain"
      "order of sentences"
      "masked words, other" ]

/// Tokens of a row, at most.
let private tokens = 48

/// Pairs of sentences that follow one another, every other one reversed, and whether it is.
let private pairs (texts: string[]) : (string * string * int)[] =
    texts
    |> Array.map (fun text -> Regex.Split(text, @"(?<=[.!?])\s+(?=\p{Lu})"))
    |> Array.map (Array.filter (fun sentence -> sentence.Split(' ').Length > 3))
    |> Array.filter (fun sentences -> sentences.Length > 1)
    |> Array.mapi (fun i s -> if i % 2 = 0 then s[0], s[1], 0 else s[1], s[0], 1)

/// Reads what is in the first folder (train, dev and test as JSON lines, texts of the domain), at most as many texts of the
/// third as of the domain, and runs them through the frozen layers of the model in the second, all but one by default.
let read (token: CancellationToken) (folder: string, model: string, other: string) (frozen: int option) : World =
    let whole = Encoder.Load(model, head = Nullable Head.None)
    let layers = whole.Config.Layers
    let frozen = defaultArg frozen (layers - 1)

    if frozen < 0 || frozen >= layers then
        raise (ArgumentException $"--frozen {frozen}: {model} has {layers} layers, of which at least one is trained")

    use tokenizer = Tokenizer.Load model

    let encoded texts pairs =
        tokenizer.EncodeBatch(texts, pairs, maxLength = tokens)

    let source batch (answers: Tensor) : RowSource<Rows> =
        let stopping =
            { new IProgress<float> with
                member _.Report _ = token.ThrowIfCancellationRequested() }

        let states = new LayerStates(whole, batch, frozen, stopping)

        Rows.create states.Count (fun rows ->
            let index = torch.tensor (Array.ofSeq rows)
            let struct (batch, states) = states.Rows index
            let own = answers.index_select (0L, index)

            batch,
            states,
            (if own.dim () = 1L then
                 own
             else
                 own.narrow (1L, 0L, batch.Tokens)))

    let labelled (rows: Row[]) =
        source (encoded (rows |> Array.map _.Text) null) (torch.tensor [| for row in rows -> int64 row.Label |])

    let split name classes =
        DataReader.ReadJsonLines(Path.Combine(folder, $"{name}.jsonl"), ReadOptions(Classes = classes))

    let train = split "train" null

    // every eighth row of each class is left out
    let left, kept =
        train.Rows
        |> Array.groupBy _.Label
        |> Array.collect (snd >> Array.indexed)
        |> Array.partition (fun (i, _) -> i % 8 = 7)

    let domain = DataReader.ReadTexts folder
    let others = DataReader.ReadTexts other |> Array.truncate domain.Length
    let firsts, seconds, reversed = Array.unzip3 (pairs domain)
    let domain, others = encoded domain null, encoded others null

    let struct (words, _, _) =
        torch.cat([| domain.InputIds.flatten (); others.InputIds.flatten () |]).unique ()

    // a word is its place among those that occur
    let guessed batch seed =
        let struct (seen, labels) = MaskedWords.Hide(tokenizer, batch, seed = seed)
        let places = torch.searchsorted (words, labels)
        Words, source seen (torch.where (labels.lt (Scalar.op_Implicit 0L), labels, places))

    { Encoder =
        whole.Freeze(fun name ->
            not (Seq.exists (fun i -> name.StartsWith $"encoder.layer.{i}.") [ frozen .. layers - 1 ]))
      Frozen = frozen
      Words = whole.At().["embeddings.word_embeddings.weight"].index_select (0L, words)
      Tasks =
        [ Classes("class", train.Classes.Length), labelled (Array.map snd kept)
          guessed domain 0L
          Classes("order", 2), source (encoded firsts seconds) (torch.tensor (Array.map int64 reversed))
          guessed others 1L ]
      LeftOut = labelled (Array.map snd left)
      Dev = labelled (split "dev" train.Classes).Rows
      Test = labelled (split "test" train.Classes).Rows }
