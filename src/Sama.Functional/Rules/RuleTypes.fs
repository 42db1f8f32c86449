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

/// The ranks among which a rule's state is split: of a vector of n numbers, rank r of R has those from n·r/R to n·(r + 1)/R.
[<NoComparison; NoEquality>]
type internal Shards =
    {
        Rank: int
        Size: int
        /// of rank r, elements bounds[r] to bounds[r + 1] on every rank, in their places
        Gather: Tensor -> int64[] -> unit
        /// true if it is true on every rank
        All: bool -> bool
        /// rules are tried out: whether they step a part as they step the whole
        IsTrial: bool
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
            /// Take gives of parts of its vectors the parts of what it gives of the whole
            Parts: bool
            /// which parameters its parts have, as a text; empty if each has all
            Groups: string
            InPlace: InPlace
            /// the options that are learned, those of its parts in their order; outside a run they have their fixed numbers
            Learned: Learned list
            /// the rule at values of these options, one each: 0-D, or one number a coordinate. In a graph of theirs, u and
            /// the next state are
            At: Tensor list -> BoundRule
            /// the rule with its state split among ranks, or why it cannot be; none: as a whole that has no parts, if it is
            /// elementwise
            Sharded: (Shards -> Result<BoundRule, string>) option
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
