namespace Sama.DataOptimization

open System.Runtime.InteropServices
open System.Text.RegularExpressions

/// The words of texts and their pairs of neighbours as numbers below a size, so that a table of that many rows serves
/// any vocabulary: terms share rows by their hash (Weinberger et al., 2009).
[<AbstractClass; Sealed>]
type HashedTerms =

    static let word = Regex(@"\w+|[^\w\s]", RegexOptions.Compiled)

    /// FNV-1a of 32 bits over UTF-16 units: the same in every process, unlike String.GetHashCode.
    static let hash (seed: uint32) (text: string) : uint32 =
        let mutable h = seed

        for c in text do
            h <- (h ^^^ uint32 c) * 16777619u

        h

    /// Lower-case words and single signs, in their order. ArgumentNullException.
    static member Words(text: string) : string[] =
        Check.notNull (nameof text) text
        [| for found in word.Matches(text.ToLowerInvariant()) -> found.Value |]

    /// Numbers, 0 .. size − 1, of each text's first `words` words and of the pairs they make with the word before them.
    /// ArgumentException for no texts, a text that is null, or a size or number of words below 1.
    static member FromTexts
        (
            texts: string[],
            [<Optional; DefaultParameterValue(32768)>] size: int,
            [<Optional; DefaultParameterValue(64)>] words: int
        ) : int[][] =
        Check.nonEmpty (nameof texts) texts
        Check.that (nameof size) (size > 0) (fun () -> $"a table of {size} rows")
        Check.that (nameof words) (words > 0) (fun () -> $"{words} words of a text")
        let place (h: uint32) = int (h % uint32 size)

        texts
        |> Array.map (fun text ->
            let found = HashedTerms.Words text |> Array.truncate words
            let each = found |> Array.map (hash 2166136261u)

            [| yield! Array.map place each
               for i in 0 .. each.Length - 1 do
                   let before = if i = 0 then 2166136261u else each[i - 1]
                   place (hash (before * 31u + 7919u) found[i]) |])
