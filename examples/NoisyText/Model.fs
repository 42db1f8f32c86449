/// The classifier θ, a small text encoder, and the meta learner λ, which weighs and corrects the weak labels.
module NoisyText.Model

open System.Collections.Generic
open TorchSharp
open Sama
open NoisyText.Dataset

let private width, hidden, metaHidden, maxWords = 64L, 96L, 32L, 32
let private padding, unknown = 0, 1

type Vocabulary = IReadOnlyDictionary<string, int>

let private wordsOf (text: string) =
    text.ToLowerInvariant().Split([| ' '; '\t'; '\n' |], System.StringSplitOptions.RemoveEmptyEntries)

let vocabulary (texts: string seq) : Vocabulary =
    texts
    |> Seq.collect wordsOf
    |> Seq.distinct
    |> Seq.mapi (fun i word -> KeyValuePair(word, i + 2))
    |> Dictionary
    :> _

/// Rows as tensors: word ids [rows, words], labels [rows], one-hot weak labels beside the rules that voted [rows, classes + rules].
type Examples =
    { Ids: Tensor
      Labels: Tensor
      Clues: Tensor }

let examples (vocabulary: Vocabulary) classes (rows: (Row * int) seq) : Examples =
    let rows = Array.ofSeq rows

    let id word =
        match vocabulary.TryGetValue word with
        | true, id -> id
        | _ -> unknown

    let ids (text: string) =
        let words = wordsOf text |> Array.truncate maxWords |> Array.map id

        Array.append words (Array.create (maxWords - words.Length) padding)
        |> Array.map int64

    let clues (row: Row, label) =
        Array.append
            (Array.init classes (fun c -> if c = label then 1f else 0f))
            (row.Votes |> Array.map (fun vote -> if vote >= 0 then 1f else 0f))

    let count = int64 rows.Length

    { Ids = torch.tensor(rows |> Array.collect (fun (row, _) -> ids row.Text)).view (count, int64 maxWords)
      Labels = torch.tensor (rows |> Array.map (snd >> int64))
      Clues = torch.tensor(Array.collect clues rows).view (count, -1L) }

let at (rows: Tensor) (all: Examples) : Examples =
    { Ids = all.Ids.index_select (0L, rows)
      Labels = all.Labels.index_select (0L, rows)
      Clues = all.Clues.index_select (0L, rows) }

let private normal (generator: torch.Generator) (shape: int64[]) (scale: float) : Tensor =
    torch.randn (shape, generator = generator) * scale

let classifier (generator: torch.Generator) (words: int) (classes: int) : (string * Tensor) list =
    let normal = normal generator

    [ "embedding", normal [| int64 words + 2L; width |] 0.1
      "convolution", normal [| hidden; 3L * width |] 0.08
      "convolutionBias", torch.zeros hidden
      "attention", normal [| hidden |] 0.1
      "output", normal [| int64 classes; 2L * hidden |] 0.07
      "outputBias", torch.zeros (int64 classes) ]

/// Windows of three words, pooled by attention and by their maximum. Logits [rows, classes].
let logits (training: bool) (theta: Params) (ids: Tensor) : Tensor =
    let rows, words = ids.shape[0], ids.shape[1]

    let drop (x: Tensor) =
        torch.nn.functional.dropout (x, 0.3, training)

    let mask = ids.ne(Scalar.op_Implicit padding).to_type(torch.float32).unsqueeze 2L

    let embedded =
        theta["embedding"].index_select(0L, ids.reshape -1L).view (rows, words, width)

    let embedded = drop embedded * mask
    let edge = torch.zeros (rows, 1L, width)
    let before = torch.cat ([| edge; embedded.narrow (1L, 0L, words - 1L) |], 1L)
    let behind = torch.cat ([| embedded.narrow (1L, 1L, words - 1L); edge |], 1L)
    let windows = torch.cat ([| before; embedded; behind |], 2L)

    let features =
        torch.nn.functional.relu (torch.nn.functional.linear (windows, theta["convolution"], theta["convolutionBias"]))

    let scores = (features * theta["attention"]).sum (2L, true) - (1.0 - mask) * 1e4
    let pooled = (features * torch.nn.functional.softmax (scores, 1L)).sum 1L
    let largest = (features * mask).amax [| 1L |]
    torch.nn.functional.linear (drop (torch.cat ([| pooled; largest |], 1L)), theta["output"], theta["outputBias"])

let metaLearner (generator: torch.Generator) (classes: int) (rules: int) : (string * Tensor) list =
    let inputs = int64 (classes + rules) + 2L

    [ "hidden", normal generator [| metaHidden; inputs |] 0.2
      "hiddenBias", torch.zeros metaHidden
      "output", normal generator [| 2L; metaHidden |] 0.1
      // half weight; corrections start small
      "outputBias", torch.tensor [| 0f; -2f |] ]

/// Loss and entropy of the prediction, [rows] each, and log probabilities [rows, classes].
let lossAndEntropy (logits: Tensor) (labels: Tensor) : Tensor * Tensor * Tensor =
    let log = torch.nn.functional.log_softmax (logits, 1L)
    let loss = -(log.gather(1L, labels.unsqueeze 1L).squeeze 1L)
    loss, -(log.exp () * log).sum 1L, log

/// From loss and entropy [rows, 2] and clues: weight of each sample and share of the model's own prediction in its target, both in (0, 1): [rows].
let judge (lambda: Params) (features: Tensor) (clues: Tensor) : Tensor * Tensor =
    let input = torch.cat ([| features; clues |], 1L)

    let hidden =
        torch.tanh (torch.nn.functional.linear (input, lambda["hidden"], lambda["hiddenBias"]))

    let out =
        torch.sigmoid (torch.nn.functional.linear (hidden, lambda["output"], lambda["outputBias"]))

    out.select (1L, 0L), out.select (1L, 1L)
