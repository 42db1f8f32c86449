/// Networks of the fixtures: word vectors, re-weighting by a network fed with its own losses, label correction.
module Sama.Fixtures.Hypergradients.Networks

open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

/// Losses of named parameters. `stop` marks what is not differentiated; `batch` is the samples of the step.
[<NoComparison; NoEquality>]
type Network =
    {
        Theta: (string * int64[]) list
        Lambda: (string * int64[]) list
        /// what enters the base loss under a stop-gradient
        Feature: (Params -> Tensor) option
        Base: (Tensor -> Tensor) -> Params -> Params -> int[] -> Tensor
        Meta: Params -> Params -> Tensor
    }

let private integerTensor (values: int seq) =
    torch.tensor (values |> Seq.map int64 |> Array.ofSeq, dtype = torch.int64)

let private shapes key (data: JsonElement) =
    [ for shape in (item key data).EnumerateObject() ->
          shape.Name, [| for n in shape.Value.EnumerateArray() -> n.GetInt64() |] ]

let private entropies (logits: Tensor) (labels: Tensor) =
    torch.nn.functional.cross_entropy (logits, labels, reduction = torch.nn.Reduction.None)

let private embedding (lambda: int) (data: JsonElement) : Network =
    let wordsOf key =
        let samples =
            items key data
            |> List.map (fun row -> [ for w in row.EnumerateArray() -> w.GetInt32() ])

        integerTensor (List.concat samples), int64 samples.Head.Length

    let words, width = wordsOf "words"
    let metaWords, _ = wordsOf "metaWords"

    let labels, metaLabels =
        integerTensor (integers "labels" data), integerTensor (integers "metaLabels" data)

    let losses (theta: Params) (words: Tensor) (labels: Tensor) =
        let rows = theta["embedding"].index_select (0L, words)
        let mean = rows.view(-1L, width, rows.shape[1]).mean [| 1L |]
        entropies (torch.nn.functional.linear (torch.tanh mean, theta["W"], theta["b"])) labels

    { Theta = shapes "shapes" data
      Lambda = [ "lambda", [| int64 lambda |] ]
      Feature = None
      Base =
        fun _ theta lambda batch ->
            let rows = integerTensor batch
            let chosen = words.view(-1L, width).index_select(0L, rows).reshape -1L
            let weights = torch.sigmoid (lambda["lambda"].index_select (0L, rows))
            (weights * losses theta chosen (labels.index_select (0L, rows))).mean ()
      Meta =
        fun theta lambda ->
            (losses theta metaWords metaLabels).mean ()
            + lambda["lambda"].dot lambda["lambda"] * 0.05 }

let private logits (theta: Params) (x: Tensor) =
    let hidden = torch.tanh (torch.nn.functional.linear (x, theta["W1"], theta["b1"]))
    torch.nn.functional.linear (hidden, theta["W2"], theta["b2"])

let private metaLoss (data: JsonElement) =
    let x, y =
        Suite.ofMatrix (matrix "metaInputs" data), integerTensor (integers "metaLabels" data)

    fun (theta: Params) (_: Params) -> (entropies (logits theta x) y).mean ()

/// w = sigmoid(A2 tanh(A1 f + a1) + a2)
let weights (lambda: Params) (feature: Tensor) : Tensor =
    let hidden =
        torch.tanh (torch.nn.functional.linear (feature.unsqueeze 1L, lambda["A1"], lambda["a1"]))

    torch.sigmoid(torch.nn.functional.linear (hidden, lambda["A2"], lambda["a2"])).squeeze 1L

let private reweighting (data: JsonElement) : Network =
    let x, y =
        Suite.ofMatrix (matrix "inputs" data), integerTensor (integers "labels" data)

    let losses theta = entropies (logits theta x) y

    { Theta = shapes "shapes" data
      Lambda = shapes "lambdaShapes" data
      Feature = Some losses
      Base =
        fun stop theta lambda _ ->
            let l = losses theta
            (weights lambda (stop l) * l).mean ()
      Meta = metaLoss data }

/// q = (1 − mix) onehot(y) + mix softmax(row y of λ)
let targets (data: JsonElement) (lambda: Params) : Tensor =
    let y, mix = integerTensor (integers "labels" data), number "mix" data
    let transition = torch.nn.functional.softmax (lambda["transition"], 1L)

    let onehot =
        torch.eye(transition.shape[0], dtype = torch.float64).index_select (0L, y)

    onehot * (1.0 - mix) + transition.index_select (0L, y) * mix

let private labelCorrection (data: JsonElement) : Network =
    let x = Suite.ofMatrix (matrix "inputs" data)

    { Theta = shapes "shapes" data
      Lambda = shapes "lambdaShapes" data
      Feature = None
      Base =
        fun _ theta lambda _ ->
            let logp = torch.nn.functional.log_softmax (logits theta x, 1L)
            -(targets data lambda * logp).sum([| 1L |]).mean ()
      Meta = metaLoss data }

/// The network of a file.
let read (file: JsonElement) : Network =
    let data = item "data" file

    match (Row.tryGet "words" data).IsSome, (Row.tryGet "mix" data).IsSome with
    | true, _ -> embedding (vector "lambda" file).Count data
    | _, true -> labelCorrection data
    | _ -> reweighting data

/// Named tensors of a flat vector.
let named (shapes: (string * int64[]) list) (x: Vec) : (string * Tensor) list =
    let layout = Layout.create shapes
    List.zip (List.map fst shapes) (List.ofArray (Layout.views layout (Suite.ofVector x)))

let parameters (shapes: (string * int64[]) list) (x: Vec) : Params =
    Params.frozen (Layout.create shapes) (Suite.ofVector x)

/// Levels over the network; step s of a run sees the batch `batches s`.
let levels (network: Network) rule (theta: Vec) (lambda: Vec) (batches: int64 -> int[]) : Level list =
    [ Level.create
          "base"
          (named network.Theta theta)
          rule
          (fun draw -> batches draw.Step)
          (fun pass theta lambda batch -> network.Base (fun f -> pass.Stop("feature", f)) theta lambda batch)
      Level.create "meta" (named network.Lambda lambda) (sgd 0.1) ignore (fun _ theta lambda () ->
          network.Meta theta lambda) ]
