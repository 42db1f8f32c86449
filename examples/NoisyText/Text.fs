/// Texts as tensors: words, vocabulary, batches.
module NoisyText.Text

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression
open System.Text.RegularExpressions
open TorchSharp
open Sama
open NoisyText.Dataset

let private maxWords = 32
let private padding, unknown = 0L, 1L
let private word = Regex(@"\w+|[^\w\s]", RegexOptions.Compiled)

/// Ids of words, 0 for padding and 1 for unknown words apart.
type Vocabulary = IReadOnlyDictionary<string, int>

let private wordsOf (text: string) =
    [| for found in word.Matches(text.ToLowerInvariant()) -> found.Value |]

/// The words that occur at least twice: one seen once teaches nothing that can be used again.
let vocabulary (texts: string seq) : Vocabulary =
    texts
    |> Seq.collect wordsOf
    |> Seq.countBy id
    |> Seq.filter (fun (_, count) -> count >= 2)
    |> Seq.mapi (fun i (word, _) -> KeyValuePair(word, i + 2))
    |> Dictionary
    :> _

/// Rows as tensors: word ids [rows, words], labels [rows], one-hot labels [rows, classes], and votes [rows, rules]:
/// 1 for the label, -1 against it, 0 for none. `Lengths` counts words.
type Examples =
    { Ids: Tensor
      Lengths: int[]
      Labels: Tensor
      OneHot: Tensor
      Votes: Tensor }

    member rows.Count = rows.Lengths.Length

    member rows.To(device: torch.Device) =
        { rows with
            Ids = rows.Ids.``to`` device
            Labels = rows.Labels.``to`` device
            OneHot = rows.OneHot.``to`` device
            Votes = rows.Votes.``to`` device }

let examples (vocabulary: Vocabulary) classes (rows: (Row * int) seq) : Examples =
    let rows = Array.ofSeq rows

    let id word =
        match vocabulary.TryGetValue word with
        | true, id -> int64 id
        | _ -> unknown

    let ids =
        rows
        |> Array.map (fun (row, _) -> wordsOf row.Text |> Array.truncate maxWords |> Array.map id)

    let padded (ids: int64[]) =
        Array.append ids (Array.create (maxWords - ids.Length) padding)

    let votes (row: Row, label) =
        row.Votes
        |> Array.map (fun vote ->
            if vote < 0 then 0f
            elif vote = label then 1f
            else -1f)

    let count = int64 rows.Length

    { Ids = torch.tensor(Array.collect padded ids).view (count, int64 maxWords)
      Lengths = ids |> Array.map (fun ids -> max 1 ids.Length)
      Labels = torch.tensor (rows |> Array.map (snd >> int64))
      OneHot =
        rows
        |> Array.collect (fun (_, label) -> Array.init classes (fun c -> if c = label then 1f else 0f))
        |> fun flat -> torch.tensor(flat).view (count, -1L)
      Votes = torch.tensor(Array.collect votes rows).view (count, -1L) }

/// Frequencies of the classes among the rows, each counted once more than it occurs (Laplace's rule): [classes].
let prior (rows: Examples) : Tensor =
    let counts = rows.OneHot.sum 0L + 1.0
    counts / counts.sum ()

/// Some of the rows, cut to the longest text among them.
let at (rows: int[]) (all: Examples) : Examples =
    let lengths = rows |> Array.map (fun row -> all.Lengths[row])
    let index = torch.tensor (rows |> Array.map int64, device = all.Ids.device)

    { Ids = all.Ids.narrow(1L, 0L, int64 (Array.max lengths)).index_select (0L, index)
      Lengths = lengths
      Labels = all.Labels.index_select (0L, index)
      OneHot = all.OneHot.index_select (0L, index)
      Votes = all.Votes.index_select (0L, index) }

/// All rows in order, at most 512 at a time.
let chunks (all: Examples) : Examples seq =
    Seq.init all.Count id
    |> Seq.chunkBySize 512
    |> Seq.map (fun rows -> at rows all)

/// `size` rows fixed by the draw: consecutive pieces of a new permutation every epoch, or drawn with replacement
/// where the set is smaller.
let batch (size: int) (all: Examples) (draw: Draw) : Examples =
    let random (draw: Draw) =
        Random(int (draw.RandomSeed &&& 0x7fffffffL))

    if all.Count < size then
        let random = random draw
        at (Array.init size (fun _ -> random.Next all.Count)) all
    else
        let perEpoch = int64 (all.Count / size)
        let order = Array.init all.Count id

        (random
            { draw with
                Step = draw.Step / perEpoch })
            .Shuffle
            order

        at (Array.sub order (int (draw.Step % perEpoch) * size) size) all

/// Word vectors from a text file (gzip if it ends in .gz), a word and its numbers a line; words outside the
/// vocabulary are skipped. InvalidDataException names file and line.
let readVectors (path: string) (vocabulary: Vocabulary) : Dictionary<int, float32[]> =
    use file = File.OpenRead path

    use stream: Stream =
        if path.EndsWith ".gz" then
            new GZipStream(file, CompressionMode.Decompress)
        else
            file

    use reader = new StreamReader(stream)
    let found = Dictionary()
    let mutable line = 0
    let mutable width = -1

    while not reader.EndOfStream do
        line <- line + 1
        let parts = reader.ReadLine().TrimEnd().Split ' '

        let numbers =
            parts[1..]
            |> Array.map (fun text ->
                match Single.TryParse(text, Globalization.CultureInfo.InvariantCulture) with
                | true, number -> number
                | _ -> raise (InvalidDataException $"{path}: line {line}: '{text}' is not a number"))

        if width < 0 then
            width <- numbers.Length

        if numbers.Length = 0 || numbers.Length <> width then
            raise (InvalidDataException $"{path}: line {line}: {numbers.Length} numbers, the first line has {width}")

        match vocabulary.TryGetValue parts[0] with
        | true, id -> found[id] <- numbers
        | _ -> ()

    if found.Count = 0 then
        raise (InvalidDataException $"{path}: no word of the training texts is in it")

    found
