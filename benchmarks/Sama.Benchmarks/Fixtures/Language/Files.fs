/// Folders of language fixtures: logits.json, tokenization.json and safetensors-bad/expected.json.
module Sama.Fixtures.Language.Files

open System.Text.Json
open Sama.Fixtures
open Sama.Fixtures.Row

let private reader (file: string) (key: string) rows : Bench.Reader =
    { Reads = fun name json -> name = file && (tryGet key json).IsSome
      Rows = rows }

/// One reader a file.
let readers: Bench.Reader list =
    [ reader "logits.json" "models" Models.rows
      reader "tokenization.json" "tokenizers" Tokens.rows
      reader "expected.json" "files" SafetensorsFiles.rows ]
