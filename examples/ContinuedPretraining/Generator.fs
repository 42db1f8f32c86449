/// A tiny encoder and texts of two made-up domains, for a first run without data.
module ContinuedPretraining.Generator

open System
open System.IO
open System.Text.Json
open Sama.Language

/// Writes model, end task, its domain's texts, and in `other` those of another domain.
let write (folder: string) : unit =
    let random = Random 0
    let at name = Path.Combine(folder, name)

    let words =
        [| for a in "bdfgklmn" do
               for b in "aeiou" do
                   for c in "prstvz" do
                       for d in "ao" -> $"{a}{b}{c}{d}" |]

    let pick (words: string[]) = words[random.Next words.Length]

    // of a sentence's words half are its topic's
    let sentence (domain: string[]) topic =
        let own = domain[topic * 40 .. topic * 40 + 39]
        let words = [ for i in 0..7 -> pick (if i % 2 = 0 then own else domain) ]
        String.Join(' ', words) + "."

    let passage domain =
        let topic = random.Next 3 in $"So {sentence domain topic} Then {sentence domain topic}"

    let passages domain = [ for _ in 1..100 -> passage domain ]

    let rows count =
        [ for i in 1..count ->
              JsonSerializer.Serialize
                  {| text = sentence words[..119] (i % 3)
                     label = $"topic {i % 3}" |} ]

    let vocabulary =
        Array.append [| "[PAD]"; "[UNK]"; "[CLS]"; "[SEP]"; "[MASK]"; "."; "so"; "then" |] words

    use encoder =
        Encoder.Create(
            { EncoderConfig.Default Family.Bert with
                VocabularySize = int64 vocabulary.Length
                HiddenSize = 32L
                Layers = 2
                Heads = 2L
                IntermediateSize = 64L
                Positions = 64L },
            Head.None
        )

    encoder.Save folder
    Directory.CreateDirectory(at "other") |> ignore
    File.WriteAllLines(at "vocab.txt", vocabulary)
    File.WriteAllLines(at "domain.txt", passages words[..119])
    File.WriteAllLines(at "other/texts.txt", passages words[120..239])

    for name, count in [ "train", 160; "dev", 24; "test", 60 ] do
        File.WriteAllLines(at $"{name}.jsonl", rows count)
