namespace Sama.Functional

open TorchSharp
open Sama

/// A level's last step, before it is written: where it was evaluated, what it saw, and where it leads.
[<NoComparison; NoEquality>]
type internal LevelStep =
    {
        /// the rule at the values of its learned options
        Rule: BoundRule
        /// the passes of its micro-batches
        Micros: Micro list
        /// θ and the rule's state before it
        Theta: Tensor
        State: RuleState
        /// g, or a middle level's total hypergradient
        Gradient: Tensor
        /// ∂L/∂λ of the base pass itself, or null
        LambdaGradient: Tensor
        /// θₜ, formed again if its vector was lent
        After: unit -> Tensor
        /// a vector to overwrite, until `After` is called
        Scratch: unit -> Tensor
        /// (∂u/∂g)ᵀ on v's own storage
        AdaptInPlace: Tensor -> unit
        /// the steps that led here, this one included; null unless asked for
        Window: OpenWindow
        /// what the level's method kept of the meta step before; null for nothing
        Kept: Tensor
    }

module internal LevelStep =

    /// A step at values of its own, in the caller's scope.
    let at (rule: BoundRule) (theta: Tensor) (state: RuleState) (gradient: Tensor) (micros: Micro list) : LevelStep =
        let after =
            lazy
                (use _ = torch.no_grad ()
                 let u, _ = rule.Take state gradient theta
                 theta - u)

        { Rule = rule
          Micros = micros
          Theta = theta
          State = state
          Gradient = gradient
          LambdaGradient = null
          After = fun () -> after.Value
          Scratch = fun () -> torch.empty_like theta
          AdaptInPlace = fun v -> v.copy_ (rule.Adapt state gradient theta v) |> ignore
          Window = null
          Kept = null }

    /// The Jacobians of the rule at the step; `options` is the rule as a function of λ, none if it
    /// learns nothing.
    let jacobians (lambda: Tensor) (options: (Tensor -> BoundRule) option) (step: LevelStep) : IRuleJacobians =
        let rule = step.Rule

        let ofOptions (derivative: (Tensor -> Tensor) -> Tensor -> Tensor -> Tensor) (absent: Tensor -> Tensor) x =
            match options with
            | Some rule -> derivative (fun l -> fst ((rule l).Take step.State step.Gradient step.Theta)) lambda x
            | None -> absent x

        let at product v =
            Scope.tensor (fun () -> product step.State step.Gradient step.Theta v)

        let byGradient () =
            match rule.ByGradient with
            | Ok jacobian -> jacobian
            | Error reason -> invalidOp reason

        { new IRuleJacobians with
            member _.Elementwise = rule.Elementwise
            // by the run's own kernels: the operators of a rule like Adam hold twenty vectors at once
            member _.Adapt v =
                let own = v.clone ()
                step.AdaptInPlace own
                own

            member _.AdaptInPlace v = step.AdaptInPlace v
            member _.AdaptForward w = at (byGradient ()).Push w
            member _.Decay v = at rule.ByTheta.Pull v
            member _.DecayForward w = at rule.ByTheta.Push w
            member _.LearnsOptions = options.IsSome

            member _.OptionsVjp v =
                ofOptions Autodiff.vjp (fun _ -> torch.zeros_like lambda) v

            member _.OptionsJvp d =
                ofOptions Autodiff.jvp (fun _ -> torch.zeros_like step.Theta) d }

    /// What the level's method kept, 0 at first.
    let memory (step: LevelStep) : IMethodMemory =
        { new IMethodMemory with
            member _.Kept =
                if isNull step.Kept then
                    torch.zeros_like step.Theta
                else
                    step.Kept }
