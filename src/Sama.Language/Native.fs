namespace Sama.Language

open System
open System.IO
open System.Runtime.InteropServices
open System.Text.Json.Nodes

/// The native tokenizer, which reads a file.
module internal NativeTokenizer =

    /// Loads json by way of a file of its own. InvalidDataException naming `path` if it is no tokenizer,
    /// InvalidOperationException if the native library is missing.
    let load (path: string) (json: JsonObject) : Tokenizers.DotNet.Tokenizer =
        let temporary = Path.Combine(Path.GetTempPath(), $"sama-{Guid.NewGuid():N}.json")

        try
            try
                File.WriteAllText(temporary, json.ToJsonString())
                new Tokenizers.DotNet.Tokenizer(temporary)
            with
            | :? Tokenizers.DotNet.TokenizerException as e ->
                raise (InvalidDataException($"'{path}' is no tokenizer: {e.Message}", e))
            | :? DllNotFoundException as e ->
                let platform = RuntimeInformation.RuntimeIdentifier

                raise (
                    InvalidOperationException(
                        $"the tokenizers' native library is not there for {platform}: add the package Tokenizers.DotNet.runtime.{platform}",
                        e
                    )
                )
        finally
            File.Delete temporary

    /// Ids of a text. The library's locks let threads encode side by side.
    let encode (native: Tokenizers.DotNet.Tokenizer) (text: string) : int64[] =
        let found = native.Encode text |> Array.map int64
        // its finalizer frees the tokenizer
        GC.KeepAlive native
        found
