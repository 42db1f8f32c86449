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
          Parts = false
          Groups = ""
          InPlace = byOperators name step byGradient
          Learned = []
          At = fun _ -> invalidOp $"rule '{name}' learns no option"
          Sharded = None }

    /// The rule with its state split among ranks, or why it cannot be.
    let sharded (shards: Shards) (rule: BoundRule) : Result<BoundRule, string> =
        match rule.Sharded with
        | Some split -> split shards
        | None when rule.Elementwise ->
            (if shards.IsTrial then
                 ShardedRule.requireAlike rule
             else
                 Ok())
            |> Result.map (fun () -> ShardedRule.ofElementwise shards rule)
        | None -> Error "it couples coordinates (or is not known to be elementwise: UpdateRule.elementwise)"

    /// The rule as it is on every rank: it has no state that could be split, and what it is given is whole.
    let stateless (rule: BoundRule) : BoundRule =
        { rule with
            Sharded = Some(fun _ -> Ok rule) }

    /// The rule at values of its learned options.
    let at (values: Tensor list) (rule: BoundRule) : BoundRule =
        if rule.Learned.IsEmpty then rule else rule.At values

    /// The rule with its changes, which are made at all values of learned options.
    let rec changed (change: BoundRule -> BoundRule) (rule: BoundRule) : BoundRule =
        { change rule with
            Learned = rule.Learned
            At = rule.At >> changed change
            Sharded = Some(fun shards -> sharded shards rule |> Result.map (changed change)) }

    /// A rule made of rules, at all values of their learned options.
    let rec composed (make: BoundRule list -> BoundRule) (rules: BoundRule list) : BoundRule =
        let at (values: Tensor list) =
            let own, _ =
                (values, rules)
                ||> List.mapFold (fun rest rule ->
                    let own, behind = List.splitAt rule.Learned.Length rest
                    at own rule, behind)

            composed make own

        let split shards =
            let add rule all =
                Result.bind (fun all -> sharded shards rule |> Result.map (fun one -> one :: all)) all

            List.foldBack add rules (Ok []) |> Result.map (composed make)

        { make rules with
            Learned = rules |> List.collect _.Learned
            At = at
            Sharded = Some split }

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
