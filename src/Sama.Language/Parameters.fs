namespace Sama.Language

open System
open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// Names and shapes of transformers' parameters, and their first values.
module internal Parameters =

    /// In front of the encoder's names in a model with a head.
    let prefixOf (family: Family) : string =
        if family = Family.Bert then "bert." else "roberta."

    /// In front of the encoder's names: nothing in the bare model.
    let prefix (config: EncoderConfig) (head: Head) : string =
        if head = Head.None then "" else prefixOf config.Family

    let private linear name (inputs: int64) (outputs: int64) =
        [ $"{name}.weight", [| outputs; inputs |]; $"{name}.bias", [| outputs |] ]

    let private norm name (width: int64) =
        [ $"{name}.weight", [| width |]; $"{name}.bias", [| width |] ]

    let private layer (c: EncoderConfig) (at: string) =
        let width = c.HiddenSize

        [ for part in [ "query"; "key"; "value" ] do
              yield! linear $"{at}.attention.self.{part}" width width
          yield! linear $"{at}.attention.output.dense" width width
          yield! norm $"{at}.attention.output.LayerNorm" width
          yield! linear $"{at}.intermediate.dense" width c.IntermediateSize
          yield! linear $"{at}.output.dense" c.IntermediateSize width
          yield! norm $"{at}.output.LayerNorm" width ]

    let private headParameters (c: EncoderConfig) (head: Head) =
        let width, labels = c.HiddenSize, int64 c.Labels.Count

        match head, c.Family with
        | Head.Classifier, Family.Bert -> linear "classifier" width labels
        | Head.Classifier, _ ->
            linear "classifier.dense" width width
            @ linear "classifier.out_proj" width labels
        | Head.MaskedLanguageModel, Family.Bert ->
            [ "cls.predictions.bias", [| c.VocabularySize |] ]
            @ linear "cls.predictions.transform.dense" width width
            @ norm "cls.predictions.transform.LayerNorm" width
        | Head.MaskedLanguageModel, _ ->
            [ "lm_head.bias", [| c.VocabularySize |] ]
            @ linear "lm_head.dense" width width
            @ norm "lm_head.layer_norm" width
        | _ -> []

    /// True if the model has a pooler: the bare ones and BERT's classifier.
    let hasPooler (config: EncoderConfig) (head: Head) : bool =
        head = Head.None || (head = Head.Classifier && config.Family = Family.Bert)

    /// The layout of all parameters; the tied output table is the word table.
    let layout (c: EncoderConfig) (head: Head) : Layout =
        let p, width = prefix c head, c.HiddenSize

        Layout.create
            [ $"{p}embeddings.word_embeddings.weight", [| c.VocabularySize; width |]
              $"{p}embeddings.position_embeddings.weight", [| c.Positions; width |]
              $"{p}embeddings.token_type_embeddings.weight", [| c.TokenTypes; width |]
              yield! norm $"{p}embeddings.LayerNorm" width
              for i in 0 .. c.Layers - 1 do
                  yield! layer c $"{p}encoder.layer.{i}"
              if hasPooler c head then
                  yield! linear $"{p}pooler.dense" width width
              yield! headParameters c head ]

    /// The class of transformers that has these parameters.
    let architecture (config: EncoderConfig) (head: Head) : string =
        let family = if config.Family = Family.Bert then "Bert" else "Roberta"

        match head with
        | Head.Classifier -> family + "ForSequenceClassification"
        | Head.MaskedLanguageModel -> family + "ForMaskedLM"
        | _ -> family + "Model"

    let private isNorm (name: string) =
        name.EndsWith "LayerNorm.weight" || name.EndsWith "layer_norm.weight"

    /// First values of a parameter, as transformers draws them: N(0, initializer_range²); norms 1; biases and the rows
    /// of pads 0.
    let initialise (c: EncoderConfig) (generator: torch.Generator) (name: string) (view: Tensor) : unit =
        Scope.run (fun _ ->
            let view = view.detach ()

            if isNorm name then
                view.fill_ (Scalar.op_Implicit 1.0) |> ignore
            elif name.EndsWith ".bias" then
                view.zero_ () |> ignore
            else
                let drawn =
                    torch.randn (view.shape, dtype = torch.float32, generator = generator)
                    * c.InitializerRange

                view.copy_ drawn |> ignore

                if
                    name.EndsWith "word_embeddings.weight"
                    || (c.Family = Family.Roberta && name.EndsWith "position_embeddings.weight")
                then
                    view.narrow(0L, c.PadTokenId, 1L).zero_ () |> ignore)

    /// Values of a layer behind the last that averages: attention to every token alike, with so large an output that the layer norm
    /// behind the residual sees the mean alone, and nothing in the dense parts. The head's own dense part starts at the
    /// identity. Null: of another part.
    let averaging (c: EncoderConfig) (head: Head) (name: string) : Tensor =
        let layer = $"{prefix c head}encoder.layer.{c.Layers - 1}."
        let heads = [ prefix c head + "pooler.dense."; "classifier.dense." ]

        let part =
            layer :: heads
            |> List.tryFind name.StartsWith
            |> Option.map (fun start -> name[start.Length ..])

        match part with
        | None -> null
        | Some "attention.self.value.weight" -> torch.eye c.HiddenSize * 1e3
        | Some("attention.output.dense.weight" | "weight") -> torch.eye c.HiddenSize
        | Some own when isNorm own -> torch.ones c.HiddenSize
        | Some("intermediate.dense.weight") -> torch.zeros (c.IntermediateSize, c.HiddenSize)
        | Some("output.dense.weight") -> torch.zeros (c.HiddenSize, c.IntermediateSize)
        | Some own when own.EndsWith ".weight" -> torch.zeros (c.HiddenSize, c.HiddenSize)
        | Some "intermediate.dense.bias" -> torch.zeros c.IntermediateSize
        | Some _ -> torch.zeros c.HiddenSize

    /// The view of a flat vector that a slice names; borrowed.
    let view (vector: Tensor) (slice: Slice) : Tensor =
        vector.narrow(0L, slice.Offset, slice.Length).view slice.Shape

    /// A flat vector's views by name.
    let views (layout: Layout) (vector: Tensor) : Dictionary<string, Tensor> =
        Dictionary(layout.Slices |> Seq.map (fun s -> KeyValuePair(s.Name, view vector s)))
