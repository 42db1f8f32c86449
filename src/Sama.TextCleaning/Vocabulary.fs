namespace Sama.TextCleaning

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open System.IO.Compression
open Sama.DataOptimization

/// Words that have a number: 0 is padding, 1 every word that has none.
[<Sealed; AllowNullLiteral>]
type WordVocabulary private (words: Dictionary<string, int>) =

    /// The words that occur at least twice in the texts: one seen once teaches nothing that can be used again.
    /// ArgumentException for no texts.
    static member FromTexts(texts: IReadOnlyList<string>) : WordVocabulary =
        ArgumentNullException.ThrowIfNull(texts, nameof texts)

        if texts.Count = 0 then
            invalidArg (nameof texts) "there are no texts"

        texts
        |> Seq.collect HashedTerms.Words
        |> Seq.countBy id
        |> Seq.filter (fun (_, count) -> count >= 2)
        |> Seq.mapi (fun i (word, _) -> KeyValuePair(word, i + 2))
        |> Dictionary
        |> WordVocabulary

    /// How many numbers there are, padding and the unknown word included.
    member _.Size = words.Count + 2

    /// A text's first `most` words.
    member _.Numbers(text: string, most: int) : int[] =
        HashedTerms.Words text
        |> Array.truncate most
        |> Array.map (fun word ->
            match words.TryGetValue word with
            | true, number -> number
            | _ -> 1)

    /// Vectors of words from a file in GloVe's text format (gzip if it ends in .gz), a word and its numbers a line, by the
    /// word's number; words that have none are passed over. InvalidDataException names file and line.
    member _.ReadVectors(path: string) : IReadOnlyDictionary<int, float32[]> =
        ArgumentException.ThrowIfNullOrEmpty(path, nameof path)
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

        let bad reason =
            raise (InvalidDataException $"{path}: line {line}: {reason}")

        while not reader.EndOfStream do
            line <- line + 1
            let parts = reader.ReadLine().TrimEnd().Split ' '

            let numbers =
                parts[1..]
                |> Array.map (fun text ->
                    match Single.TryParse(text, CultureInfo.InvariantCulture) with
                    | true, number -> number
                    | _ -> bad $"'{text}' is not a number")

            if width < 0 then
                width <- numbers.Length

            if numbers.Length = 0 || numbers.Length <> width then
                bad $"{numbers.Length} numbers, the first line has {width}"

            match words.TryGetValue parts[0] with
            | true, number -> found[number] <- numbers
            | _ -> ()

        if found.Count = 0 then
            raise (InvalidDataException $"{path}: no word of the training texts is in it")

        found
