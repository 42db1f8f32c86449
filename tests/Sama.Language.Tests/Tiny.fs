/// Small models, vocabularies and folders, made from seeds; a plain encoder as oracle.
module Sama.Language.Tests.Tiny

open System
open System.IO
open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Language

let families = [ Family.Bert; Family.Roberta ]

let config (family: Family) : EncoderConfig =
    { EncoderConfig.Default family with
        VocabularySize = 40L
        HiddenSize = 12L
        Layers = 2
        Heads = 3L
        IntermediateSize = 20L
        Positions = 16L
        TokenTypes = (if family = Family.Bert then 2L else 1L)
        Labels = [| "no"; "maybe"; "yes" |]
        InitializerRange = 0.4 }

/// A folder that is removed with the value.
type Folder() =
    let info = Directory.CreateTempSubdirectory "sama-test"
    member _.Path = info.FullName
    member _.At(name: string) = Path.Combine(info.FullName, name)

    interface IDisposable with
        member _.Dispose() = info.Delete true

/// Every entry random, norms and biases too: a zero would hide a mistake.
let shaken (seed: int64) (model: Encoder) : Tensor =
    Scope.tensor (fun () ->
        use generator = new torch.Generator(uint64 seed)

        model.Initial
        + torch.randn(model.Initial.shape, generator = generator).to_type (model.Initial.dtype)
          * 0.2)

/// A model of float64 weights, by way of a folder.
let exact (seed: int64) (config: EncoderConfig) (head: Head) : Encoder =
    use folder = new Folder()
    use start = Encoder.Create(config, head, seed)
    use vector = shaken seed start
    start.Save(folder.Path, vector)
    Encoder.Load(folder.Path, dtype = torch.ScalarType.Float64)

/// Three rows of seven tokens, padded by 0, 2 and 4 on the right.
let batch (family: Family) (seed: int64) : TokenBatch =
    Scope.run (fun keep ->
        use generator = new torch.Generator(uint64 seed)
        let pad = EncoderConfig.Default(family).PadTokenId

        let ids =
            torch.randint (5L, 40L, [| 3L; 7L |], dtype = torch.int64, generator = generator)

        let lengths = torch.tensor([| 7L; 5L; 3L |]).unsqueeze 1L
        let mask = (torch.arange(7L, dtype = torch.int64).unsqueeze 0L).lt lengths
        let ids = torch.where (mask, ids, torch.full_like (ids, Scalar.op_Implicit pad))

        let types =
            if family = Family.Bert then
                torch.randint (2L, [| 3L; 7L |], dtype = torch.int64, generator = generator)
            else
                torch.zeros_like ids

        new TokenBatch(keep ids, keep (mask.to_type torch.int64), keep types))

let labels () : Tensor = torch.tensor [| 2L; 0L; 1L |]

let scalar (x: float) : Scalar = Scalar.op_Implicit x

/// max |a − b|
let apart (a: Tensor) (b: Tensor) : float =
    use difference = (a - b).abs().max().to_type torch.float64
    difference.item<float> ()

/// The class logits by loops over rows, heads and tokens, on products of vectors alone; nothing of the library's network.
let oracle (config: EncoderConfig) (theta: Params) (ids: int64[]) (types: int64[]) : Tensor =
    let p = if config.Family = Family.Bert then "bert." else "roberta."
    let width, heads = config.HiddenSize, config.Heads
    let size = width / heads
    let get (name: string) = theta[name]

    let linear name (x: Tensor) =
        (get $"{name}.weight").mv x + get $"{name}.bias"

    let norm name (x: Tensor) =
        let centred = x - x.mean ()
        let scale = ((centred * centred).mean () + config.LayerNormEpsilon).sqrt ()
        centred / scale * get $"{name}.weight" + get $"{name}.bias"

    let gelu (x: Tensor) =
        x * 0.5 * (torch.erf (x / Math.Sqrt 2.0) + 1.0)

    let position i =
        if config.Family = Family.Bert then
            int64 i
        else
            int64 i + 1L + config.PadTokenId

    let row name (i: int64) = (get $"{p}embeddings.{name}.weight")[i]

    let start =
        [ for i in 0 .. ids.Length - 1 ->
              row "word_embeddings" ids[i]
              + row "token_type_embeddings" types[i]
              + row "position_embeddings" (position i)
              |> norm $"{p}embeddings.LayerNorm" ]

    let layer (h: Tensor list) i =
        let at = $"{p}encoder.layer.{i}"

        let project part =
            h |> List.map (linear $"{at}.attention.self.{part}")

        let q, k, v = project "query", project "key", project "value"
        let head (x: Tensor) n = x.narrow (0L, n * size, size)

        let mixed t =
            torch.cat
                [| for n in 0L .. heads - 1L do
                       let query = head (List.item t q) n

                       let score (key: Tensor) : Tensor =
                           (query.dot (head key n) / Math.Sqrt(float size)).exp ()

                       let scores = List.map score k
                       let total = List.reduce (+) scores

                       List.map2 (fun (s: Tensor) value -> head value n * (s / total)) scores v
                       |> List.reduce (+) |]

        [ for t in 0 .. h.Length - 1 do
              let a =
                  norm $"{at}.attention.output.LayerNorm" (linear $"{at}.attention.output.dense" (mixed t) + h[t])

              let inner = gelu (linear $"{at}.intermediate.dense" a)
              norm $"{at}.output.LayerNorm" (linear $"{at}.output.dense" inner + a) ]

    let last = List.fold layer start [ 0 .. config.Layers - 1 ]

    if config.Family = Family.Bert then
        linear "classifier" (torch.tanh (linear "bert.pooler.dense" last.Head))
    else
        linear "classifier.out_proj" (torch.tanh (linear "classifier.dense" last.Head))

/// A WordPiece vocabulary file: special tokens, letters alone and behind a piece, some pieces and signs.
let wordPieceFile (path: string) : unit =
    let letters = [ for c in 'a' .. 'z' -> string c ]

    let tokens =
        [ "[PAD]"; "[UNK]"; "[CLS]"; "[SEP]"; "[MASK]" ]
        @ letters
        @ (letters |> List.map (fun c -> "##" + c))
        @ [ "the"; "run"; "##ning"; "!"; "'"; "?"; "["; "]"; "é" ]

    File.WriteAllText(path, String.Join("\n", tokens) + "\n")

let private alphabet =
    let visible b =
        (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174

    let hidden = [ 0..255 ] |> List.filter (visible >> not)

    [ for b in 0..255 ->
          if visible b then
              string (char b)
          else
              string (char (256 + List.findIndex ((=) b) hidden)) ]

/// vocab.json and merges.txt of a byte-level BPE.
let byteLevelFiles (vocabulary: string) (merges: string) : unit =
    let pairs = [ "t", "h"; "th", "e"; "Ġ", "the"; "i", "n"; "in", "g" ]

    let tokens =
        [ "<s>"; "<pad>"; "</s>"; "<unk>" ]
        @ alphabet
        @ (pairs |> List.map (fun (a, b) -> a + b))
        @ [ "<mask>" ]

    File.WriteAllText(vocabulary, JsonSerializer.Serialize(dict (tokens |> List.mapi (fun i t -> t, i))))

    File.WriteAllText(
        merges,
        "#version: 0.2\n"
        + String.Join("\n", pairs |> List.map (fun (a, b) -> $"{a} {b}"))
        + "\n"
    )
