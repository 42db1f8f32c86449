namespace Sama.Language

open System.Collections.Generic
open TorchSharp
open Sama
open Sama.Functional

/// Models made of others: what is trained, what is frozen, and both together again.
module internal Derived =

    /// A tensor that outlives every scope.
    let owned (tensor: Tensor) : Tensor = tensor.DetachFromDisposeScope()

    /// A handle of its own on the same storage.
    let shared (tensor: Tensor) : Tensor = owned (tensor.alias ())

    let private layoutOf (named: (string * Tensor) list) : Layout =
        Layout.create [ for name, value in named -> name, value.shape ]

    let private named (layout: Layout) (vector: Tensor) : (string * Tensor) list =
        [ for slice in layout.Slices -> slice.Name, Parameters.view vector slice ]

    /// Copies of the values, one behind the other.
    let private ravel (values: (string * Tensor) list) : Tensor = owned (Layout.ravel values)

    /// θ and the constants when some of θ is frozen as well. ArgumentException for none or all of it.
    let freeze
        (belongs: string -> bool)
        (layout: Layout)
        (initial: Tensor)
        (frozen: Frozen)
        : Layout * Tensor * Frozen =
        Scope.run (fun _ ->
            let still, trained =
                named layout initial |> List.partition (fun (name, _) -> belongs name)

            if trained.IsEmpty then
                invalidArg (nameof belongs) "every parameter would be frozen: there is nothing to train"

            if still.IsEmpty then
                invalidArg (nameof belongs) "no parameter's name belongs: nothing would be frozen"

            let before =
                if isNull frozen then
                    []
                else
                    named frozen.Layout frozen.Vector

            let constants = still @ before
            layoutOf trained, ravel trained, new Frozen(layoutOf constants, ravel constants))

    /// θ and the constants of a whole model that gets adapters.
    let adapt
        (full: Layout)
        (initial: Tensor)
        (head: Head)
        (options: LoraOptions)
        (seed: int64)
        : Layout * Tensor * Frozen =
        let own, modules = Lora.layout full head options, Lora.trained head options
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
                named full initial
                |> List.filter (fun (name, _) -> not (Lora.isTrained modules name))

            own, owned theta, new Frozen(layoutOf rest, ravel rest))

    /// All values, of θ and of the constants, W + (alpha/rank) B A where there is an adapter; the caller's scope's.
    let merge (full: Layout) (layout: Layout) (frozen: Frozen) (lora: LoraOptions) (theta: Tensor) : Tensor =
        let adapted = Lora.names full lora

        Scope.tensor (fun () ->
            let theta = theta.detach().cpu ()
            let own = Parameters.views layout theta

            let constants = if isNull frozen then Dictionary() else frozen.Like theta

            let value (name: string) : Tensor =
                let plain =
                    match own.TryGetValue name with
                    | true, found -> found
                    | _ -> constants[name]

                match Lora.denseOf name with
                | dense when adapted.Contains dense ->
                    plain + own[Lora.nameB dense].mm (own[Lora.nameA dense]) * lora.Scale
                | _ -> plain

            Layout.ravel [ for slice in full.Slices -> slice.Name, value slice.Name ])

    /// Layout and values of a whole model with a layer behind its last that averages.
    let averaging (config: EncoderConfig) (head: Head) (full: Layout) (initial: Tensor) : Layout * Tensor =
        let layout = Parameters.layout config head
        let values = Parameters.views full initial

        Scope.run (fun _ ->
            let value (name: string) : Tensor =
                match Parameters.averaging config head name with
                | null -> values[name]
                | made -> made.``to`` initial.dtype

            layout, ravel [ for slice in layout.Slices -> slice.Name, value slice.Name ])

    /// ArgumentException for a number that is no head's.
    let checkHead (head: Head) : unit =
        if not (System.Enum.IsDefined head) then
            invalidArg (nameof head) $"{int head} is no head"

    /// The head that is asked for: by itself, by labels, or by what config.json says.
    let chooseHead (config: EncoderConfig) (head: System.Nullable<Head>) (labels: int) : Head =
        if head.HasValue then
            checkHead head.Value
            head.Value
        elif labels > 0 then
            Head.Classifier
        else
            match config.Architecture with
            | null -> Head.None
            | name when name.EndsWith "ForSequenceClassification" -> Head.Classifier
            | name when name.EndsWith "ForMaskedLM" -> Head.MaskedLanguageModel
            | _ -> Head.None

    /// The config with so many labels (0: its own), or with those names (null: none given).
    let labelled (config: EncoderConfig) (labels: int) (names: IReadOnlyList<string>) : EncoderConfig =
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
