namespace Sama.Functional

open System
open Sama

/// Methods made of two, one of which is the method of each meta step.
module internal Phases =

    /// What both ask for; of windows to look back on, the longer one.
    let private joined (a: HypergradientMethod) (b: HypergradientMethod) : Need list =
        let isHistory =
            function
            | History _ -> true
            | _ -> false

        let length =
            function
            // the whole window
            | History(0, _) -> Int32.MaxValue
            | History(steps, _) -> steps
            | _ -> -1

        // a promise holds if both give it
        let promised (method: HypergradientMethod) =
            List.contains LearnedOptions method.Needs

        let all =
            a.Needs @ b.Needs
            |> List.filter (fun need -> need <> LearnedOptions || promised a && promised b)

        let windows = all |> List.filter isHistory |> List.sortByDescending length
        (all |> List.filter (isHistory >> not)) @ windows

    let private made name (a: HypergradientMethod) (b: HypergradientMethod) choose : HypergradientMethod =
        { Name = name
          Needs = joined a b
          BestResponse = fun _ _ -> invalidOp $"'{name}' is one of its methods at each meta step"
          Motion =
            match a.Motion, b.Motion with
            | Retaken, Retaken -> Retaken
            | _ -> Unknown $"'{name}' changes from meta step to meta step"
          Choose = Some choose }

    let everyNth (count: int) (better: HypergradientMethod) (usual: HypergradientMethod) : HypergradientMethod =
        Method.atLeast 2 (nameof count) count

        made $"{usual}, each {count}th {better}" usual better (fun number ->
            if number % int64 count = 0L then better else usual)

    let switching (metaSteps: int64) (first: HypergradientMethod) (later: HypergradientMethod) : HypergradientMethod =
        if metaSteps < 1L then
            invalidArg (nameof metaSteps) $"metaSteps is at least 1, not {metaSteps}"

        made $"{first}, from meta step {metaSteps} {later}" first later (fun number ->
            if number < metaSteps then first else later)
