/// A tiny encoder and texts of two made-up domains, for a first run without data.
module ContinuedPretraining.Generator

open System
open System.IO
open System.Text.Json
open Sama.Language

/// Writes the end task and its domain's texts, in `model` an encoder, and in `other` texts of another domain.
let write (folder: string) : unit =
    let random = Random 0
    let at name = Path.Combine(folder, name)
    let pick (words: string[]) = words[random.Next words.Length]

    let words =
        [| for a in "bdfgklmn" do
               for b in "aeiou" do
                   for c in "prstvz" do
                       for d in "ao" -> $"{a}{b}{c}{d}" |]

    // of a sentence's words half are its topic's
    let sentence (domain: string[]) topic =
        let own = domain[topic * 40 .. topic * 40 + 39]

        String.Join(' ', [ for i in 0..7 -> pick (if i % 2 = 0 then own else domain) ])
        + "."

    let texts (path: string) domain =
        Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore

        let text _ =
            let topic = random.Next 3
            $"So {sentence domain topic} Then {sentence domain topic}"

        File.WriteAllLines(path, List.init 100 text)

    use encoder =
        Encoder.Create(
            { EncoderConfig.Default Family.Bert with
                VocabularySize = int64 words.Length + 8L
                HiddenSize = 32L
                Layers = 2
                Heads = 2L
                IntermediateSize = 64L
                Positions = 64L },
            Head.None
        )

    encoder.Save(at "model")
    let signs = [| "[PAD]"; "[UNK]"; "[CLS]"; "[SEP]"; "[MASK]"; "."; "so"; "then" |]
    File.WriteAllLines(at "model/vocab.txt", Array.append signs words)
    texts (at "domain.txt") words[..119]
    texts (at "other/texts.txt") words[120..239]

    for name, count in [ "train", 160; "dev", 24; "test", 60 ] do
        File.WriteAllLines(
            at $"{name}.jsonl",
            [ for i in 1..count ->
                  JsonSerializer.Serialize
                      {| text = sentence words[..119] (i % 3)
                         label = $"topic {i % 3}" |} ]
        )
