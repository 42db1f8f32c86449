namespace Sama.Language

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// A BERT or RoBERTa encoder and its head, as functions of θ: one flat vector whose slices have transformers' names. It
/// owns the values that it starts from, and those that are frozen; θ itself belongs to whoever trains it. Passes may run on
/// several threads. Tensors that methods return belong to the caller's scope.
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
    static let owned (tensor: Tensor) : Tensor = tensor.DetachFromDisposeScope()

    /// A handle of its own on the same storage.
    static let shared (tensor: Tensor) : Tensor = owned (tensor.alias ())

    let prefix = Parameters.prefix config head

    let adapted =
        HashSet(
            if isNull lora then
                Seq.empty
            else
                Lora.targets full lora |> Seq.map (fun (name, _, _) -> name)
        )

    let weights (theta: Params) (training: bool) (attention: Attention) : Weights =
        ArgumentNullException.ThrowIfNull(theta, nameof theta)

        if theta.Layout.Length <> layout.Length then
            invalidArg (nameof theta) $"θ has {theta.Layout.Length} elements, this model's layout {layout.Length}"

        let constants = if isNull frozen then null else frozen.Like theta.Vector

        let find (name: string) : Tensor =
            if isNull constants then
                theta[name]
            else
                match constants.TryGetValue name with
                | true, found -> found
                | _ -> theta[name]

        { Config = config
          Prefix = prefix
          Find = find
          Adapter =
            fun name ->
                if adapted.Contains name then
                    ValueSome(struct (theta[Lora.nameA name], theta[Lora.nameB name]))
                else
                    ValueNone
          Scale = (if isNull lora then 0.0 else lora.Scale)
          AdapterDropout = (if isNull lora then 0.0 else lora.Dropout)
          Attention = attention
          Training = training }

    let require (wanted: Head) (what: string) =
        if head <> wanted then
            invalidOp $"{what} needs the head {wanted}, this model has {head}"

    let states (theta: Params) (batch: TokenBatch) (training: bool) : Weights * Tensor list =
        ArgumentNullException.ThrowIfNull(batch, nameof batch)
        let w = weights theta training attention
        w, Network.hiddenStates w ignore batch

    let last theta batch training : Weights * Tensor =
        let w, states = states theta batch training
        w, List.last states

    static member private ChooseHead(config: EncoderConfig, head: Nullable<Head>, labels: int) : Head =
        if head.HasValue then
            head.Value
        elif labels > 0 then
            Head.Classifier
        else
            match config.Architecture with
            | null -> Head.None
            | name when name.EndsWith "ForSequenceClassification" -> Head.Classifier
            | name when name.EndsWith "ForMaskedLM" -> Head.MaskedLanguageModel
            | _ -> Head.None

    static member private Labelled(config: EncoderConfig, labels: int, names: IReadOnlyList<string>) : EncoderConfig =
        if not (isNull names) then
            if labels <> 0 && labels <> names.Count then
                invalidArg (nameof labels) $"{labels} labels, but {names.Count} names of labels"

            config.WithLabels names
        elif labels < 0 then
            invalidArg (nameof labels) $"{labels} labels"
        elif labels = 0 || labels = config.Labels.Count then
            config
        else
            config.WithLabels [| for i in 0 .. labels - 1 -> $"LABEL_{i}" |]

    static member private All(config, head, full, vector, report, folder) =
        new Encoder(config, head, full, full, vector, null, null, Attention.Fused, report, folder)

    /// Reads a Hugging Face folder: config.json, and model.safetensors or its shards (F32, F64, F16 or BF16). `head`
    /// (default: a classifier where `labels` or `labelNames` are given, else what config.json's `architectures` says) may be
    /// one that the folder has not: what is missing is drawn by `seed` and listed in the report. `resetHead` draws it anew
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
        let config = Encoder.Labelled(read, labels, labelNames)

        let wanted = if isNull labelNames then labels else labelNames.Count
        let head = Encoder.ChooseHead(config, head, wanted)

        if dtype <> torch.ScalarType.Float32 && dtype <> torch.ScalarType.Float64 then
            invalidArg (nameof dtype) $"θ is float32 or float64, not {dtype}"

        let full = Parameters.layout config head
        let vector, report = Checkpoint.load folder config full seed resetHead dtype
        Encoder.All(config, head, full, owned vector, report, folder)

    /// A model of new weights, drawn by `seed`, float32. The caller disposes it.
    static member Create
        (config: EncoderConfig, head: Head, [<Optional; DefaultParameterValue(0L)>] seed: int64)
        : Encoder =
        Config.check (fun why -> ArgumentException(why, nameof config)) config
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

        Encoder.All(config, head, full, owned vector, report, null)

    /// What config.json says, with the labels that were asked for.
    member _.Config = config

    /// What follows the encoder.
    member _.Head = head

    /// Names and shapes in θ.
    member _.Layout = layout

    /// Names and shapes of the whole model, frozen parts included.
    member _.FullLayout = full

    /// The values that training starts from, over `Layout`; borrowed.
    member _.Initial = initial

    /// Which parameters were read, which were drawn, which tensors of the folder are unused.
    member _.Report = report

    /// The adapters; null without.
    member _.Lora = lora

    /// How attention is computed.
    member _.Attention = attention

    /// Names and views of the initial values, for a level; borrowed, they live as long as the model's values.
    member _.Parameters: IReadOnlyList<struct (string * Tensor)> =
        [| for slice in layout.Slices -> struct (slice.Name, Parameters.view initial slice) |]

    /// θ for a pass that needs no gradient of it: views of a vector over `Layout`. Null: the initial values.
    member _.At([<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor) : Params =
        Params.frozen layout (if isNull vector then initial else vector)

    /// Embeddings, then the output of each layer, [rows, tokens, hidden] each.
    member _.HiddenStates
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : IReadOnlyList<Tensor> =
        snd (states theta batch training) |> Array.ofList :> IReadOnlyList<_>

    /// The output of the last layer: [rows, tokens, hidden].
    member _.LastHiddenState
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        snd (last theta batch training)

    /// Attention probabilities of each layer, [rows, heads, tokens, tokens], without dropout; computed plainly.
    member _.Attentions(theta: Params, batch: TokenBatch) : IReadOnlyList<Tensor> =
        ArgumentNullException.ThrowIfNull(batch, nameof batch)
        let seen = ResizeArray<Tensor>()

        Network.hiddenStates (weights theta false Attention.Plain) seen.Add batch
        |> ignore

        seen

    /// tanh(W h₀ + b) of the first token: [rows, hidden]. InvalidOperationException if the model has no pooler.
    member _.Pooled
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        if not (Parameters.hasPooler config head) then
            invalidOp $"a {config.Family} model with the head {head} has no pooler"

        last theta batch training ||> Network.pooled

    /// Sentence vectors: the mean of the last layer over the tokens that take part, of unit length if `normalise`:
    /// [rows, hidden].
    member _.Embedding
        (
            theta: Params,
            batch: TokenBatch,
            [<Optional; DefaultParameterValue(false)>] training: bool,
            [<Optional; DefaultParameterValue(true)>] normalise: bool
        ) : Tensor =
        let mean = Network.mean batch (snd (last theta batch training))

        if normalise then
            mean
            / mean.norm(1, true, 2f).clamp_min (Scalar.op_Implicit (torch.finfo(mean.dtype).tiny: float))
        else
            mean

    /// Logits: [rows, labels] of a classifier, [rows, tokens, vocabulary] of a masked language model.
    /// InvalidOperationException without a head.
    member _.Logits
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        match head with
        | Head.Classifier -> last theta batch training ||> Network.classify
        | Head.MaskedLanguageModel -> last theta batch training ||> Network.vocabulary
        | _ -> invalidOp "the model has no head, hence no logits: load it with labels or a head"

    /// Log probabilities of the classes: [rows, labels].
    member model.LogProbabilities
        (theta: Params, batch: TokenBatch, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        require Head.Classifier "a row's log probabilities"
        torch.nn.functional.log_softmax (model.Logits(theta, batch, training), 1L)

    /// Cross entropies. Of a classifier, with labels [rows] (int64): [rows]. Of a masked language model, with labels
    /// [rows, tokens] and -100 where there is none: of the labelled positions in row-major order. ArgumentException for
    /// labels of another shape or type.
    member _.Losses
        (theta: Params, batch: TokenBatch, labels: Tensor, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        let rows = batch.InputIds.shape

        let expected =
            if head = Head.MaskedLanguageModel then
                rows
            else
                [| rows[0] |]

        if labels.dtype <> torch.ScalarType.Int64 || labels.shape <> expected then
            let shown (shape: int64[]) = String.Join("x", shape)

            invalidArg
                (nameof labels)
                $"the labels are {labels.dtype} [{shown labels.shape}], int64 [{shown expected}] are expected"

        let crossEntropy (logits: Tensor) (labels: Tensor) =
            torch.nn.functional.cross_entropy (logits, labels, reduction = torch.nn.Reduction.None)

        match head with
        | Head.Classifier -> crossEntropy (last theta batch training ||> Network.classify) labels
        | Head.MaskedLanguageModel ->
            let w, hidden = last theta batch training
            let flat = labels.reshape -1L
            let at = flat.ne(Scalar.op_Implicit -100L).nonzero().reshape -1L
            let picked = hidden.reshape(-1L, config.HiddenSize).index_select (0L, at)
            crossEntropy (Network.vocabulary w picked) (flat.index_select (0L, at))
        | _ -> invalidOp "the model has no head, hence no losses: load it with labels or a head"

    /// The mean of `Losses`, 0-D; NaN where there is no label at all.
    member model.Loss
        (theta: Params, batch: TokenBatch, labels: Tensor, [<Optional; DefaultParameterValue(false)>] training: bool)
        : Tensor =
        model.Losses(theta, batch, labels, training).mean ()

    /// The same model with attention computed the other way; the values are shared. The caller disposes it.
    member _.WithAttention(attention: Attention) : Encoder =
        let kept =
            if isNull frozen then
                null
            else
                new Frozen(frozen.Layout, shared frozen.Vector)

        new Encoder(config, head, full, layout, shared initial, kept, lora, attention, report, folder)

    /// The same model with parameters frozen at the initial values: constants outside θ. Names are those of `Layout`. The
    /// caller disposes it. ArgumentException if nothing or everything is to be frozen; InvalidOperationException with
    /// adapters, which freeze what they adapt.
    member _.Freeze(belongs: Func<string, bool>) : Encoder =
        ArgumentNullException.ThrowIfNull(belongs, nameof belongs)

        if not (isNull lora) then
            invalidOp "a model with adapters has frozen what they adapt already"

        let keeps, still =
            layout.Slices
            |> List.ofSeq
            |> List.partition (fun s -> not (belongs.Invoke s.Name))

        if keeps.IsEmpty then
            invalidArg (nameof belongs) "every parameter would be frozen: there is nothing to train"

        if still.IsEmpty then
            invalidArg (nameof belongs) "no parameter's name belongs: nothing would be frozen"

        let gather (slices: Slice list) =
            Layout.create [ for s in slices -> s.Name, s.Shape ],
            [ for s in slices -> struct (s.Name, Parameters.view initial s) ]

        let trained, trainedValues = gather keeps
        let constant, constantValues = gather still

        let before =
            if isNull frozen then
                []
            else
                [ for s in frozen.Layout.Slices -> struct (s.Name, Parameters.view frozen.Vector s) ]

        let ravel values =
            owned (Layout.ravel [ for struct (name, value) in values -> name, value ])

        let constant =
            if before.IsEmpty then
                constant
            else
                Layout.create [ for struct (name, value) in constantValues @ before -> name, value.shape ]

        Scope.run (fun _ ->
            let frozen = new Frozen(constant, ravel (constantValues @ before))
            new Encoder(config, head, full, trained, ravel trainedValues, frozen, null, attention, report, folder))

    /// The same model with the embeddings and the first `layers` layers frozen.
    member model.FreezeLayers(layers: int) : Encoder =
        if layers < 0 || layers > config.Layers then
            invalidArg (nameof layers) $"{layers} layers of {config.Layers} are to be frozen"

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
        let own = Lora.layout full head options
        let modules = Lora.trained head options
        use generator = new torch.Generator(uint64 seed)

        Scope.run (fun _ ->
            let theta = torch.empty ([| own.Length |], dtype = initial.dtype)
            let values = Parameters.views full initial

            for slice in own.Slices do
                let view = Parameters.view theta slice

                match values.TryGetValue slice.Name with
                | true, value -> view.copy_ value |> ignore
                | _ -> Lora.initialise generator slice.Name view

            let rest =
                [ for s in full.Slices do
                      if not (Lora.isTrained modules s.Name) then
                          s.Name, values[s.Name] ]

            let frozen = new Frozen(Layout.ofNamed rest, owned (Layout.ravel rest))
            new Encoder(config, head, full, own, owned theta, frozen, options, attention, report, folder))

    /// The same model with the adapters of a folder that PEFT or `SaveAdapter` wrote. FileNotFoundException;
    /// InvalidDataException naming file and tensor or key.
    member model.LoadAdapter(adapterFolder: string) : Encoder =
        let options = Adapter.readOptions adapterFolder

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
        let theta = if isNull vector then initial else vector

        if theta.shape <> [| layout.Length |] then
            invalidArg (nameof vector) $"θ has {theta.numel ()} elements, this model's layout {layout.Length}"

        Scope.tensor (fun () ->
            let theta = theta.detach().cpu ()
            let own = Parameters.views layout theta

            let constants = if isNull frozen then Dictionary() else frozen.Like theta

            let value (slice: Slice) : Tensor =
                let dense =
                    if slice.Name.EndsWith ".weight" then
                        slice.Name.Substring(0, slice.Name.Length - ".weight".Length)
                    else
                        ""

                let plain =
                    match own.TryGetValue slice.Name with
                    | true, found -> found
                    | _ -> constants[slice.Name]

                if adapted.Contains dense then
                    plain + own[Lora.nameB dense].mm (own[Lora.nameA dense]) * lora.Scale
                else
                    plain

            Layout.ravel [ for slice in full.Slices -> slice.Name, value slice ])

    /// Writes an ordinary Hugging Face folder that transformers loads: config.json, model.safetensors (or shards of at most
    /// `shardBytes`) with adapters merged in, and the tokenizer's files of `tokenizerFolder` (null: of the folder that was
    /// read, if one was). `vector`: θ; null: the initial values. The folder is made if it is not there.
    member model.Save
        (
            folder: string,
            [<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor,
            [<Optional; DefaultParameterValue(null: string)>] tokenizerFolder: string,
            [<Optional; DefaultParameterValue(Int64.MaxValue)>] shardBytes: int64
        ) : unit =
        ArgumentException.ThrowIfNullOrEmpty(folder, nameof folder)
        use merged = model.Merge vector
        Directory.CreateDirectory folder |> ignore
        Checkpoint.save folder full merged shardBytes
        model.CopyTokenizer(tokenizerFolder, folder)
        config.Write(folder, Parameters.architecture config head)

    /// Writes the adapters and trained modules alone, as PEFT does: adapter_model.safetensors, adapter_config.json and the
    /// tokenizer's files. InvalidOperationException without adapters.
    member model.SaveAdapter
        (
            folder: string,
            [<Optional; DefaultParameterValue(null: Tensor)>] vector: Tensor,
            [<Optional; DefaultParameterValue(null: string)>] tokenizerFolder: string
        ) : unit =
        ArgumentException.ThrowIfNullOrEmpty(folder, nameof folder)

        if isNull lora then
            invalidOp "the model has no adapters: save it whole"

        let theta = if isNull vector then initial else vector

        if theta.shape <> [| layout.Length |] then
            invalidArg (nameof vector) $"θ has {theta.numel ()} elements, this model's layout {layout.Length}"

        Directory.CreateDirectory folder |> ignore
        Adapter.save folder model.Folder head lora layout theta
        model.CopyTokenizer(tokenizerFolder, folder)

    member internal _.Folder = folder

    member private _.CopyTokenizer(source: string, target: string) =
        let source = if isNull source then folder else source

        if not (isNull source) then
            Checkpoint.copyTokenizer source target

    interface IDisposable with
        /// Frees the initial and the frozen values.
        member _.Dispose() =
            initial.Dispose()

            if not (isNull frozen) then
                (frozen :> IDisposable).Dispose()
