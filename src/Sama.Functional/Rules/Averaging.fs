namespace Sama.Functional

open TorchSharp
open Sama

/// The moving average of MA-SOBA (Chen et al., Optimal Algorithms for Stochastic Bilevel Optimization under Relaxed Smoothness
/// Conditions, 2023).
[<AutoOpen>]
module AveragingRule =

    let private around (weight: float) (inner: BoundRule) : BoundRule =
        let start theta =
            RuleState.create 0L [ "average", torch.zeros_like theta ] [ inner.Start theta ]

        let step (state: RuleState) (g: Tensor) theta =
            let before = state["average"]
            let u, next = inner.Take state.Parts[0] before theta
            u, RuleState.create (state.Count + 1L) [ "average", before * (1.0 - weight) + g * weight ] [ next ]

        let reason =
            "its update is that of the gradients before the step, so that its derivative by this step's gradient is 0: averaging is for the level that moves last"

        { BoundRule.create "averaging" start step (Error reason) (snd (BoundRule.differentiated step)) inner.Elementwise with
            Groups = inner.Groups }

    /// The rule at h in the gradient's place, h the moving average of the gradients before this step, 0 at first; behind it
    /// h ← (1 − weight) h + weight g. Under `Hypergradient.soba` the rule of the upper level in MA-SOBA:
    /// `averaging weight (sgd rate)`. Its derivative by this step's gradient is 0: methods that need an adaptation refuse it
    /// as a base rule. State: average, and that of the rule. ArgumentException for a weight outside (0, 1].
    let rec averaging (weight: float) (rule: UpdateRule) : UpdateRule =
        if not (weight > 0.0 && weight <= 1.0) then
            invalidArg (nameof weight) $"weight is above 0 and at most 1, not {weight}"

        { Name = $"averaging → {rule.Name}"
          Bind = rule.Bind >> BoundRule.changed (around weight)
          Rescale = Some(fun schedule -> averaging weight (UpdateRule.scheduled schedule rule))
          Learn = rule.Learn >> averaging weight }
