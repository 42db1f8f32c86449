namespace Sama.Functional

open TorchSharp
open Sama

/// Rules that step one after the other: u = (rₖ ∘ … ∘ r₁) g. With Jᵢ = ∂rᵢ/∂g at its own input, ∂u/∂g = Jₖ…J₁ and
/// ∂u/∂θ = Σ Jₖ…Jᵢ₊₁ ∂rᵢ/∂θ.
module internal Chain =

    let private stages (rules: BoundRule list) (state: RuleState) = List.zip rules (List.ofSeq state.Parts)

    /// Every stage's input and next state, and u.
    let private taken rules (state: RuleState) g theta =
        (g, stages rules state)
        ||> List.mapFold (fun g (rule, s) ->
            let u, next = rule.Take s g theta
            (g, next), u)

    /// Every stage's rule, state and input.
    let private inputs rules (state: RuleState) g theta =
        let seen, _ = taken rules state g theta
        List.map2 (fun (rule, s) (input, _) -> rule, s, input) (stages rules state) seen

    let private byGradient rules (jacobians: Jacobian list) : Jacobian =
        { Pull =
            fun state g theta v ->
                List.foldBack2
                    (fun j (_, s, input) v -> j.Pull s input theta v)
                    jacobians
                    (inputs rules state g theta)
                    v
          Push =
            fun state g theta w ->
                List.fold2 (fun w j (_, s, input) -> j.Push s input theta w) w jacobians (inputs rules state g theta) }

    let private byTheta rules (jacobians: Jacobian list) : Jacobian =
        { Pull =
            fun state g theta v ->
                List.foldBack2
                    (fun j (rule, s, input) (total: Tensor, v) ->
                        total + rule.ByTheta.Pull s input theta v, j.Pull s input theta v)
                    jacobians
                    (inputs rules state g theta)
                    (torch.zeros_like v, v)
                |> fst
          Push =
            fun state g theta w ->
                List.fold2
                    (fun moved j (rule, s, input) -> j.Push s input theta moved + rule.ByTheta.Push s input theta w)
                    (torch.zeros_like w)
                    jacobians
                    (inputs rules state g theta) }

    /// Each stage in place; the inputs of the stages are recomputed where the state is only read.
    let private inPlace (rules: BoundRule list) : InPlace =
        let previews (state: RuleState) (g: Tensor) theta =
            (g, List.take (rules.Length - 1) (stages rules state))
            ||> List.scan (fun input (rule: BoundRule, s) ->
                let output = torch.empty_like input
                rule.InPlace.Preview s input theta output
                output)

        { Sound =
            fun state g theta ->
                Scope.tensor (fun () ->
                    List.map2
                        (fun (rule, s) input -> rule.InPlace.Sound s input theta)
                        (stages rules state)
                        (previews state g theta)
                    |> List.reduce (fun a b -> a.logical_and b))
          Preview =
            fun state g theta out ->
                (g, stages rules state)
                ||> List.fold (fun input (rule, s) ->
                    rule.InPlace.Preview s input theta out
                    out)
                |> ignore
          Advance =
            fun state g theta out ->
                let next, _ =
                    (g, stages rules state)
                    ||> List.mapFold (fun input (rule, s) -> rule.InPlace.Advance s input theta out, out)

                BoundRule.withParts state next
          AdaptInto =
            fun state g theta v ->
                Scope.run (fun _ ->
                    List.foldBack2
                        (fun (rule: BoundRule, s) input () -> rule.InPlace.AdaptInto s input theta v)
                        (stages rules state)
                        (previews state g theta)
                        ()) }

    let bind (name: string) (rules: BoundRule list) : BoundRule =
        let start theta =
            RuleState.create 0L [] [ for rule in rules -> rule.Start theta ]

        let step state g theta =
            let seen, u = taken rules state g theta
            u, BoundRule.withParts state (List.map snd seen)

        let jacobians = BoundRule.byGradients rules

        let ofTheta =
            match jacobians with
            | Ok all -> byTheta rules all
            | Error _ -> snd (BoundRule.differentiated step)

        let byGradient = jacobians |> Result.map (byGradient rules)

        { BoundRule.create name start step byGradient ofTheta (rules |> List.forall _.Elementwise) with
            Parts = rules |> List.forall _.Parts
            Groups = BoundRule.groupsOf rules
            InPlace = inPlace rules }
