namespace Sama.Language

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// A BERT or RoBERTa encoder and its head. It owns the values that it starts from, and those that are frozen; θ itself
/// belongs to whoever trains it.
[<Sealed; AllowNullLiteral>]
type Encoder
    internal
    (
        config: EncoderConfig,
        head: Head,
        full: Layout,
        layout: Layout,
        initial: Tensor,
        frozen: Frozen,
        lora: LoraOptions,
        attention: Attention,
        report: LoadReport,
        folder: string
    ) =
    inherit EncoderFunctions(config, head, full, layout, initial, frozen, lora, attention)

    static let all config head full vector report folder =
        new Encoder(config, head, full, full, Derived.owned vector, null, null, Attention.Fused, report, folder)

    /// ObjectDisposedException once it is disposed.
    let values () : Tensor =
        ObjectDisposedException.ThrowIf(initial.IsInvalid, typeof<Encoder>)
        initial

    let theta (vector: Tensor) : Tensor =
        let vector = if isNull vector then values () else vector

        if vector.shape <> [| layout.Length |] then
            invalidArg (nameof vector) $"θ has {vector.numel ()} elements, this model's layout {layout.Length}"

        vector

    /// Before anything is written: what copies the tokenizer's files.
    let tokenizerCopy (source: string) : string -> unit =
        if not (isNull source) then
            Sama.Language.Checkpoint.requireTokenizer source

        match (if isNull source then folder else source) with
        | null -> ignore
        | source -> Sama.Language.Checkpoint.copyTokenizer source

    /// Reads a Hugging Face folder: config.json, and model.safetensors or its shards (F32, F64, F16 or BF16). `head`
    /// (default: a classifier where `labels` or `labelNames` are given, else what config.json's `architectures` says) may be
    /// one that the folder has not: what is missing of head or pooler is drawn by `seed` and listed in the report. `resetHead` draws it anew
    /// anyway, as for another number of labels. θ is float32 (every stored type up to it exactly) or float64. The caller
    /// disposes it. FileNotFoundException; InvalidDataException naming file and key or tensor.
    static member Load
        (
            folder: string,
            [<Optional; DefaultParameterValue(0)>] labels: int,
            [<Optional; DefaultParameterValue(null: IReadOnlyList<string>)>] labelNames: IReadOnlyList<string>,
            [<Optional; DefaultParameterValue(Nullable<Head>())>] head: Nullable<Head>,
            [<Optional; DefaultParameterValue(false)>] resetHead: bool,
            [<Optional; DefaultParameterValue(0L)>] seed: int64,
            [<Optional; DefaultParameterValue(torch.ScalarType.Float32)>] dtype: torch.ScalarType
        ) : Encoder =
        let read = EncoderConfig.Read folder
        let config = Derived.labelled read labels labelNames

        let wanted = if isNull labelNames then labels else labelNames.Count
        let head = Derived.chooseHead config head wanted

        if dtype <> torch.ScalarType.Float32 && dtype <> torch.ScalarType.Float64 then
            invalidArg (nameof dtype) $"θ is float32 or float64, not {dtype}"

        let full = Parameters.layout config head

        let vector, report =
            Sama.Language.Checkpoint.load folder config full seed resetHead dtype

        all config head full vector report folder

    /// A model of new weights, drawn by `seed`, float32. The caller disposes it.
    static member Create
        (config: EncoderConfig, head: Head, [<Optional; DefaultParameterValue(0L)>] seed: int64)
        : Encoder =
        ArgumentNullException.ThrowIfNull(config, nameof config)
        Config.check (fun why -> ArgumentException(why, nameof config)) config
        Derived.checkHead head
        let full = Parameters.layout config head
        use generator = new torch.Generator(uint64 seed)

        let vector =
            Scope.tensor (fun () ->
                let vector = torch.empty ([| full.Length |], dtype = torch.ScalarType.Float32)

                for slice in full.Slices do
                    Parameters.initialise config generator slice.Name (Parameters.view vector slice)

                vector)

        let report =
            { Loaded = [||]
              NewlyInitialised = [| for slice in full.Slices -> slice.Name |]
              Unused = [||] }

        all config head full vector report null

    /// Which parameters were read, which were drawn, which tensors of the folder are unused.
    member _.Report = report

    /// The same model with attention computed the other way; the values are shared. The caller disposes it.
    member _.WithAttention(attention: Attention) : Encoder =
        let kept =
            if isNull frozen then
                null
            else
                new Frozen(frozen.Layout, Derived.shared frozen.Vector)

        new Encoder(config, head, full, layout, Derived.shared (values ()), kept, lora, attention, report, folder)

    /// A model whose head reads the mean over the tokens, layer-normed, instead of the first token's vector: one layer more, which
    /// attends to every token alike, and a head that starts at the identity. It is an ordinary model, so that what `Save`
    /// writes is computed by transformers alike. For encoders made for sentence vectors, whose pooler is not trained, and
    /// for few rows. The caller disposes it. InvalidOperationException on a model that is frozen in part or adapted, and on a masked language model.
    member _.WithMeanPooling() : Encoder =
        if not (isNull lora && isNull frozen) then
            invalidOp "mean pooling goes onto a whole model, not onto one that is frozen in part or has adapters"

        if head = Head.MaskedLanguageModel then
            invalidOp "a masked language model reads every token: there is nothing to pool"

        let longer =
            { config with
                Layers = config.Layers + 1 }

        let full, values = Derived.averaging longer head full (values ())
        new Encoder(longer, head, full, full, values, null, null, attention, report, folder)

    /// The same model with parameters frozen at the initial values: constants outside θ. Names are those of `Layout`. The
    /// caller disposes it. ArgumentException if nothing or everything is to be frozen; InvalidOperationException with
    /// adapters, which freeze what they adapt.
    member _.Freeze(belongs: Func<string, bool>) : Encoder =
        ArgumentNullException.ThrowIfNull(belongs, nameof belongs)

        if not (isNull lora) then
            invalidOp "a model with adapters has frozen what they adapt already"

        let trained, values, constants =
            Derived.freeze belongs.Invoke layout (values ()) frozen

        new Encoder(config, head, full, trained, values, constants, null, attention, report, folder)

    /// The same model with the embeddings and the first `layers` layers frozen.
    member model.FreezeLayers(layers: int) : Encoder =
        if layers < 0 || layers > config.Layers then
            invalidArg (nameof layers) $"{layers} layers of {config.Layers} are to be frozen"

        let prefix = Parameters.prefix config head

        let within =
            (prefix + "embeddings.")
            :: [ for i in 0 .. layers - 1 -> $"{prefix}encoder.layer.{i}." ]

        model.Freeze(fun name -> within |> List.exists name.StartsWith)

    /// The same model with low-rank adapters: θ is the adapters and the trained modules (the classifier) alone, everything
    /// else is frozen at the initial values. A is drawn by `seed`, B is 0: the function is unchanged. The caller disposes
    /// it. ArgumentException for targets or modules that do not exist; InvalidOperationException on a model that is frozen
    /// in part or adapted.
    member _.WithLora
        (
            [<Optional; DefaultParameterValue(null: LoraOptions)>] options: LoraOptions,
            [<Optional; DefaultParameterValue(0L)>] seed: int64
        ) : Encoder =
        if not (isNull lora && isNull frozen) then
            invalidOp "adapters go onto a whole model, not onto one that is frozen in part or has some"

        let options = if isNull options then LoraOptions() else options
        let own, values, constants = Derived.adapt full (values ()) head options seed
        new Encoder(config, head, full, own, values, constants, options, attention, report, folder)

    /// The same model with the adapters of a folder that PEFT or `SaveAdapter` wrote. FileNotFoundException;
    /// InvalidDataException naming file and tensor or key.
    member model.LoadAdapter(adapterFolder: string) : Encoder =
        let options = Adapter.readOptions full adapterFolder

        let adapted =
            try
                model.WithLora options
            with :? ArgumentException as e ->
                raise (InvalidDataException($"'{adapterFolder}' does not fit the model: {e.Message}", e))

        try
            Adapter.load adapterFolder adapted.Layout adapted.Initial
            adapted
        with _ ->
            (adapted :> IDisposable).Dispose()
            reraise ()

    /// The whole model's values over `FullLayout`: θ and what is frozen, adapters added to what they adapt. `vector` null:
    /// the initial values. The caller disposes it.
    member _.Merge([<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor) : Tensor =
        Derived.merge full layout frozen lora (theta vector)

    /// Writes an ordinary Hugging Face folder that transformers loads: config.json, model.safetensors (or shards of at most
    /// `shardBytes`) with adapters merged in, and the tokenizer's files of `tokenizerFolder` (null: of the folder that was
    /// read, if one was). `vector`: θ; null: the initial values. The folder is made if it is not there.
    /// FileNotFoundException for a `tokenizerFolder` without any.
    member model.Save
        (
            target: string,
            [<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor,
            [<Optional; DefaultParameterValue(null: string)>] tokenizerFolder: string,
            [<Optional; DefaultParameterValue(Int64.MaxValue)>] shardBytes: int64
        ) : unit =
        ArgumentException.ThrowIfNullOrEmpty(target, nameof target)

        if shardBytes < 1L then
            invalidArg (nameof shardBytes) $"shards of {shardBytes} bytes"

        let copyTokenizer = tokenizerCopy tokenizerFolder
        use merged = model.Merge vector
        Directory.CreateDirectory target |> ignore
        Sama.Language.Checkpoint.save target full merged shardBytes
        copyTokenizer target

        let dtype =
            if merged.dtype = torch.ScalarType.Float64 then
                "float64"
            else
                "float32"

        config.Write(target, Parameters.architecture config head, dtype)

    /// Writes the adapters and trained modules alone, as PEFT does: adapter_model.safetensors, adapter_config.json and the
    /// tokenizer's files. InvalidOperationException without adapters; else as `Save`.
    member _.SaveAdapter
        (
            target: string,
            [<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor,
            [<Optional; DefaultParameterValue(null: string)>] tokenizerFolder: string
        ) : unit =
        ArgumentException.ThrowIfNullOrEmpty(target, nameof target)

        if isNull lora then
            invalidOp "the model has no adapters: save it whole"

        let theta, copyTokenizer = theta vector, tokenizerCopy tokenizerFolder
        Directory.CreateDirectory target |> ignore
        Adapter.save target folder head lora layout theta
        copyTokenizer target

    interface IDisposable with
        /// Frees the initial and the frozen values.
        member _.Dispose() =
            initial.Dispose()

            if not (isNull frozen) then
                (frozen :> IDisposable).Dispose()
