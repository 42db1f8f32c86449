namespace Sama

open System.Collections.Generic

/// The state of a rule: steps taken, named tensors, and the states of the rules it is made of.
[<ReferenceEquality>]
type RuleState =
    { Count: int64
      Tensors: IReadOnlyDictionary<string, Tensor>
      Parts: IReadOnlyList<RuleState> }

    /// The tensor of that name.
    member state.Item
        with get (name: string): Tensor = state.Tensors[name]

    /// Every tensor of the state and its parts.
    member state.All: Tensor seq =
        seq {
            yield! state.Tensors.Values

            for part in state.Parts do
                yield! part.All
        }

/// The engine's twins of Step and Adapt, on the tensors' own storage. The bits of Step and Adapt, or within 4 ulps.
[<NoComparison; NoEquality>]
type internal InPlace =
    {
        /// advance state g θ out ↦ state′: out ← u; `out` may be g itself. With `advance` the state's tensors are
        /// overwritten and state′ holds them; without, the state is only read, and returned.
        Update: bool -> RuleState -> Tensor -> Tensor -> Tensor -> RuleState
        /// state g θ v: v ← (∂u/∂g)ᵀ v; all else is only read
        AdaptInto: RuleState -> Tensor -> Tensor -> Tensor -> unit
    }

/// A rule on a layout. `state` is the one before the step, in every function; all vectors are flat.
[<NoComparison; NoEquality>]
type BoundRule =
    internal
        {
            Init: Tensor -> RuleState
            /// state g θ ↦ u, next state
            Step: RuleState -> Tensor -> Tensor -> Tensor * RuleState
            /// state g θ v ↦ (∂u/∂g)ᵀ v, or why there is none
            Adapt: Result<RuleState -> Tensor -> Tensor -> Tensor -> Tensor, string>
            /// ∂u/∂g is diagonal
            Elementwise: bool
            InPlace: InPlace
        }

/// θ ← θ − u: a name, and what it is on a layout.
[<NoComparison; NoEquality>]
type UpdateRule =
    internal
        { Name: string
          Bind: Layout -> BoundRule }

    override rule.ToString() = rule.Name

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// States of rules.
module RuleState =

    /// Steps taken, named tensors, states of parts.
    let create (count: int64) (tensors: (string * Tensor) seq) (parts: RuleState seq) : RuleState =
        { Count = count
          Tensors = readOnlyDict tensors
          Parts = Array.ofSeq parts }

    /// The same state with every tensor changed.
    let rec map (f: Tensor -> Tensor) (state: RuleState) : RuleState =
        create state.Count [ for t in state.Tensors -> t.Key, f t.Value ] [ for part in state.Parts -> map f part ]

    /// Every tensor of a state and its parts.
    let tensors (state: RuleState) : Tensor list = List.ofSeq state.All

    let internal dispose (state: RuleState) =
        for tensor in tensors state do
            tensor.Dispose()

/// Update rules, made from a step and combined.
module UpdateRule =

    /// The rule on a layout.
    let bind (layout: Layout) (rule: UpdateRule) : BoundRule = rule.Bind layout

    let private overwrite (old: RuleState) (next: RuleState) =
        List.iter2 (fun (o: Tensor) (n: Tensor) -> o.copy_ n |> ignore) (RuleState.tensors old) (RuleState.tensors next)

    let rec private counted (old: RuleState) (next: RuleState) : RuleState =
        { old with
            Count = next.Count
            Parts = Seq.map2 counted old.Parts next.Parts |> Array.ofSeq }

    /// The twins of any rule, by its own operators.
    let private byOperators step adapt : InPlace =
        { Update =
            fun advance state g theta out ->
                Scope.run (fun _ ->
                    use _ = torch.no_grad ()
                    let (u: Tensor), next = step state g theta
                    out.copy_ u |> ignore

                    if advance then
                        overwrite state next
                        counted state next
                    else
                        state)
          AdaptInto =
            fun state g theta v ->
                match adapt with
                | Ok adapt -> Scope.run (fun _ -> v.copy_ (adapt state g theta v: Tensor) |> ignore)
                | Error reason -> invalidOp reason }

    let private bound init step adapt elementwise : BoundRule =
        { Init = init
          Step = step
          Adapt = adapt
          Elementwise = elementwise
          InPlace = byOperators step adapt }

    /// A rule from its step alone, `state g θ ↦ (u, next state)`; its adaptation is the derivative of that step.
    let create
        (name: string)
        (init: Tensor -> RuleState)
        (step: RuleState -> Tensor -> Tensor -> Tensor * RuleState)
        : UpdateRule =
        let adapt state g theta v =
            Autodiff.vjp (fun g -> fst (step state g theta)) g v

        { Name = name
          Bind = fun _ -> bound init step (Ok adapt) false }

    let private edit change (rule: UpdateRule) =
        { rule with Bind = rule.Bind >> change }

    /// The same rule with its adaptation in closed form: `state g θ v ↦ (∂u/∂g)ᵀ v`.
    let withAdaptation adapt rule : UpdateRule =
        edit (fun rule -> bound rule.Init rule.Step (Ok adapt) rule.Elementwise) rule

    /// The same rule, its ∂u/∂g known to be diagonal.
    let elementwise rule : UpdateRule =
        edit (fun bound -> { bound with Elementwise = true }) rule

    /// The same rule with kernels of its own for the engine.
    let internal withInPlace (inPlace: InPlace) rule : UpdateRule =
        edit (fun bound -> { bound with InPlace = inPlace }) rule

    /// The same rule, refused by methods that need an adaptation, for this reason.
    let withoutAdaptation reason rule : UpdateRule =
        edit (fun rule -> bound rule.Init rule.Step (Error reason) rule.Elementwise) rule

    let private adaptations (bound: BoundRule list) =
        let add rule all =
            Result.bind (fun all -> rule.Adapt |> Result.map (fun one -> one :: all)) all

        List.foldBack add bound (Ok [])

    /// u = (rₖ ∘ … ∘ r₁) g; its adaptation is J₁ᵀ … Jₖᵀ, each at its own input.
    let chain (rules: UpdateRule list) : UpdateRule =
        if rules.IsEmpty then
            invalidArg (nameof rules) "a chain needs at least one rule"

        let on (rules: BoundRule list) =
            let inputs (state: RuleState) g theta =
                (g, List.zip rules (List.ofSeq state.Parts))
                ||> List.mapFold (fun g (rule, s) ->
                    let u, next = rule.Step s g theta
                    (g, next), u)

            let init theta =
                RuleState.create 0L [] [ for rule in rules -> rule.Init theta ]

            let step (state: RuleState) g theta =
                let seen, u = inputs state g theta
                u, RuleState.create (state.Count + 1L) [] (List.map snd seen)

            let adapt =
                adaptations rules
                |> Result.map (fun adapts (state: RuleState) g theta v ->
                    let seen, _ = inputs state g theta
                    let stages = List.zip (List.map fst seen) (List.ofSeq state.Parts)
                    List.foldBack2 (fun adapt (input, s) v -> adapt s input theta v) adapts stages v)

            bound init step adapt (rules |> List.forall _.Elementwise)

        { Name = rules |> List.map _.Name |> String.concat " → "
          Bind = fun layout -> on (rules |> List.map (bind layout)) }

    /// Each parameter follows the first rule whose predicate its name satisfies. ArgumentException, when a level is
    /// made, for a parameter in no group and for a group without parameters.
    let groups (groups: ((string -> bool) * UpdateRule) list) : UpdateRule =
        let on (layout: Layout) =
            let owner name =
                match groups |> List.tryFindIndex (fun (belongs, _) -> belongs name) with
                | Some i -> i
                | None -> invalidArg (nameof groups) $"parameter '{name}' is in no group"

            let parts =
                [ for i, (_, rule) in List.indexed groups ->
                      if layout.Slices |> Seq.forall (fun slice -> owner slice.Name <> i) then
                          invalidArg (nameof groups) $"group {i} ({rule.Name}) has no parameter"

                      let own, gather = Layout.restrict (fun name -> owner name = i) layout
                      own, gather, bind own rule ]

            let scatter (pieces: Tensor list) =
                let named =
                    dict
                        [ for (own: Layout, _, _), piece in List.zip parts pieces do
                              for slice, part in Seq.zip own.Slices (piece.split (own.Lengths, 0L)) -> slice.Name, part ]

                torch.cat [| for slice in layout.Slices -> named[slice.Name] |]

            let zip (state: RuleState) = List.zip parts (List.ofSeq state.Parts)

            let init theta =
                RuleState.create 0L [] [ for _, gather, rule in parts -> rule.Init(gather theta) ]

            let step (state: RuleState) g theta =
                let us, next =
                    List.unzip [ for (_, gather, rule), s in zip state -> rule.Step s (gather g) (gather theta) ]

                scatter us, RuleState.create (state.Count + 1L) [] next

            let adapt =
                adaptations [ for _, _, rule in parts -> rule ]
                |> Result.map (fun adapts state g theta v ->
                    scatter
                        [ for adapt, ((_, gather, _), s) in List.zip adapts (zip state) ->
                              adapt s (gather g) (gather theta) (gather v) ])

            bound init step adapt (parts |> List.forall (fun (_, _, rule) -> rule.Elementwise))

        { Name = groups |> List.map (fun (_, rule) -> rule.Name) |> String.concat " | "
          Bind = on }
