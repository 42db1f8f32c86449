namespace Sama

open System.Collections.Generic

/// The state of a rule: steps taken, named tensors, and the states of the rules it is made of.
[<ReferenceEquality>]
type RuleState =
    {
        /// steps taken
        Count: int64
        /// by name, flat unless a rule says otherwise
        Tensors: IReadOnlyDictionary<string, Tensor>
        /// states of the rules that the rule is made of, in their order
        Parts: IReadOnlyList<RuleState>
    }

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

/// The engine's twins of Step and Adapt, on the tensors' own storage: the same operations in the same order, so the
/// same bits, but that libtorch's square root may be the neighbour of the nearest number. Each operation behind the root
/// adds at most an ulp, products and quotients those of both sides: elementwise rules agree within 5 ulps of u, 11 of
/// the state and 13 of the adaptation, each of its largest term.
[<NoComparison; NoEquality>]
type internal InPlace =
    {
        /// advance state g θ out ↦ state′: out ← u; `out` may be g itself. With `advance` the state's tensors are
        /// overwritten and state′ holds them; without, the state is only read, and returned. What `advance` holds is
        /// called with u, if `Asks`, before anything is overwritten, and may throw.
        Update: (Tensor -> unit) option -> RuleState -> Tensor -> Tensor -> Tensor -> RuleState
        /// θ ↦ true if u may be non-finite where g and the state are not, or is known before it is written
        Asks: Tensor -> bool
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

/// θ ← θ − u: a name, what it is on a layout, and how a schedule multiplies its rate where that is not u times a number.
[<NoComparison; NoEquality>]
type UpdateRule =
    internal
        { Name: string
          Bind: Layout -> BoundRule
          Rescale: ((int64 -> float) -> UpdateRule) option }

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

    /// No step taken, no tensors.
    let empty: RuleState = create 0L [] []

    /// The state of a rule without tensors after one more step.
    let internal counted (state: RuleState) : RuleState = { state with Count = state.Count + 1L }

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
    let internal byOperators step adapt : InPlace =
        { Update =
            fun advance state g theta out ->
                Scope.run (fun _ ->
                    use _ = torch.no_grad ()
                    let (u: Tensor), next = step state g theta

                    advance |> Option.iter (fun check -> check u)
                    out.copy_ u |> ignore

                    if advance.IsSome then
                        overwrite state next
                        counted state next
                    else
                        state)
          Asks = fun _ -> true
          AdaptInto =
            fun state g theta v ->
                match adapt with
                | Ok adapt -> Scope.run (fun _ -> v.copy_ (adapt state g theta v: Tensor) |> ignore)
                | Error reason -> invalidOp reason }

    let internal bound init step adapt elementwise : BoundRule =
        { Init = init
          Step = step
          Adapt = adapt
          Elementwise = elementwise
          InPlace = byOperators step adapt }

    let internal ofBind (name: string) (bind: Layout -> BoundRule) : UpdateRule =
        { Name = name
          Bind = bind
          Rescale = None }

    /// A rule from its step alone, `state g θ ↦ (u, next state)`; its adaptation is the derivative of that step.
    let create
        (name: string)
        (init: Tensor -> RuleState)
        (step: RuleState -> Tensor -> Tensor -> Tensor * RuleState)
        : UpdateRule =
        let adapt state g theta v =
            Autodiff.vjp (fun g -> fst (step state g theta)) g v

        ofBind name (fun _ -> bound init step (Ok adapt) false)

    let private edit change (rule: UpdateRule) = ofBind rule.Name (rule.Bind >> change)

    /// The same rule with its adaptation in closed form: `state g θ v ↦ (∂u/∂g)ᵀ v`.
    let withAdaptation adapt rule : UpdateRule =
        edit (fun rule -> bound rule.Init rule.Step (Ok adapt) rule.Elementwise) rule

    /// The same rule, its ∂u/∂g known to be diagonal.
    let elementwise rule : UpdateRule =
        edit (fun bound -> { bound with Elementwise = true }) rule

    /// The same rule, whose u is finite where its gradient is.
    let internal total rule : UpdateRule =
        edit
            (fun bound ->
                { bound with
                    InPlace =
                        { bound.InPlace with
                            Asks = fun _ -> false } })
            rule

    /// The same rule, refused by methods that need an adaptation, for this reason.
    let withoutAdaptation reason rule : UpdateRule =
        edit (fun rule -> bound rule.Init rule.Step (Error reason) rule.Elementwise) rule

    let private scaledOutput (schedule: int64 -> float) (rule: BoundRule) : BoundRule =
        let factor (state: RuleState) = schedule state.Count

        { rule with
            Step =
                fun state g theta ->
                    let u, next = rule.Step state g theta
                    u * factor state, next
            Adapt =
                rule.Adapt
                |> Result.map (fun adapt state g theta v -> adapt state g theta (v * factor state))
            InPlace =
                { rule.InPlace with
                    Update =
                        fun advance state g theta out ->
                            let next = rule.InPlace.Update advance state g theta out
                            out.mul_ (Number.scalar (factor state)) |> ignore
                            next
                    AdaptInto =
                        fun state g theta v ->
                            v.mul_ (Number.scalar (factor state)) |> ignore
                            rule.InPlace.AdaptInto state g theta v } }

    /// The rule with its rate multiplied by `schedule t`, t from 0: u ↦ schedule(t)·u, decoupled decay included, as
    /// torch's schedulers do. Rules whose update is not proportional to their rate (Adafactor's is a minimum, ASGD's
    /// decays) take it as their rate does; a chain hands it to its last rule, groups to each, `project` inside.
    let scheduled (schedule: int64 -> float) (rule: UpdateRule) : UpdateRule =
        match rule.Rescale with
        | Some rescale -> rescale schedule
        | None -> ofBind rule.Name (rule.Bind >> scaledOutput schedule)

    let private adaptations (bound: BoundRule list) =
        let add rule all =
            Result.bind (fun all -> rule.Adapt |> Result.map (fun one -> one :: all)) all

        List.foldBack add bound (Ok [])

    /// Parts that step one after the other, each in place; by operators, all parts before any is overwritten, where one
    /// that is not the first would ask.
    let private inParts step adapt (parts: BoundRule list) update adaptInto : InPlace =
        let whole = byOperators step adapt

        let asks (theta: Tensor) =
            parts.Tail |> List.exists _.InPlace.Asks(theta)

        { Update =
            fun advance state g (theta: Tensor) out ->
                if asks theta then
                    whole.Update advance state g theta out
                else
                    Scope.run (fun _ -> update advance state g theta out)
          Asks = fun theta -> parts |> List.exists _.InPlace.Asks(theta)
          AdaptInto = fun state g theta v -> Scope.run (fun _ -> adaptInto state g theta v) }

    let private withParts (state: RuleState) (parts: RuleState seq) =
        { state with
            Count = state.Count + 1L
            Parts = Array.ofSeq parts }

    let private boundChain (rules: BoundRule list) : BoundRule =
        let stages (state: RuleState) = List.zip rules (List.ofSeq state.Parts)

        let inputs (state: RuleState) g theta =
            (g, stages state)
            ||> List.mapFold (fun g (rule, s) ->
                let u, next = rule.Step s g theta
                (g, next), u)

        let init theta =
            RuleState.create 0L [] [ for rule in rules -> rule.Init theta ]

        let step (state: RuleState) g theta =
            let seen, u = inputs state g theta
            u, withParts state (List.map snd seen)

        let adapt =
            adaptations rules
            |> Result.map (fun adapts (state: RuleState) g theta v ->
                let seen, _ = inputs state g theta
                let stages = List.zip (List.map fst seen) (List.ofSeq state.Parts)
                List.foldBack2 (fun adapt (input, s) v -> adapt s input theta v) adapts stages v)

        let update advance (state: RuleState) g theta (out: Tensor) =
            let next, _ =
                (g, stages state)
                ||> List.mapFold (fun input (rule, s) -> rule.InPlace.Update advance s input theta out, out)

            if advance.IsSome then withParts state next else state

        // the inputs of the stages are recomputed; the state is only read
        let adaptInto (state: RuleState) (g: Tensor) theta v =
            let all = stages state

            let inputs =
                (g, all[.. all.Length - 2])
                ||> List.scan (fun input (rule, s) ->
                    let output = torch.empty_like input
                    rule.InPlace.Update None s input theta output |> ignore
                    output)

            List.foldBack2 (fun (rule, s) input () -> rule.InPlace.AdaptInto s input theta v) all inputs ()

        { bound init step adapt (rules |> List.forall _.Elementwise) with
            InPlace = inParts step adapt rules update adaptInto }

    /// u = (rₖ ∘ … ∘ r₁) g; its adaptation is J₁ᵀ … Jₖᵀ, each at its own input. ArgumentException for no rule.
    let rec chain (rules: UpdateRule list) : UpdateRule =
        if rules.IsEmpty then
            invalidArg (nameof rules) "a chain needs at least one rule"

        let first, last = List.splitAt (rules.Length - 1) rules

        { Name = rules |> List.map _.Name |> String.concat " → "
          Bind = fun layout -> boundChain (rules |> List.map (bind layout))
          Rescale = Some(fun schedule -> chain (first @ List.map (scheduled schedule) last)) }

    let private boundGroups (layout: Layout) (parts: (Slices * BoundRule) list) : BoundRule =
        let rules = List.map snd parts
        let zip (state: RuleState) = List.zip parts (List.ofSeq state.Parts)

        let scatter pieces =
            Slices.scatter layout (List.zip (List.map fst parts) pieces)

        let init theta =
            RuleState.create 0L [] [ for slices, rule in parts -> rule.Init(slices.Gather theta) ]

        let step (state: RuleState) g theta =
            let us, next =
                List.unzip [ for (slices, rule), s in zip state -> rule.Step s (slices.Gather g) (slices.Gather theta) ]

            scatter us, withParts state next

        let adapt =
            adaptations rules
            |> Result.map (fun adapts state g theta v ->
                scatter
                    [ for adapt, ((slices, _), s) in List.zip adapts (zip state) ->
                          adapt s (slices.Gather g) (slices.Gather theta) (slices.Gather v) ])

        let update advance (state: RuleState) g theta out =
            let next =
                [ for (slices, rule), s in zip state ->
                      slices.Within out (rule.InPlace.Update advance s (slices.Gather g) (slices.Gather theta)) ]

            if advance.IsSome then withParts state next else state

        let adaptInto (state: RuleState) g theta v =
            for (slices, rule), s in zip state do
                slices.Within v (rule.InPlace.AdaptInto s (slices.Gather g) (slices.Gather theta))

        { bound init step adapt (rules |> List.forall _.Elementwise) with
            InPlace = inParts step adapt rules update adaptInto }

    /// Each parameter follows the first rule whose predicate its name satisfies. ArgumentException, when a level is
    /// made, for a parameter in no group and for a group without parameters.
    let rec groups (groups: ((string -> bool) * UpdateRule) list) : UpdateRule =
        let on (layout: Layout) =
            let owner name =
                match groups |> List.tryFindIndex (fun (belongs, _) -> belongs name) with
                | Some i -> i
                | None -> invalidArg (nameof groups) $"parameter '{name}' is in no group"

            boundGroups
                layout
                [ for i, (_, rule) in List.indexed groups ->
                      if layout.Slices |> Seq.forall (fun slice -> owner slice.Name <> i) then
                          invalidArg (nameof groups) $"group {i} ({rule.Name}) has no parameter"

                      let slices = Slices.named (fun name -> owner name = i) layout
                      slices, bind slices.Layout rule ]

        { Name = groups |> List.map (fun (_, rule) -> rule.Name) |> String.concat " | "
          Bind = on
          Rescale = Some(fun schedule -> rescaled schedule groups) }

    and private rescaled schedule each =
        groups [ for belongs, rule in each -> belongs, scheduled schedule rule ]
