namespace rec Sama.Language

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open System.Text.Json.Nodes
open Sama.Language.ConfigKeys

/// What config.json says of a BERT or RoBERTa encoder.
[<NoComparison>]
type EncoderConfig =
    {
        /// BERT or RoBERTa
        Family: Family
        /// rows of the word table
        VocabularySize: int64
        /// components of a token's vector
        HiddenSize: int64
        /// encoder layers
        Layers: int
        /// attention heads; they divide the hidden size
        Heads: int64
        /// components between a layer's two dense parts
        IntermediateSize: int64
        /// rows of the position table
        Positions: int64
        /// rows of the token-type table
        TokenTypes: int64
        /// between a layer's two dense parts
        Activation: Activation
        /// added to the variance, inside the root
        LayerNormEpsilon: float
        /// share dropped of embeddings and of dense outputs
        HiddenDropout: float
        /// share dropped of attention probabilities
        AttentionDropout: float
        /// share dropped of the classifier's input; null: HiddenDropout
        ClassifierDropout: Nullable<float>
        /// the id that fills short rows
        PadTokenId: int64
        /// standard deviation of new weights
        InitializerRange: float
        /// names of the classes in their order
        Labels: IReadOnlyList<string>
        /// the first of `architectures`, or null
        Architecture: string
        /// the json that was read, whose other keys are kept when it is written; null if there was none
        Source: string
    }

    /// transformers' defaults of a family: the base size, two labels.
    static member Default(family: Family) : EncoderConfig =
        { Family = family
          VocabularySize = (if family = Family.Bert then 30522L else 50265L)
          HiddenSize = 768L
          Layers = 12
          Heads = 12L
          IntermediateSize = 3072L
          Positions = 512L
          TokenTypes = 2L
          Activation = Activation.Gelu
          LayerNormEpsilon = 1e-12
          HiddenDropout = 0.1
          AttentionDropout = 0.1
          ClassifierDropout = Nullable()
          PadTokenId = (if family = Family.Bert then 0L else 1L)
          InitializerRange = 0.02
          Labels = [| "LABEL_0"; "LABEL_1" |]
          Architecture = null
          Source = null }

    /// The same with so many labels, named LABEL_0 on, or as given, of which a text has one (`problem_type` of another kind is
    /// left out). ArgumentException for no label, or a name given twice.
    member config.WithLabels(labels: IReadOnlyList<string>) : EncoderConfig =
        ArgumentNullException.ThrowIfNull(labels, nameof labels)

        if labels.Count = 0 then
            invalidArg (nameof labels) "a classifier has at least one label"

        for name, twice in labels |> Seq.countBy id do
            if isNull name then
                invalidArg (nameof labels) "a label is null"

            if twice > 1 then
                invalidArg (nameof labels) $"the label '{name}' is given {twice} times"

        { config with
            Labels = Array.ofSeq labels
            Source = ConfigKeys.ofOneLabel config.Source }

    /// The longest input: RoBERTa's positions begin behind the pad's.
    member config.MaximumTokens: int64 =
        match config.Family with
        | Family.Roberta -> config.Positions - config.PadTokenId - 1L
        | _ -> config.Positions

    /// Reads config.json of a folder; what is absent has transformers' defaults. FileNotFoundException if there is none;
    /// InvalidDataException naming file and key for a value that cannot be, and for models that are no BERT or RoBERTa
    /// encoder: decoders, cross attention, relative positions, untied output embeddings.
    static member Read(folder: string) : EncoderConfig =
        ArgumentException.ThrowIfNullOrEmpty(folder, nameof folder)
        Config.read (Path.Combine(folder, "config.json"))

    /// Writes config.json with the given architecture and type of the weights ("float32"), and every key that was read and
    /// is not known here.
    member config.Write
        (folder: string, architecture: string, [<Optional; DefaultParameterValue("float32")>] dtype: string)
        : unit =
        Sama.Functional.AtomicFile.write (Path.Combine(folder, "config.json")) (Config.bytes config architecture dtype)

/// config.json, read and written.
module internal Config =

    /// What config.json calls the kind of problem; null if it does not.
    let problem (config: EncoderConfig) : string =
        if isNull config.Source then
            null
        else
            ConfigKeys.problem config.Source

    /// What no encoder can be, as the error that `fail` makes of the reason.
    let check (fail: string -> exn) (config: EncoderConfig) : unit =
        for name, value in
            [ "vocabulary", config.VocabularySize
              "hidden size", config.HiddenSize
              "number of layers", int64 config.Layers
              "number of heads", config.Heads
              "intermediate size", config.IntermediateSize
              "number of positions", config.Positions
              "number of token types", config.TokenTypes ] do
            if value < 1L || value > int64 Int32.MaxValue then
                raise (fail $"a {name} of {value}")

        for name, value in
            [ "hidden dropout", config.HiddenDropout
              "attention dropout", config.AttentionDropout
              "classifier dropout", config.ClassifierDropout.GetValueOrDefault() ] do
            if not (value >= 0.0 && value < 1.0) then
                raise (fail $"a {name} of {value}: a share from 0 to below 1 is expected")

        for name, value in
            [ "layer norm's epsilon", config.LayerNormEpsilon
              "range of new weights", config.InitializerRange ] do
            if not (Double.IsFinite value && value >= 0.0) then
                raise (fail $"a {name} of {value}")

        if isNull config.Labels || config.Labels.Count = 0 then
            raise (fail "there are no labels")

        if config.PadTokenId < 0L then
            raise (fail $"the pad's id is {config.PadTokenId}")

        if config.HiddenSize % config.Heads <> 0L then
            raise (fail $"{config.Heads} heads do not divide a hidden size of {config.HiddenSize}")

        if config.PadTokenId >= config.VocabularySize then
            raise (fail $"the pad's id {config.PadTokenId} is not in a vocabulary of {config.VocabularySize}")

        if config.MaximumTokens < 1L then
            raise (fail $"{config.Positions} positions leave no room for a token")

    let read (path: string) : EncoderConfig =
        let json = Json.read path
        refuse path json

        if isNull (Json.tryGet json "model_type") then
            raise (Json.fail path "'model_type' is missing: bert or roberta is expected")

        let family = oneOf path json "model_type" "" families
        let usual = EncoderConfig.Default family
        let count = Json.count path json 1L

        let config =
            { usual with
                VocabularySize = count "vocab_size" usual.VocabularySize
                HiddenSize = count "hidden_size" usual.HiddenSize
                Layers = int (count "num_hidden_layers" (int64 usual.Layers))
                Heads = count "num_attention_heads" usual.Heads
                IntermediateSize = count "intermediate_size" usual.IntermediateSize
                Positions = count "max_position_embeddings" usual.Positions
                TokenTypes = count "type_vocab_size" usual.TokenTypes
                Activation = oneOf path json "hidden_act" "gelu" activations
                LayerNormEpsilon = Json.number path json "layer_norm_eps" usual.LayerNormEpsilon
                HiddenDropout = Json.share path json "hidden_dropout_prob" usual.HiddenDropout
                AttentionDropout = Json.share path json "attention_probs_dropout_prob" usual.AttentionDropout
                ClassifierDropout =
                    (if isNull (Json.tryGet json "classifier_dropout") then
                         Nullable()
                     else
                         Nullable(Json.share path json "classifier_dropout" 0.0))
                PadTokenId = Json.count path json 0L "pad_token_id" usual.PadTokenId
                InitializerRange = Json.number path json "initializer_range" usual.InitializerRange
                Labels = labels path json
                Architecture = Json.texts path json "architectures" |> List.tryHead |> Option.toObj
                Source = json.ToJsonString() }

        check (Json.fail path) config
        config

    /// The json of a config as transformers reads it.
    let bytes (config: EncoderConfig) (architecture: string) (dtype: string) : byte[] =
        let json =
            match config.Source with
            | null -> JsonObject()
            | source -> JsonNode.Parse(source).AsObject()

        set json "architectures" (JsonArray(text architecture))
        set json "model_type" (text (keyOf families config.Family))
        set json "vocab_size" (whole config.VocabularySize)
        set json "hidden_size" (whole config.HiddenSize)
        set json "num_hidden_layers" (whole (int64 config.Layers))
        set json "num_attention_heads" (whole config.Heads)
        set json "intermediate_size" (whole config.IntermediateSize)
        set json "max_position_embeddings" (whole config.Positions)
        set json "type_vocab_size" (whole config.TokenTypes)
        set json "layer_norm_eps" (number config.LayerNormEpsilon)
        set json "hidden_dropout_prob" (number config.HiddenDropout)
        set json "attention_probs_dropout_prob" (number config.AttentionDropout)
        set json "pad_token_id" (whole config.PadTokenId)
        set json "initializer_range" (number config.InitializerRange)

        // several names mean one activation: that of the file stays
        if
            isNull config.Source
            || (oneOf "" json "hidden_act" "gelu" activations) <> config.Activation
        then
            set json "hidden_act" (text (keyOf activations config.Activation))

        set
            json
            "classifier_dropout"
            (if config.ClassifierDropout.HasValue then
                 number config.ClassifierDropout.Value
             else
                 null)

        setLabels json config.Labels
        json.Remove "torch_dtype" |> ignore
        set json "dtype" (text dtype)
        Json.bytes json
