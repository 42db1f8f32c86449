namespace Sama.Language

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// Low-rank adapters (Hu et al., 2022): a dense part W x becomes W x + (alpha/rank) B A x with W frozen, A of
/// [rank, inputs] and B of [outputs, rank]. ArgumentException for a rank below 1, an alpha that is not above 0, a dropout
/// outside [0, 1), or no target.
[<Sealed; AllowNullLiteral>]
type LoraOptions
    (
        [<Optional; DefaultParameterValue(8)>] rank: int,
        [<Optional; DefaultParameterValue(16.0)>] alpha: float,
        [<Optional; DefaultParameterValue(0.0)>] dropout: float,
        [<Optional; DefaultParameterValue(null: IReadOnlyList<string>)>] targets: IReadOnlyList<string>,
        [<Optional; DefaultParameterValue(null: IReadOnlyList<string>)>] trained: IReadOnlyList<string>
    ) =
    let targets: IReadOnlyList<string> =
        if isNull targets then
            [| "query"; "value" |]
        else
            Array.ofSeq targets

    do
        if rank < 1 then
            invalidArg (nameof rank) $"the rank is {rank}, at least 1 is expected"

        if not (Double.IsFinite alpha) || alpha <= 0.0 then
            invalidArg (nameof alpha) $"alpha is {alpha}, a number above 0 is expected"

        if not (dropout >= 0.0 && dropout < 1.0) then
            invalidArg (nameof dropout) $"the dropout is {dropout}, a share from 0 to below 1 is expected"

        if targets.Count = 0 then
            invalidArg (nameof targets) "there is no target: name the dense parts to adapt, like query and value"

    /// Rows of A, columns of B.
    member _.Rank = rank

    /// The adapter counts alpha/rank times.
    member _.Alpha = alpha

    /// Share dropped of an adapter's input while training.
    member _.Dropout = dropout

    /// The last words of the names of the dense parts that are adapted; query and value by default.
    member _.Targets = targets

    /// The words of modules that are trained as they are; null: the classifier, where there is one.
    member _.Trained: IReadOnlyList<string> =
        if isNull trained then null else Array.ofSeq trained

    member internal _.Scale = alpha / float rank

/// Names of adapters in θ, and what they add.
module internal Lora =

    let nameA (dense: string) = dense + ".lora_A.weight"
    let nameB (dense: string) = dense + ".lora_B.weight"

    /// As PEFT: the whole name or its last words.
    let private belongs (name: string) (words: string seq) =
        words |> Seq.exists (fun word -> name = word || name.EndsWith("." + word))

    /// The dense part that a weight belongs to; "" for what is none.
    let denseOf (weight: string) : string =
        if weight.EndsWith ".weight" then
            weight.Substring(0, weight.Length - ".weight".Length)
        else
            ""

    /// The dense parts that the options adapt: name, inputs, outputs. ArgumentException for a target that is none.
    let targets (full: Layout) (options: LoraOptions) : (string * int64 * int64) list =
        let dense =
            [ for slice in full.Slices do
                  if
                      slice.Shape.Length = 2
                      && slice.Name.EndsWith ".weight"
                      && not (slice.Name.Contains "embeddings.")
                  then
                      denseOf slice.Name, slice.Shape[1], slice.Shape[0] ]

        for word in options.Targets do
            if not (dense |> List.exists (fun (name, _, _) -> belongs name [ word ])) then
                let known =
                    dense
                    |> List.map (fun (name, _, _) -> name.Substring(name.LastIndexOf '.' + 1))
                    |> List.distinct
                    |> String.concat ", "

                invalidArg "options" $"no dense part's name ends in '{word}'; there are: {known}"

        dense |> List.filter (fun (name, _, _) -> belongs name options.Targets)

    /// Names of the dense parts that have an adapter; none without options.
    let names (full: Layout) (options: LoraOptions) : HashSet<string> =
        if isNull options then
            HashSet()
        else
            HashSet(targets full options |> List.map (fun (name, _, _) -> name))

    /// The modules that are trained as they are, of a model with that head.
    let trained (head: Head) (options: LoraOptions) : string list =
        match options.Trained, head with
        | null, Head.Classifier -> [ "classifier" ]
        | null, _ -> []
        | given, _ -> List.ofSeq given

    /// True if a parameter lies in one of the modules.
    let isTrained (modules: string list) (name: string) : bool =
        modules
        |> List.exists (fun word -> name.StartsWith(word + ".") || name.Contains("." + word + "."))

    /// The layout of θ: A and B of every adapted part, then what is trained as it is. ArgumentException for a trained
    /// module that does not exist, or that is adapted as well.
    let layout (full: Layout) (head: Head) (options: LoraOptions) : Layout =
        let rank, modules = int64 options.Rank, trained head options
        let adapted = targets full options

        for word in modules do
            if not (full.Slices |> Seq.exists (fun s -> isTrained [ word ] s.Name)) then
                invalidArg "options" $"the model has no module '{word}' to train"

        for name, _, _ in adapted do
            if isTrained modules (name + ".weight") then
                invalidArg "options" $"'{name}' is both adapted and trained as it is"

        Layout.create
            [ for name, inputs, outputs in adapted do
                  nameA name, [| rank; inputs |]
                  nameB name, [| outputs; rank |]
              for slice in full.Slices do
                  if isTrained modules slice.Name then
                      slice.Name, slice.Shape ]

    /// A ~ U(−1/√inputs, 1/√inputs) as PEFT draws it, B = 0: at first the adapters add nothing.
    let initialise (generator: torch.Generator) (name: string) (view: Tensor) : unit =
        Scope.run (fun _ ->
            if name.EndsWith ".lora_B.weight" then
                view.zero_ () |> ignore
            else
                let bound = 1.0 / sqrt (float view.shape[1])
                let drawn = torch.rand (view.shape, dtype = torch.float32, generator = generator)
                view.copy_ ((drawn * 2.0 - 1.0) * bound) |> ignore)
