namespace Sama.TextCleaning

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.DataOptimization

/// A small text encoder that needs no files: word embeddings, windows of three words, pooled by attention and by their
/// maximum, and a linear layer. It trains in seconds on a few thousand texts.
[<Sealed>]
type WordClassifier
    (
        texts: string[],
        classes: int,
        vocabularyFrom: int,
        [<Optional; DefaultParameterValue(32)>] words: int,
        [<Optional; DefaultParameterValue(null: string)>] vectors: string,
        [<Optional; DefaultParameterValue(null: torch.Device)>] device: torch.Device
    ) =
    let device = if isNull device then torch.CPU else device
    let hidden = 96L
    let dropout = 0.3

    do
        ArgumentNullException.ThrowIfNull(texts, nameof texts)

        if classes < 2 then
            invalidArg (nameof classes) $"{classes} classes: at least two are expected"

        if vocabularyFrom < 1 || vocabularyFrom > texts.Length then
            invalidArg (nameof vocabularyFrom) $"{vocabularyFrom} of {texts.Length} texts are to give the vocabulary"

        if words < 1 then
            invalidArg (nameof words) $"{words} words of a text"

    let vocabulary = WordVocabulary.FromTexts(ArraySegment(texts, 0, vocabularyFrom))

    let known =
        if isNull vectors then
            null
        else
            vocabulary.ReadVectors vectors

    let numbers = texts |> Array.map (fun text -> vocabulary.Numbers(text, words))

    let normal (generator: torch.Generator) (shape: int64[]) (scale: float) : Tensor =
        torch.randn (shape, generator = generator) * scale

    /// At random, or at the given vectors, whose width it then has, scaled to the same size.
    let embedding generator : Tensor =
        let scale = 0.1

        if isNull known then
            normal generator [| int64 vocabulary.Size; 64L |] scale
        else
            let values = known.Values |> Seq.collect id |> Array.ofSeq
            let size = values |> Array.averageBy (fun x -> float x * float x) |> sqrt

            let table =
                normal generator [| int64 vocabulary.Size; (Seq.head known.Values).LongLength |] scale

            let at = torch.tensor [| for number in known.Keys -> int64 number |]
            table.index_copy_ (0L, at, torch.tensor(values).view (at.shape[0], -1L) * (scale / size))

    /// What the last layer reads of texts whose words stand in one list [words], each with the places of the word before it and
    /// behind it, and `at` [rows, width] the places of each text's words; `words` is the place of no word.
    let read (theta: Params) (ids: Tensor) (before: Tensor) (behind: Tensor) (at: Tensor) (training: bool) : Tensor =
        let drop (x: Tensor) =
            torch.nn.functional.dropout (x, dropout, training)

        let withNone (x: Tensor) =
            torch.cat [| x; torch.zeros (1L, x.shape[1], device = x.device) |]

        let embedded = drop (theta["embedding"].index_select (0L, ids))
        let padded = withNone embedded

        let windows =
            torch.cat (
                [| padded.index_select (0L, before)
                   embedded
                   padded.index_select (0L, behind) |],
                1L
            )

        let features =
            torch.nn.functional.relu (
                torch.nn.functional.linear (windows, theta["convolution"], theta["convolutionBias"])
            )

        let mask =
            at.ne(Scalar.op_Implicit ids.shape[0]).to_type(torch.float32).unsqueeze 2L

        let features =
            (withNone features).index_select(0L, at.reshape -1L).view (at.shape[0], at.shape[1], -1L)

        let scores = (features * theta["attention"]).sum (2L, true) - (1.0 - mask) * 1e4
        let pooled = (features * torch.nn.functional.softmax (scores, 1L)).sum 1L
        let largest = (features * mask).amax [| 1L |]
        drop (torch.cat ([| pooled; largest |], 1L))

    let pooled (theta: Params) (inputs: Tensor[]) training =
        read theta inputs[0] inputs[1] inputs[2] inputs[3] training

    /// The words that it knows: those of the first `vocabularyFrom` texts.
    member _.Vocabulary = vocabulary

    interface IRowClassifier with
        member _.Classes = classes
        member _.Rows = texts.Length
        member _.Rate = 1e-3

        member _.Start(seed: int64) : IReadOnlyList<struct (string * Tensor)> =
            use _ = torch.NewDisposeScope()
            use generator = new torch.Generator(uint64 (1000L + seed))
            let normal = normal generator
            let embedding = embedding generator

            [| for name, value in
                   [ "embedding", embedding
                     "convolution", normal [| hidden; 3L * embedding.shape[1] |] 0.08
                     "convolutionBias", torch.zeros hidden
                     "attention", normal [| hidden |] 0.1
                     "output", normal [| int64 classes; 2L * hidden |] 0.07
                     "outputBias", torch.zeros (int64 classes) ] ->
                   struct (name, value.``to``(device).DetachFromDisposeScope()) |]

        member _.Read(rows: int[]) : Tensor[] =
            Rows.Require(rows, texts.Length)
            let starts = rows |> Array.scan (fun at row -> at + numbers[row].Length) 0
            let none = int64 (Array.last starts)
            let width = rows |> Array.fold (fun most row -> max most numbers[row].Length) 1

            let places (of': int -> int64[]) =
                torch.tensor (Array.init rows.Length of' |> Array.concat, device = device)

            let neighbours (by: int) =
                places (fun i ->
                    let count = numbers[rows[i]].Length

                    Array.init count (fun j ->
                        if j + by < 0 || j + by >= count then
                            none
                        else
                            int64 (starts[i] + j + by)))

            let at i =
                Array.init width (fun j ->
                    if j < numbers[rows[i]].Length then
                        int64 (starts[i] + j)
                    else
                        none)

            [| places (fun i -> Array.map int64 numbers[rows[i]])
               neighbours -1
               neighbours 1
               (places at).view (int64 rows.Length, int64 width) |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], training: bool) : Tensor =
            torch.nn.functional.log_softmax (
                torch.nn.functional.linear (pooled theta inputs training, theta["output"], theta["outputBias"]),
                1L
            )

        member _.Dispose() = ()

    interface ILinearHead with
        member _.Features(theta: Params, inputs: Tensor[]) : Tensor = pooled theta inputs false
        member _.HeadWeight = "output"
        member _.HeadBias = true
