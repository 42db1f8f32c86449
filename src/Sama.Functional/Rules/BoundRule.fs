namespace Sama

open System

/// A Jacobian of the rule's u at (state, g, θ), the state before the step.
[<NoComparison; NoEquality>]
type internal Jacobian =
    {
        /// state g θ v ↦ Jᵀ v
        Pull: RuleState -> Tensor -> Tensor -> Tensor -> Tensor
        /// state g θ w ↦ J w
        Push: RuleState -> Tensor -> Tensor -> Tensor -> Tensor
    }

/// The engine's twins of Step and Adapt, on the tensors' own storage: the same operations in the same order, so the
/// same bits, but that libtorch's square root may be the neighbour of the nearest number. Each operation behind the root
/// adds at most an ulp, products and quotients those of both sides: elementwise rules agree within 5 ulps of u, 11 of
/// the state and 13 of the adaptation, each of its largest term; rules without a root agree bit for bit.
[<NoComparison; NoEquality>]
type internal InPlace =
    {
        /// state g θ ↦ whether u and the next state are finite, 0-D; everything is only read
        Sound: RuleState -> Tensor -> Tensor -> Tensor
        /// state g θ out: out ← u, which may be g itself; the state is only read
        Preview: RuleState -> Tensor -> Tensor -> Tensor -> unit
        /// state g θ out ↦ state′: out ← u, the state's tensors are overwritten, and state′ holds them
        Advance: RuleState -> Tensor -> Tensor -> Tensor -> RuleState
        /// state g θ v: v ← (∂u/∂g)ᵀ v; all else is only read
        AdaptInto: RuleState -> Tensor -> Tensor -> Tensor -> unit
    }

/// An option of a rule that is given by an upper level's parameters.
[<NoComparison; NoEquality>]
type internal Learned =
    {
        Option: string
        /// null: of the level above
        Level: string
        Value: Params -> Tensor
    }

/// A rule on a layout: three pure functions of flat vectors, as in Optax. The state is the one before the step, in
/// every function.
[<NoComparison; NoEquality>]
type BoundRule =
    internal
        {
            Start: Tensor -> RuleState
            Take: RuleState -> Tensor -> Tensor -> Tensor * RuleState
            /// ∂u/∂g, or why there is none
            ByGradient: Result<Jacobian, string>
            /// ∂u/∂θ at fixed g: what a rule's decay makes of it
            ByTheta: Jacobian
            /// ∂u/∂g is diagonal
            Elementwise: bool
            /// which parameters its parts have, as a text; empty if each has all
            Groups: string
            InPlace: InPlace
            /// the options that are learned, those of its parts in their order; outside a run they have their fixed numbers
            Learned: Learned list
            /// the rule at values of these options, one each: 0-D, or one number a coordinate. In a graph of theirs, u and
            /// the next state are
            At: Tensor list -> BoundRule
        }

    /// The state at θ, before the first step; the caller owns its tensors.
    member rule.Init(theta: Tensor) : RuleState = rule.Start theta

    /// (state, g, θ) ↦ (u, next state), fresh tensors; nothing is written in place.
    member rule.Step (state: RuleState) (g: Tensor) (theta: Tensor) : Tensor * RuleState = rule.Take state g theta

    /// (state, g, θ, v) ↦ (∂u/∂g)ᵀ v, a fresh tensor. InvalidOperationException, with the reason, for a rule that has no
    /// adaptation.
    member rule.Adapt (state: RuleState) (g: Tensor) (theta: Tensor) (v: Tensor) : Tensor =
        match rule.ByGradient with
        | Ok jacobian -> jacobian.Pull state g theta v
        | Error reason -> raise (InvalidOperationException reason)

    /// The adaptation, or why there is none.
    member internal rule.Adaptation =
        rule.ByGradient |> Result.map (fun jacobian -> jacobian.Pull)

/// θ ← θ − u: a name, what it is on a layout, and how a schedule multiplies its rate where that is not u times a number.
[<NoComparison; NoEquality>]
type UpdateRule =
    internal
        {
            Name: string
            Bind: Layout -> BoundRule
            Rescale: ((int64 -> float) -> UpdateRule) option
            /// the rule with that option learned; ArgumentException if it has no such option
            Learn: Learned -> UpdateRule
        }

    override rule.ToString() = rule.Name

namespace Sama.Functional

open TorchSharp
open Sama

/// Rules on layouts from their parts.
module internal BoundRule =

    /// Both Jacobians of a step by automatic differentiation.
    let differentiated (step: RuleState -> Tensor -> Tensor -> Tensor * RuleState) : Jacobian * Jacobian =
        let byGradient state theta g = fst (step state g theta)
        let byTheta state g theta = fst (step state g theta)

        { Pull = fun state g theta v -> Autodiff.vjp (byGradient state theta) g v
          Push = fun state g theta w -> Autodiff.jvp (byGradient state theta) g w },
        { Pull = fun state g theta v -> Autodiff.vjp (byTheta state g) theta v
          Push = fun state g theta w -> Autodiff.jvp (byTheta state g) theta w }

    /// A diagonal Jacobian from its product with a vector.
    let diagonal (product: RuleState -> Tensor -> Tensor -> Tensor -> Tensor) : Jacobian =
        { Pull = product; Push = product }

    /// All entries of all tensors are finite, 0-D.
    let finite (tensors: Tensor list) : Tensor =
        tensors
        |> List.map (fun tensor -> tensor.isfinite().all ())
        |> List.reduce (fun a b -> a.logical_and b)

    let rec private counted (old: RuleState) (next: RuleState) : RuleState =
        { old with
            Count = next.Count
            Parts = Seq.map2 counted old.Parts next.Parts |> Array.ofSeq }

    /// The twins of any rule, by its own operators.
    let byOperators name step (byGradient: Result<Jacobian, string>) : InPlace =
        let pure' body =
            use _ = torch.no_grad ()
            body ()

        { Sound =
            fun state g theta ->
                Scope.tensor (fun () ->
                    pure' (fun () ->
                        let (u: Tensor), next = step state g theta
                        finite (u :: RuleState.tensors next)))
          Preview =
            fun state g theta out ->
                Scope.run (fun _ -> pure' (fun () -> out.copy_ (fst (step state g theta): Tensor) |> ignore))
          Advance =
            fun state g theta out ->
                Scope.run (fun _ ->
                    pure' (fun () ->
                        let (u: Tensor), next = step state g theta
                        let pairs = RuleState.pairs name state next
                        out.copy_ u |> ignore

                        for old, fresh in pairs do
                            old.copy_ fresh |> ignore

                        counted state next))
          AdaptInto =
            fun state g theta v ->
                match byGradient with
                | Ok jacobian -> Scope.run (fun _ -> v.copy_ (jacobian.Pull state g theta v) |> ignore)
                | Error reason -> invalidOp reason }

    let create name start step byGradient byTheta elementwise : BoundRule =
        { Start = start
          Take = step
          ByGradient = byGradient
          ByTheta = byTheta
          Elementwise = elementwise
          Groups = ""
          InPlace = byOperators name step byGradient
          Learned = []
          At = fun _ -> invalidOp $"rule '{name}' learns no option" }

    /// The rule at values of its learned options.
    let at (values: Tensor list) (rule: BoundRule) : BoundRule =
        if rule.Learned.IsEmpty then rule else rule.At values

    /// The rule with its changes, which are made at all values of learned options.
    let rec changed (change: BoundRule -> BoundRule) (rule: BoundRule) : BoundRule =
        { change rule with
            Learned = rule.Learned
            At = rule.At >> changed change }

    /// A rule made of rules, at all values of their learned options.
    let rec composed (make: BoundRule list -> BoundRule) (rules: BoundRule list) : BoundRule =
        let at (values: Tensor list) =
            let own, _ =
                (values, rules)
                ||> List.mapFold (fun rest rule ->
                    let own, behind = List.splitAt rule.Learned.Length rest
                    at own rule, behind)

            composed make own

        { make rules with
            Learned = rules |> List.collect _.Learned
            At = at }

    /// The Jacobians by g of several rules, or the first reason why there is none.
    let byGradients (rules: BoundRule list) : Result<Jacobian list, string> =
        let add rule all =
            Result.bind (fun all -> rule.ByGradient |> Result.map (fun one -> one :: all)) all

        List.foldBack add rules (Ok [])

    /// The texts of the rules that a rule is made of.
    let groupsOf (rules: BoundRule list) : string =
        rules |> List.map _.Groups |> List.filter ((<>) "") |> String.concat " → "

    /// The state of a rule made of parts, after one more step.
    let withParts (state: RuleState) (parts: RuleState seq) : RuleState =
        { state with
            Count = state.Count + 1L
            Parts = Array.ofSeq parts }
