/// Tokenizers of vocabulary files: pieces, framing, truncation, padding, spans, threads.
module Sama.Language.Tests.TokenizerTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open FsCheck
open TorchSharp
open Sama.Language
open Sama.Language.Tests.Tiny

let private wordPiece () =
    use folder = new Folder()
    wordPieceFile (folder.At "vocab.txt")
    Tokenizer.Load folder.Path

let private byteLevel () =
    use folder = new Folder()
    byteLevelFiles (folder.At "vocab.json") (folder.At "merges.txt")
    Tokenizer.Load folder.Path

let private tokens (tokenizer: Tokenizer) (text: string) =
    (tokenizer.Encode text).Tokens |> List.ofArray

let private whole (tensor: TorchSharp.torch.Tensor) = tensor.data<int64>().ToArray()

/// One at a time, as the words of longest_first would have it for one token; the whole rule is checked beside it.
let private room (a: int) (b: int) (limit: int) =
    let struct (x, y) = Framing.cut Truncation.LongestFirst true limit a b
    x, y

let tests =
    testList
        "tokenizer"
        [ testCase "pieces, unknown words, accents, special tokens within the text"
          <| fun _ ->
              use t = wordPiece ()
              Expect.equal (tokens t "The running!") [ "[CLS]"; "the"; "run"; "##ning"; "!"; "[SEP]" ] "pieces"

              Expect.equal
                  (tokens t "é\u0301 日")
                  [ "[CLS]"; "e"; "[UNK]"; "[SEP]" ]
                  "accents go, ideographs are unknown"

              Expect.equal (tokens t "x[MASK]y") [ "[CLS]"; "x"; "[MASK]"; "y"; "[SEP]" ] "a special token"
              Expect.equal (tokens t "") [ "[CLS]"; "[SEP]" ] "nothing"

              Expect.equal
                  (tokens t "[mask]")
                  [ "[CLS]"; "["; "m"; "##a"; "##s"; "##k"; "]"; "[SEP]" ]
                  "lower case is no special token"

          testCase "byte-level merges, the mask takes the space before it"
          <| fun _ ->
              use t = byteLevel ()
              Expect.equal (tokens t "the thing") [ "<s>"; "the"; "Ġ"; "th"; "ing"; "</s>" ] "merges by rank"
              Expect.equal (tokens t "a  <mask>b") [ "<s>"; "a"; "<mask>"; "b"; "</s>" ] "mask"
              Expect.equal (tokens t "é") [ "<s>"; "Ã"; "©"; "</s>" ] "bytes"

          testCase "pairs are framed as the family has it"
          <| fun _ ->
              use bert = wordPiece ()
              use roberta = byteLevel ()
              let pair = bert.Encode("a", "b c")
              Expect.equal pair.Tokens [| "[CLS]"; "a"; "[SEP]"; "b"; "c"; "[SEP]" |] "bert"
              Expect.equal pair.TypeIds [| 0L; 0L; 0L; 1L; 1L; 1L |] "types"
              let pair = roberta.Encode("a", "b")
              Expect.equal pair.Tokens [| "<s>"; "a"; "</s>"; "</s>"; "b"; "</s>" |] "roberta"
              Expect.isTrue (Array.forall ((=) 0L) pair.TypeIds) "types"
              Expect.equal (bert.Encode("a", "")).Tokens [| "[CLS]"; "a"; "[SEP]"; "[SEP]" |] "an empty second text"

          testCase "padding and truncation that tokenizer.json asks for are left out"
          <| fun _ ->
              use folder = new Folder()
              wordPieceFile (folder.At "vocab.txt")
              let _, json = Vocabulary.ofFolder folder.Path

              json["truncation"] <-
                  JsonNode.Parse """{"max_length":4,"strategy":"LongestFirst","stride":0,"direction":"Right"}"""

              json["padding"] <-
                  JsonNode.Parse
                      """{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"[PAD]"}"""

              File.WriteAllText(folder.At "tokenizer.json", json.ToJsonString())
              use t = Tokenizer.Load folder.Path
              Expect.equal (tokens t "the run !").Length 5 ""

          testPropertyWithConfig
              { FsCheckConfig.defaultConfig with
                  maxTest = 500 }
              "truncated pairs fill the room, from the longer one, and lose nothing where they fit"
          <| fun (PositiveInt a) (PositiveInt b) (NonNegativeInt limit) ->
              let x, y = room a b limit
              let fits = a + b <= limit
              Expect.isTrue (x <= a && y <= b && x >= 0 && y >= 0) "within"
              Expect.equal (x + y) (min (a + b) limit) "filled"

              if fits then
                  Expect.equal (x, y) (a, b) "untouched"
              elif min a b <= limit / 2 then
                  Expect.equal (min x y) (min a b) "the shorter one stays where it has less than half"

          testCase "20 and 30 tokens into 29 are 14 and 15"
          <| fun _ ->
              Expect.equal (room 20 30 29) (14, 15) ""
              Expect.equal (room 30 20 29) (15, 14) ""

          testCase "lengths that cannot be kept are refused"
          <| fun _ ->
              use t = wordPiece ()
              Expect.throwsT<ArgumentException> (fun () -> t.Encode("a", maxLength = 1) |> ignore) "no room"
              Expect.throwsT<ArgumentException> (fun () -> t.Encode("a", maxLength = -1) |> ignore) "negative"

              Expect.throwsT<ArgumentException>
                  (fun () -> t.Encode("a", "b c d e", 5, Truncation.OnlyFirst) |> ignore)
                  "the first one is too short"

              Expect.throwsT<ArgumentException>
                  (fun () -> t.Encode("a b", null, 3, Truncation.OnlySecond) |> ignore)
                  "no second one"

              Expect.equal (t.Encode("a", "b c d", 6, Truncation.OnlySecond)).Ids.Length 6 "fits"

          testCase "batches: masks, types, sides, multiples, fixed widths"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              use t = wordPiece ()
              let texts = [| "a b c"; "a" |]
              let batch = t.EncodeBatch texts
              let a, cls, sep = t.Id "a", t.Id "[CLS]", t.Id "[SEP]"
              Expect.equal (whole batch.InputIds) [| cls; a; t.Id "b"; t.Id "c"; sep; cls; a; sep; 0L; 0L |] "ids"
              Expect.equal (whole batch.AttentionMask) [| 1L; 1L; 1L; 1L; 1L; 1L; 1L; 1L; 0L; 0L |] "mask"
              let left = t.EncodeBatch(texts, side = PaddingSide.Left)
              Expect.equal (whole (left.InputIds[1L])) [| 0L; 0L; cls; a; sep |] "left"
              let eight = t.EncodeBatch(texts, multipleOf = 8)
              Expect.equal eight.InputIds.shape [| 2L; 8L |] "multiple"
              let fixed' = t.EncodeBatch(texts, maxLength = 4, padding = Padding.MaxLength)
              Expect.equal (whole fixed'.InputIds) [| cls; a; t.Id "b"; sep; cls; a; sep; 0L |] "cut and filled"
              let pairs = t.EncodeBatch([| "a"; "b" |], [| "c"; "c c" |])
              Expect.equal (whole (pairs.TokenTypeIds[0L])) [| 0L; 0L; 0L; 1L; 1L; 0L |] "types"
              Expect.throwsT<ArgumentException> (fun () -> t.EncodeBatch [||] |> ignore) "no row"
              Expect.throwsT<ArgumentException> (fun () -> t.EncodeBatch(texts, [| "x" |]) |> ignore) "pairs"

          testCase "half a surrogate pair is refused, with its place and row"
          <| fun _ ->
              use t = wordPiece ()
              // a literal cannot hold one
              let half (unit: int) = string (char unit)
              Expect.throwsT<ArgumentException> (fun () -> t.Encode("ab" + half 0xD800) |> ignore) "high"
              Expect.throwsT<ArgumentException> (fun () -> t.Encode(half 0xDC00 + "ab") |> ignore) "low"
              Expect.isGreaterThan (t.Encode "a\U0001F600").Ids.Length 2 "a whole pair is a character"

              Expect.throwsC (fun () -> t.EncodeAll [| "a"; half 0xD83D |] |> ignore) (fun e ->
                  Expect.stringContains e.Message "row 1" "row"
                  Expect.stringContains e.Message "U+D83D" "which")

          testCase "spans stand where the tokens do"
          <| fun _ ->
              use bert = wordPiece ()
              use roberta = byteLevel ()

              let spanned (t: Tokenizer) (text: string) =
                  [ for span in t.Offsets text -> text.Substring(span.Start, span.End - span.Start) ]

              Expect.equal
                  (spanned bert "The RUNning\t é 日\U0001F600[MASK]!")
                  [ ""; "The"; "RUN"; "ning"; "é"; "日"; "\U0001F600"; "[MASK]"; "!"; "" ]
                  "word pieces"

              Expect.equal
                  (spanned roberta "the  thing é<mask>")
                  [ ""; "the"; ""; ""; "th"; "ing"; ""; "é"; "é"; "<mask>"; "" ]
                  "bytes; spaces are trimmed"

          testCase "threads share a tokenizer; after the end it says so"
          <| fun _ ->
              let t = wordPiece ()
              let texts = Array.init 2000 (fun i -> String('a', i % 40) + " run the !")
              let expected = texts |> Array.map (fun text -> (t.Encode text).Ids)
              let together = texts |> Array.Parallel.map (fun text -> (t.Encode text).Ids)
              Expect.equal together expected "side by side"
              Expect.equal (t.EncodeAll texts |> Array.map _.Ids) expected "all at once"
              (t :> IDisposable).Dispose()
              (t :> IDisposable).Dispose()
              Expect.throwsT<ObjectDisposedException> (fun () -> t.Encode "a" |> ignore) "disposed"
              Expect.throwsT<ObjectDisposedException> (fun () -> t.Offsets "a" |> ignore) "disposed"

          testCase "a folder without a tokenizer, or with a broken one, names the file"
          <| fun _ ->
              use folder = new Folder()
              Expect.throwsT<FileNotFoundException> (fun () -> Tokenizer.Load folder.Path |> ignore) "nothing there"

              for text in
                  [ "{}"
                    "[]"
                    "{"
                    """{"model":{"type":"WordPiece","vocab":{"a":0}},"version":"9"}""" ] do
                  File.WriteAllText(folder.At "tokenizer.json", text)

                  Expect.throwsC (fun () -> Tokenizer.Load folder.Path |> ignore) (fun e ->
                      Expect.isTrue (e :? InvalidDataException) $"{text}: {e}"
                      Expect.stringContains e.Message "tokenizer.json" text)

              File.Delete(folder.At "tokenizer.json")
              File.WriteAllText(folder.At "vocab.txt", "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n")

              Expect.throwsC (fun () -> Tokenizer.Load folder.Path |> ignore) (fun e ->
                  Expect.stringContains e.Message "CR LF" "what is wrong with the lines") ]
