namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Update rules, made from a step and combined.
module UpdateRule =

    /// The rule on a layout.
    let bind (layout: Layout) (rule: UpdateRule) : BoundRule = rule.Bind layout

    let internal ofBind (name: string) (bind: Layout -> BoundRule) : UpdateRule =
        { Name = name
          Bind = bind
          Rescale = None
          Learn = Learnable.nothing name }

    /// The step, which returns an update like the gradient and a state like the one before. InvalidOperationException if not.
    let private kept (name: string) (step: RuleState -> Tensor -> Tensor -> Tensor * RuleState) =
        let what = $"the step of rule '{name}'"

        fun (state: RuleState) (g: Tensor) (theta: Tensor) ->
            let u, next = Contract.run what (fun () -> step state g theta)

            for named, given in ("θ", theta) :: [ for t in state.All -> "its state", t ] do
                Contract.there what named given

            let u, next = Contract.like what "the gradient" g u, Contract.state what next
            RuleState.pairs name state next |> ignore
            u, next

    /// The step, whose first calls are watched: what it is given must be as it was. InvalidOperationException naming what
    /// it wrote, which is then put back.
    let private pure' (name: string) (step: RuleState -> Tensor -> Tensor -> Tensor * RuleState) =
        let watched = 8
        let mutable calls = 0

        fun (state: RuleState) (g: Tensor) (theta: Tensor) ->
            if calls >= watched || g.requires_grad || theta.requires_grad then
                step state g theta
            else
                calls <- calls + 1

                Scope.run (fun keep ->
                    let given =
                        ("its gradient", g) :: ("θ", theta) :: [ for t in state.All -> "its state", t ]

                    let before = [ for _, t in given -> t.detach().clone () ]
                    let u, next = step state g theta
                    let mutable wrote = null

                    for (what, now), old in List.zip given before do
                        if not (now.Equals old) && not (now.isnan().any().item<bool> ()) then
                            wrote <- what
                            now.copy_ old |> ignore

                    if not (isNull wrote) then
                        invalidOp
                            $"the step of rule '{name}' wrote {wrote} in place; it is a pure function: return new tensors (b * 0.9 + g, not b.mul_(0.9).add_(g))"

                    keep u, RuleState.map keep next)

    /// A rule from its step alone, `state g θ ↦ (u, next state)`; its Jacobians are the derivatives of that step. The
    /// state keeps the names, shapes and types of its tensors from step to step, and the update has those of the gradient.
    /// InvalidOperationException for a step that does not keep to that, that writes in place, or disposes what it is given.
    let create
        (name: string)
        (init: Tensor -> RuleState)
        (step: RuleState -> Tensor -> Tensor -> Tensor * RuleState)
        : UpdateRule =
        let step = kept name step
        let byGradient, byTheta = BoundRule.differentiated step

        let start theta =
            Contract.state $"the start of rule '{name}'" (init theta)

        ofBind name (fun _ -> BoundRule.create name start (pure' name step) (Ok byGradient) byTheta false)

    let private edit (change: BoundRule -> BoundRule) (rule: UpdateRule) =
        let change bound =
            let bound = change bound

            { bound with
                InPlace = BoundRule.byOperators rule.Name bound.Take bound.ByGradient }

        // what is said of the whole need not be true of its parts
        let split (bound: BoundRule) =
            if bound.Sharded.IsNone then
                None
            else
                Some(fun _ -> Error "its adaptation is given for the whole of its parts")

        ofBind rule.Name (fun layout ->
            let bound = rule.Bind layout

            { BoundRule.changed change bound with
                Sharded = split bound })

    /// The same rule with its adaptation in closed form: `state g θ v ↦ (∂u/∂g)ᵀ v`. InvalidOperationException when it
    /// returns something unlike v.
    let withAdaptation (adapt: RuleState -> Tensor -> Tensor -> Tensor -> Tensor) rule : UpdateRule =
        let what = $"the adaptation of rule '{rule.Name}'"

        let adapt state g theta (v: Tensor) =
            Contract.run what (fun () -> adapt state g theta v) |> Contract.like what "v" v

        edit
            (fun bound ->
                { bound with
                    ByGradient =
                        if bound.Elementwise then
                            Ok(BoundRule.diagonal adapt)
                        else
                            Ok
                                { fst (BoundRule.differentiated bound.Take) with
                                    Pull = adapt } })
            rule

    /// The same rule, its ∂u/∂g known to be diagonal.
    let elementwise rule : UpdateRule =
        edit
            (fun bound ->
                { bound with
                    Elementwise = true
                    ByGradient = bound.ByGradient |> Result.map (fun j -> BoundRule.diagonal j.Pull) })
            rule

    /// The same rule, its ∂u/∂g known to be symmetric.
    let internal symmetric rule : UpdateRule =
        edit
            (fun bound ->
                { bound with
                    ByGradient = bound.ByGradient |> Result.map (fun j -> BoundRule.diagonal j.Pull) })
            rule

    /// The same rule, refused by methods that need an adaptation, for this reason.
    let withoutAdaptation reason rule : UpdateRule =
        edit (fun bound -> { bound with ByGradient = Error reason }) rule

    let internal scaledOutput (schedule: int64 -> float) (rule: BoundRule) : BoundRule =
        let factor (state: RuleState) = schedule state.Count

        let scaled (jacobian: Jacobian) : Jacobian =
            { Pull = fun state g theta v -> jacobian.Pull state g theta (v * factor state)
              Push = fun state g theta w -> jacobian.Push state g theta w * factor state }

        { rule with
            Take =
                fun state g theta ->
                    let u, next = rule.Take state g theta
                    u * factor state, next
            ByGradient = rule.ByGradient |> Result.map scaled
            ByTheta = scaled rule.ByTheta
            InPlace =
                { rule.InPlace with
                    Preview =
                        fun state g theta out ->
                            rule.InPlace.Preview state g theta out
                            out.mul_ (Number.scalar (factor state)) |> ignore
                    Advance =
                        fun state g theta out ->
                            let by = factor state
                            let next = rule.InPlace.Advance state g theta out
                            out.mul_ (Number.scalar by) |> ignore
                            next
                    AdaptInto =
                        fun state g theta v ->
                            v.mul_ (Number.scalar (factor state)) |> ignore
                            rule.InPlace.AdaptInto state g theta v } }

    /// The rule with its rate multiplied by `schedule t`, t from 0: u ↦ schedule(t)·u, decoupled decay included, as
    /// torch's schedulers do. Rules whose update is not proportional to their rate (Adafactor's is a minimum, ASGD's
    /// decays) take it as their rate does; a chain hands it to its last rule, groups to each, `project` inside.
    /// InvalidOperationException, at its step, for a factor that is negative or not finite.
    let scheduled (schedule: int64 -> float) (rule: UpdateRule) : UpdateRule =
        let schedule t =
            let factor = schedule t

            if not (factor >= 0.0 && Double.IsFinite factor) then
                invalidOp
                    $"the schedule of rule '{rule.Name}' gives {factor} at step {t}; a factor is a finite number of at least 0"

            factor

        match rule.Rescale with
        | Some rescale -> rescale schedule
        | None -> ofBind rule.Name (rule.Bind >> BoundRule.changed (scaledOutput schedule))

    /// The rule, its option of that name learned: `value` gives it from the parameters of `level`, at every step. It is one
    /// number, one a parameter or one a coordinate (Meta-SGD); elementwise rules take the latter two. Its derivative
    /// ∂u/∂λ joins the hypergradient of that level. It stays in range by the function's own form (an exp, a sigmoid);
    /// outside a run the rule has its fixed number. Options are those of its options record that are numbers, but for what
    /// starts a state or counts steps; in chains and groups each rule learns its own. ArgumentException for an option that
    /// the rule does not have or that is learned already.
    let learningFrom (level: string) (option: string) (value: Params -> Tensor) (rule: UpdateRule) : UpdateRule =
        rule.Learn
            { Option = option
              Level = level
              Value = value }

    /// `learningFrom` the level above, of which there is one.
    let learning (option: string) (value: Params -> Tensor) (rule: UpdateRule) : UpdateRule =
        learningFrom null option value rule

    /// u = (rₖ ∘ … ∘ r₁) g; its adaptation is J₁ᵀ … Jₖᵀ, each at its own input. ArgumentException for no rule.
    let rec chain (rules: UpdateRule list) : UpdateRule =
        if rules.IsEmpty then
            invalidArg (nameof rules) "a chain needs at least one rule"

        let first, last = List.splitAt (rules.Length - 1) rules
        let name = rules |> List.map _.Name |> String.concat " → "

        { Name = name
          Bind = fun layout -> rules |> List.map (bind layout) |> BoundRule.composed (Chain.bind name)
          Rescale = Some(fun schedule -> chain (first @ List.map (scheduled schedule) last))
          Learn = Learnable.nothing name }

    /// Each parameter follows the first rule whose predicate its name satisfies. ArgumentException, when a level is
    /// made, for a parameter in no group and for a group without parameters.
    let rec groups (groups: ((string -> bool) * UpdateRule) list) : UpdateRule =
        let name = groups |> List.map (fun (_, rule) -> rule.Name) |> String.concat " | "

        let on (layout: Layout) =
            let owner name =
                match groups |> List.tryFindIndex (fun (belongs, _) -> belongs name) with
                | Some i -> i
                | None -> invalidArg (nameof groups) $"parameter '{name}' is in no group"

            let parts =
                [ for i, (_, rule) in List.indexed groups ->
                      if layout.Slices |> Seq.forall (fun slice -> owner slice.Name <> i) then
                          invalidArg (nameof groups) $"group {i} ({rule.Name}) has no parameter"

                      let slices = Slices.named (fun name -> owner name = i) layout
                      slices, bind slices.Layout rule ]

            List.map snd parts
            |> BoundRule.composed (fun rules -> Groups.bind name layout (List.zip (List.map fst parts) rules))

        { Name = name
          Bind = on
          Rescale = Some(fun schedule -> rescaled schedule groups)
          Learn = Learnable.nothing name }

    and private rescaled schedule each =
        groups [ for belongs, rule in each -> belongs, scheduled schedule rule ]
