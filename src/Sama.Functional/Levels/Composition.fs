namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// What is checked when a problem is composed.
module internal Composition =

    let private refuse (method: HypergradientMethod) reason =
        invalidArg (nameof method) $"{method.Name} cannot be used here: {reason}"

    /// What a level's method asks of the level whose response it is.
    let private requireNeeds (problem: BilevelProblem) index (need: Need) =
        let level, options = problem.Levels[index], problem.Options
        let method = Structure.methodOf problem index
        let refuse reason = refuse method reason
        let window = Structure.window problem

        Widths.refusal problem index need |> Option.iter refuse

        match need with
        | Adaptation ->
            match level.Rule.ByGradient with
            | Error reason -> refuse reason
            | Ok _ -> ()
        | SecondDerivatives when problem.Levels |> Array.exists _.Module.IsSome ->
            refuse
                "a module cannot be differentiated twice; give the model as a function of Params, or take a method of first-order passes (sama) or one that forms products by differences (conjugateGradient, neumann)"
        | Products ProductForm.Exact when problem.Levels |> Array.exists _.Module.IsSome ->
            refuse
                "a module cannot be differentiated twice, and exact products were asked for (ProductForm.Exact); give the model as a function of Params, or take ProductForm.Differences"
        | ElementwiseRule when not level.Rule.Elementwise ->
            refuse $"the rule of level '{level.Name}' couples coordinates"
        | BaseLambdaGradient when options.Precision <> Precision.Own ->
            refuse
                "one-sided differences reuse the base pass's gradient, which is in bfloat16, beside a perturbed pass in the parameters' own type; take the central difference"
        | BaseLambdaGradient when problem.Levels.Length > 2 ->
            refuse
                "one-sided differences reuse the base pass's gradient, of two levels alone; take the central difference"
        | History _ when problem.Heights[index] > 0 ->
            refuse
                $"level '{level.Name}' lies between others; a level of its own method there is one of one step (Level.withMethod)"
        | History(steps, _) when int64 steps > window ->
            refuse $"it goes through {steps} base steps, more than Unroll ({window})"
        | History(0, last) when int64 last > window ->
            refuse $"it differentiates the last {last} base steps, more than Unroll ({window})"
        | MicroBatches count when count > options.Accumulate ->
            refuse $"it asks for {count} micro-batches of a base step, which has {options.Accumulate} (Accumulate)"
        | Memory when problem.Levels.Length - List.length (Structure.lowest problem) <> 1 ->
            refuse
                $"it keeps one vector for the level above '{level.Name}', of which there are several; take a method without a memory"
        | AtMost size when level.Layout.Length > size ->
            refuse
                $"level '{level.Name}' has {level.Layout.Length} parameters, its limit is {size}; conjugateGradient and neumann have none"
        | _ -> ()

    /// A level between others responds in total only if those below it can be moved.
    let private requireMotion (problem: BilevelProblem) index =
        if
            problem.Heights[index] > 0
            && problem.Levels[index].Response = MiddleResponse.Total
        then
            for j in Structure.below problem index do
                let method, level = Structure.methodOf problem j, problem.Levels[j]

                let held =
                    $"level '{problem.Levels[index].Name}' would have to be held (Level.responding MiddleResponse.Held)"

                match method.Motion with
                | Retaken -> ()
                | AlongTangent _ when level.Rule.Elementwise -> ()
                | AlongTangent _ ->
                    refuse
                        method
                        $"the rule of level '{level.Name}' couples coordinates, so its tangent is not known; {held}"
                | Unknown reason -> refuse method $"{reason}; {held}"

                match level.Reset with
                | Some _ -> refuse method $"level '{level.Name}' starts anew with every window; {held}"
                | None -> ()

    let private requireLearned (problem: BilevelProblem) index =
        let level = problem.Levels[index]

        for learned in level.Rule.Learned do
            LearnedOptions.source problem index learned |> ignore

        if not level.Rule.Learned.IsEmpty then
            let method = Structure.methodOf problem index

            if not (List.contains LearnedOptions method.Needs) then
                refuse
                    method
                    $"the rule of level '{level.Name}' is '{level.Update.Name}', and the method does not say that it adds ∂u/∂λ (IRuleJacobians.OptionsVjp, Need.LearnedOptions)"

    /// Whether each rank may answer to its own meta gradient.
    let private requireReduction (problem: BilevelProblem) index =
        let method = Structure.methodOf problem index

        if problem.Ranks.Options.Response = ResponseReduction.Local then
            if
                problem.Tiers.Length > 2
                && problem.Levels |> Array.exists (fun l -> l.Response = MiddleResponse.Total)
            then
                refuse
                    method
                    "a rank that answers to its own meta gradient (ResponseReduction.Local) moves levels between others to points of its own; hold them (Level.responding MiddleResponse.Held), or take ResponseReduction.Joined"

            for need in method.Needs do
                match need with
                | Nudge ->
                    refuse
                        method
                        "a nudge along each rank's own meta gradient (ResponseReduction.Local) would take θ apart; take ResponseReduction.Joined"
                | SecondDerivatives
                | Products _ ->
                    refuse
                        method
                        "it forms products with the joined Hessian, of vectors that each rank has for itself (ResponseReduction.Local); take ResponseReduction.Joined"
                | _ -> ()

            match method.Motion with
            | Unknown reason ->
                refuse method $"{reason}, for which all ranks need one meta gradient (ResponseReduction.Joined)"
            | _ -> ()

    /// Whether the states of rules can be split among the ranks, where that is asked for; one process says so too.
    let private requireShards (problem: BilevelProblem) index =
        if problem.Ranks.Options.ShardStates then
            let level, method = problem.Levels[index], Structure.methodOf problem index

            if not level.Rule.Learned.IsEmpty then
                invalidArg
                    "options"
                    $"the rule of level '{level.Name}' is '{level.Update.Name}': the state of a rule with learned options cannot be split among ranks (ShardStates)"

            for need in method.Needs do
                match need with
                | History _ when problem.Heights[index] < Array.last problem.Heights ->
                    refuse
                        method
                        "it differentiates through the steps of a rule, which it has to have whole (ReductionOptions.ShardStates)"
                | _ -> ()

            RankRules.requireShards level

    let requireServed (problem: BilevelProblem) : unit =
        let top = Array.last problem.Heights

        for index in 0 .. problem.Levels.Length - 1 do
            requireLearned problem index
            requireShards problem index

            if problem.Heights[index] < top then
                for need in (Structure.methodOf problem index).Needs do
                    requireNeeds problem index need

                requireMotion problem index
                requireReduction problem index

    let private requireDistinct (levels: Level list) =
        for name, twice in levels |> List.countBy _.Name do
            if twice > 1 then
                invalidArg (nameof levels) $"{twice} levels are named '{name}'"

        let owners = Dictionary<struct (nativeint * string), string * string>()

        for level in levels do
            for tied in level.Tied do
                for parameter in tied.Parameters do
                    if parameter.IsInvalid then
                        invalidArg
                            (nameof levels)
                            $"parameter '{tied.Name}' of level '{level.Name}' was replaced or cast after the level was made; make the level again"

                    let place = Number.place parameter

                    match owners.TryGetValue place with
                    | true, (owner, name) when owner <> level.Name && parameter.numel () > 0L ->
                        invalidArg
                            (nameof levels)
                            $"parameter '{tied.Name}' of level '{level.Name}' is parameter '{name}' of level '{owner}': each parameter belongs to one level (freeze it in the other, or make the level of a part of the module)"
                    | _ -> owners[place] <- (level.Name, tied.Name)

        for level in levels.Tail do
            if string level.Device <> string levels.Head.Device then
                invalidArg
                    (nameof levels)
                    $"level '{level.Name}' is on {level.Device}, '{levels.Head.Name}' on {levels.Head.Device}; a problem has one device (Problem.toDevice)"

    let private requireOptions (options: BilevelOptions) (levels: Level list) =
        if options.Unroll < 1 || options.Accumulate < 1 || options.WarmUp < 0L then
            invalidArg
                (nameof options)
                $"Unroll ({options.Unroll}) and Accumulate ({options.Accumulate}) are at least 1, WarmUp ({options.WarmUp}) at least 0"

        Options.requireOne "NonFinite" options.NonFinite
        Options.requireOne "Precision" options.Precision

        if options.Precision = Precision.BFloat16 then
            match levels |> List.tryFind _.Module.IsSome with
            | Some level ->
                invalidArg
                    (nameof options)
                    $"Precision.BFloat16 gives the passes copies of the parameters in bfloat16, which the module of level '{level.Name}' cannot be pointed at; make the level over named tensors"
            | None -> ()

    /// The common value of a setting in one tier.
    let private common name (what: string) (fallback: 'a) (choose: Level -> 'a option) (tier: Level list) : 'a =
        match tier |> List.choose choose |> List.distinct with
        | [] -> fallback
        | [ one ] -> one
        | _ ->
            let names = tier |> List.map _.Name |> String.concat ", "
            invalidArg name $"the levels {names} stand side by side and have different {what}"

    let private tiersOf (options: BilevelOptions) (tiers: Level list list) : Tier[] =
        let grow (before: Tier) (i, tier) =
            let steps =
                common "levels" "numbers of steps (Level.every)" (if i = 1 then options.Unroll else 1) _.Every tier

            let warmUp =
                common "levels" "warm-ups" (if i = 1 then options.WarmUp else before.WarmUp) _.WarmUp tier

            { Period = before.Period * int64 steps
              WarmUp = max warmUp before.WarmUp }

        for level in tiers.Head do
            match level.Every with
            | Some _ ->
                invalidArg
                    "levels"
                    $"level '{level.Name}' is the lowest, it takes every base step (Level.steps: only some of them)"
            | None -> ()

        tiers.Tail
        |> List.mapi (fun i tier -> i + 1, tier)
        |> List.scan grow { Period = 1L; WarmUp = 0L }
        |> Array.ofList

    let private requireWindows (problem: BilevelProblem) =
        for i, level in Array.indexed problem.Levels do
            match level.Steps with
            | Some steps when problem.Heights[i] > 0 || int64 steps > Structure.window problem ->
                invalidArg
                    "tiers"
                    $"level '{level.Name}' is to take {steps} steps of a window, which has {Structure.window problem}; only the lowest levels leave some out"
            | _ -> ()

            if level.Reset.IsSome && problem.Tiers.Length = 1 then
                invalidArg "tiers" $"level '{level.Name}' starts anew where levels above it say, and there are none"

            if level.Reset.IsSome && problem.Heights[i] > 0 then
                invalidArg "tiers" $"level '{level.Name}' is not of the lowest; only these start anew with a window"

    let compose (options: BilevelOptions) (method: HypergradientMethod) (tiers: Level list list) : BilevelProblem =
        let levels = List.concat tiers

        if tiers.IsEmpty || tiers |> List.exists _.IsEmpty then
            invalidArg
                (nameof tiers)
                $"a problem has at least one level, and no tier is empty; {levels.Length} were given"

        requireDistinct levels
        requireOptions options levels

        let problem =
            { Levels = Array.ofList levels
              Heights =
                [| for i, tier in List.indexed tiers do
                       yield! [ for _ in tier -> i ] |]
              Tiers = tiersOf options tiers
              Method = method
              Options = options
              ReadTogether = false
              Replays = ref 0L
              Ranks = RankPlan.Single }

        requireWindows problem
        requireServed problem
        problem
