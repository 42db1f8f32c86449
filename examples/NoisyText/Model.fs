/// The classifier θ, a small text encoder, and the meta learner λ, which weighs and corrects the weak labels.
module NoisyText.Model

open System
open System.Collections.Generic
open TorchSharp
open Sama
open NoisyText.Text

let private hidden, metaHidden, terms = 96L, 16L, 32768L

let private normal (generator: torch.Generator) (shape: int64[]) (scale: float) : Tensor =
    torch.randn (shape, generator = generator) * scale

/// Embeddings start at random, or at the given word vectors, whose width they then have, scaled to the same size.
let private embedding generator (words: int) (vectors: Dictionary<int, float32[]> option) =
    let scale = 0.1

    match vectors with
    | None -> normal generator [| int64 words + 2L; 64L |] scale
    | Some vectors ->
        let numbers = vectors.Values |> Seq.collect id |> Array.ofSeq
        let size = numbers |> Array.averageBy (fun x -> float x * float x) |> sqrt

        let table =
            normal generator [| int64 words + 2L; (Seq.head vectors.Values).LongLength |] scale

        let known = torch.tensor [| for id in vectors.Keys -> int64 id |]
        table.index_copy_ (0L, known, torch.tensor(numbers).view (known.shape[0], -1L) * (scale / size))

let classifier (generator: torch.Generator) words vectors (classes: int) : (string * Tensor) list =
    let normal = normal generator
    let embedding = embedding generator words vectors

    [ "embedding", embedding
      "convolution", normal [| hidden; 3L * embedding.shape[1] |] 0.08
      "convolutionBias", torch.zeros hidden
      "attention", normal [| hidden |] 0.1
      "output", normal [| int64 classes; 2L * hidden |] 0.07
      "outputBias", torch.zeros (int64 classes) ]

/// Log probabilities [rows, classes]: windows of three words, pooled by attention and by their maximum.
let read (training: bool) (theta: Params) (ids: Tensor) : Tensor =
    let rows, words = ids.shape[0], ids.shape[1]

    let drop (x: Tensor) =
        torch.nn.functional.dropout (x, 0.3, training)

    let mask = ids.ne(Scalar.op_Implicit 0).to_type(torch.float32).unsqueeze 2L

    let embedded =
        theta["embedding"].index_select(0L, ids.reshape -1L).view (rows, words, -1L)

    let embedded = drop embedded * mask
    let edge = torch.zeros (rows, 1L, embedded.shape[2], device = ids.device)
    let before = torch.cat ([| edge; embedded.narrow (1L, 0L, words - 1L) |], 1L)
    let behind = torch.cat ([| embedded.narrow (1L, 1L, words - 1L); edge |], 1L)
    let windows = torch.cat ([| before; embedded; behind |], 2L)

    let features =
        torch.nn.functional.relu (torch.nn.functional.linear (windows, theta["convolution"], theta["convolutionBias"]))

    let scores = (features * theta["attention"]).sum (2L, true) - (1.0 - mask) * 1e4
    let pooled = (features * torch.nn.functional.softmax (scores, 1L)).sum 1L
    let largest = (features * mask).amax [| 1L |]
    let pooled = torch.cat ([| pooled; largest |], 1L)

    let logits =
        torch.nn.functional.linear (drop pooled, theta["output"], theta["outputBias"])

    torch.nn.functional.log_softmax (logits, 1L)

/// Cross entropy of targets [rows, classes], a tenth of them spread over all classes, and log probabilities: [rows]
/// (label smoothing; Szegedy et al., 2016).
let crossEntropy (target: Tensor) (log: Tensor) : Tensor =
    -(target * log).sum (1L) * 0.9 - log.mean ([| 1L |]) * 0.1

/// Starts with equal weights: reliabilities of rules and labels are a linear path from 0, what depends on the
/// prediction a small net with output 0. `correct` adds the share of the prediction, and what each term of a text says
/// of the true class.
let metaLearner (generator: torch.Generator) (correct: bool) (classes: int) (rules: int) : (string * Tensor) list =
    let outputs, clues = (if correct then 2 else 1), int64 (classes + rules)

    [ "clues", torch.zeros (int64 outputs, clues)
      "hidden", normal generator [| metaHidden; int64 classes + 3L |] 0.3
      "hiddenBias", torch.zeros metaHidden
      "output", torch.zeros (int64 outputs, metaHidden)
      "outputBias", torch.tensor (Array.sub [| 0f; -1f |] 0 outputs)
      if correct then
          "terms", torch.zeros (terms, int64 classes) ]

let private clamp (low: float) (high: float) (x: Tensor) =
    x.clamp (Scalar.op_Implicit low, Scalar.op_Implicit high)

/// What the prediction says of each weak label: its log probability, its lead over the best other class, and the
/// entropy as a share of its maximum: [rows, 3].
let private opinion (log: Tensor) (rows: Examples) : Tensor =
    let own = (log * rows.OneHot).sum 1L
    let other = (log - rows.OneHot * 1e4).amax [| 1L |]
    let entropy = -(log.exp () * log).sum 1L / Math.Log(float log.shape[1])
    torch.stack ([| clamp -6.0 0.0 own / 3.0; clamp -6.0 6.0 (own - other) / 3.0; entropy |], 1L)

/// Logits of weight and, with `correct`, of the prediction's share: [rows, 1 or 2].
let private judge (lambda: Params) (log: Tensor) (rows: Examples) : Tensor =
    let input = torch.cat ([| opinion log rows; rows.OneHot |], 1L)

    let hidden =
        torch.tanh (torch.nn.functional.linear (input, lambda["hidden"], lambda["hiddenBias"]))

    torch.nn.functional.linear (hidden, lambda["output"], lambda["outputBias"])
    + torch.nn.functional.linear (torch.cat ([| rows.OneHot; rows.Votes |], 1L), lambda["clues"])

/// Logit of the weak label's weight: [rows]. `teacher`, log probabilities, is not differentiated.
let weightLogit (lambda: Params) (teacher: Tensor) (rows: Examples) : Tensor =
    (judge lambda teacher rows).select (1L, 0L)

/// What λ knows of a text's classes: evidence of its words and of its pairs of neighbours, added up and divided by the
/// square root of their number: [rows, classes]. Terms share rows of the table by their hash (Weinberger et al., 2009).
/// Taken four times, evidence moves four times as far in a step of Adam, as a term that few batches hold needs.
let private evidence (lambda: Params) (ids: Tensor) : Tensor =
    let rows, words = ids.shape[0], ids.shape[1]
    let start = torch.zeros (rows, 1L, dtype = torch.int64, device = ids.device)
    let before = torch.cat ([| start; ids.narrow (1L, 0L, words - 1L) |], 1L)
    let pairs = ids * 31L + (before + 1L) * 7919L

    let hashed = torch.cat([| ids; pairs |], 1L).remainder (Scalar.op_Implicit terms)

    let present =
        ids.ne(Scalar.op_Implicit 0).to_type(torch.float32).repeat(1L, 2L).unsqueeze 2L

    let each =
        lambda["terms"].index_select(0L, hashed.reshape -1L).view (rows, 2L * words, -1L)

    4.0 * (each * present).sum 1L
    / present.sum(1L).clamp_min(Scalar.op_Implicit 1.0).sqrt ()

/// Cross entropy of targets [rows, classes] whose class frequencies π_t are not those of clean rows, π: the logits
/// meet the targets with log π_t − log π added, so that the classifier itself keeps the frequencies of clean rows
/// (logit adjustment; Menon et al., 2021). Without it weights that distrust most labels of a class lose the class.
/// π_t is the batch's, with π in the place of `prior` rows.
let private adjusted (prior: Tensor) (target: Tensor) (log: Tensor) : Tensor =
    let imaginary = 8.0
    let mass = target.sum (0L) + prior * imaginary
    let shift = (mass / mass.sum ()).log () - prior.log ()
    crossEntropy target (torch.nn.functional.log_softmax (log + shift, 1L))

/// w ℓ(weak label), w = σ(z − z̄) with z̄ the batch's mean: Adam takes steps of one size whatever the weights' common
/// factor, which is therefore not λ's to choose; free, it drifts until every weight is saturated.
let weighedLoss (lambda: Params) (teacher: Tensor) (log: Tensor) (rows: Examples) : Tensor =
    let z = weightLogit lambda teacher rows
    (torch.sigmoid (z - z.mean ()) * crossEntropy rows.OneHot log).mean ()

/// w ℓ(weak label) + (1 − w) ℓ(correction): weight that a weak label loses goes to the correction, (1 − s) c + s ·
/// prediction, c = softmax(weak label + evidence of the text). As in meta label correction (Zheng et al., 2021) c is
/// learned and sees label and text, here by a table of its own: it neither follows features that move under it nor sees
/// the prediction, which it would push ever further.
/// `prior`: class frequencies of clean rows.
let correctedLoss (prior: Tensor) (lambda: Params) (teacher: Tensor) (log: Tensor) (rows: Examples) : Tensor =
    let out = torch.sigmoid (judge lambda teacher rows)
    let weight, share = out.narrow (1L, 0L, 1L), out.narrow (1L, 1L, 1L)

    let learned =
        torch.nn.functional.softmax (rows.OneHot + evidence lambda rows.Ids, 1L)

    let correction = learned * (1.0 - share) + teacher.exp () * share
    (adjusted prior (rows.OneHot * weight + correction * (1.0 - weight)) log).mean ()
