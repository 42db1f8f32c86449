/// Folders of made-up texts and models.
module Sama.TextCleaning.Tests.Files

open System
open System.IO
open Expecto
open Sama.Language

let withFolder (action: string -> unit) : unit =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        action folder
    finally
        Directory.Delete(folder, true)

let words =
    [| "ball"; "goal"; "team"; "bank"; "stock"; "price"; "the"; "of"; "new"; "last" |]

/// Texts of two subjects, three words of their own among fillers.
let text (random: Random) (truth: int) : string =
    String.Join(
        ' ',
        [| for i in 0..5 ->
               if i % 2 = 0 then
                   words[6 + random.Next 4]
               else
                   words[3 * truth + random.Next 3] |]
    )

/// A small BERT folder of those words, new weights.
let model (folder: string) : string =
    let target = Path.Combine(folder, "tiny")
    Directory.CreateDirectory target |> ignore
    let tokens = Array.append [| "[PAD]"; "[UNK]"; "[CLS]"; "[SEP]"; "[MASK]" |] words
    File.WriteAllLines(Path.Combine(target, "vocab.txt"), tokens)
    File.WriteAllText(Path.Combine(target, "tokenizer_config.json"), """{"do_lower_case": true}""")

    let config =
        { EncoderConfig.Default Family.Bert with
            VocabularySize = int64 tokens.Length
            HiddenSize = 16L
            Layers = 3
            Heads = 2L
            IntermediateSize = 32L
            Positions = 32L
            InitializerRange = 0.3 }

    use encoder = Encoder.Create(config, Head.Classifier, 1L)
    encoder.Save target
    target

/// A CSV file of rows `id, text, label, right`, a share of whose labels is wrong; `wrong` says which.
let csv (path: string) (seed: int) (count: int) (noise: float) : unit =
    let random = Random seed

    File.WriteAllLines(
        path,
        [| "id,text,label,right"
           for i in 0 .. count - 1 do
               let truth = i % 2
               let label = if random.NextDouble() < noise then 1 - truth else truth
               let name c = if c = 0 then "sport" else "business"
               $"r{i},{text random truth} {i},{name label},{name truth}" |]
    )

/// That a call is refused by an exception whose message has all the words.
let refused<'E when 'E :> exn> (parts: string list) (call: unit -> unit) : unit =
    Expect.throwsC call (fun e ->
        Expect.isTrue (e :? 'E) $"{e.GetType().Name}: {e.Message}"

        for part in parts do
            Expect.stringContains e.Message part "message")
