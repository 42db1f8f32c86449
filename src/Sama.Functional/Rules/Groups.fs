namespace Sama.Functional

open TorchSharp
open Sama

/// Rules on disjoint slices that cover a layout.
module internal Groups =

    type private Part =
        { Slices: Slices
          Rule: BoundRule
          State: RuleState }

    let private zip (parts: (Slices * BoundRule) list) (state: RuleState) =
        List.map2
            (fun (slices, rule) s ->
                { Slices = slices
                  Rule = rule
                  State = s })
            parts
            (List.ofSeq state.Parts)

    /// A part's state says whose it is: two of equal shapes are told apart by it.
    let private owned (slices: Slices) (state: RuleState) : RuleState =
        { state with
            Parameters = [| for slice in slices.Layout.Slices -> slice.Name |] }

    /// A product with each part's own Jacobian.
    let private jacobian layout parts (product: BoundRule -> RuleState -> Tensor -> Tensor -> Tensor -> Tensor) =
        fun state (g: Tensor) (theta: Tensor) (v: Tensor) ->
            Slices.scatter
                layout
                [ for p in zip parts state ->
                      p.Slices, product p.Rule p.State (p.Slices.Gather g) (p.Slices.Gather theta) (p.Slices.Gather v) ]

    let private inPlace parts : InPlace =
        { Sound =
            fun state g theta ->
                Scope.tensor (fun () ->
                    [ for p in zip parts state ->
                          p.Rule.InPlace.Sound p.State (p.Slices.Gather g) (p.Slices.Gather theta) ]
                    |> List.reduce (fun a b -> a.logical_and b))
          Preview =
            fun state g theta out ->
                Scope.run (fun _ ->
                    for p in zip parts state do
                        p.Slices.Within
                            out
                            (p.Rule.InPlace.Preview p.State (p.Slices.Gather g) (p.Slices.Gather theta)))
          Advance =
            fun state g theta out ->
                Scope.run (fun _ ->
                    [ for p in zip parts state ->
                          p.Slices.Within
                              out
                              (p.Rule.InPlace.Advance p.State (p.Slices.Gather g) (p.Slices.Gather theta)) ]
                    |> BoundRule.withParts state)
          AdaptInto =
            fun state g theta v ->
                Scope.run (fun _ ->
                    for p in zip parts state do
                        p.Slices.Within
                            v
                            (p.Rule.InPlace.AdaptInto p.State (p.Slices.Gather g) (p.Slices.Gather theta))) }

    let bind (name: string) (layout: Layout) (parts: (Slices * BoundRule) list) : BoundRule =
        let rules = List.map snd parts

        let start theta =
            RuleState.create 0L [] [ for slices, rule in parts -> owned slices (rule.Start(slices.Gather theta)) ]

        let step (state: RuleState) (g: Tensor) (theta: Tensor) =
            let us, next =
                List.unzip
                    [ for p in zip parts state -> p.Rule.Take p.State (p.Slices.Gather g) (p.Slices.Gather theta) ]

            Slices.scatter layout (List.zip (List.map fst parts) us),
            BoundRule.withParts state (List.map2 (fun (slices, _) s -> owned slices s) parts next)

        let ofTheta: Jacobian =
            { Pull = jacobian layout parts _.ByTheta.Pull
              Push = jacobian layout parts _.ByTheta.Push }

        let byGradient =
            BoundRule.byGradients rules
            |> Result.map (fun _ ->
                let own (rule: BoundRule) =
                    match rule.ByGradient with
                    | Ok own -> own
                    | Error reason -> invalidOp reason

                { Pull = jacobian layout parts (fun rule -> (own rule).Pull)
                  Push = jacobian layout parts (fun rule -> (own rule).Push) })

        { BoundRule.create name start step byGradient ofTheta (rules |> List.forall _.Elementwise) with
            Groups =
                [ for slices, rule in parts do
                      let names =
                          slices.Layout.Slices
                          |> Seq.map (fun slice -> $"'{slice.Name}'")
                          |> String.concat ", "


                      if rule.Groups = "" then
                          $"({names})"
                      else
                          $"({rule.Groups})" ]
                |> String.concat " | "
            InPlace = inPlace parts }
