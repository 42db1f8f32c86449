namespace Sama.Functional

open Sama

/// How the levels of a problem stand to each other, and when they step.
module internal Structure =

    /// Base steps of a window, behind which the next levels step; 1 where there are none.
    let window (problem: BilevelProblem) : int64 =
        if problem.Tiers.Length > 1 then
            problem.Tiers[1].Period
        else
            1L

    let rec private chosen (number: int64) (method: HypergradientMethod) : HypergradientMethod =
        match method.Choose with
        | Some choose -> chosen number (choose number)
        | None -> method

    /// The problem as it is at a base step: each level under the method of the meta step behind it.
    let at (problem: BilevelProblem) (step: int64) : BilevelProblem =
        let methods =
            problem.Method
            :: [ for level in problem.Levels do
                     yield! Option.toList level.Method ]

        if methods |> List.forall _.Choose.IsNone then
            problem
        else
            let number = step / window problem

            { problem with
                Method = chosen number problem.Method
                Levels =
                    [| for level in problem.Levels ->
                           { level with
                               Method = Option.map (chosen number) level.Method } |] }

    let methodOf (problem: BilevelProblem) (index: int) : HypergradientMethod =
        problem.Levels[index].Method |> Option.defaultValue problem.Method

    /// How the method that a level responds by forms products with second derivatives; None if it forms none.
    let productForm (problem: BilevelProblem) (index: int) : ProductForm option =
        let total =
            problem.Heights[index] > 0
            && problem.Levels[index].Response = MiddleResponse.Total

        (methodOf problem index).Needs
        |> List.tryPick (function
            // the total derivative of a level between others is a difference whatever was asked for
            | Products _
            | SecondDerivatives when total -> Some ProductForm.Differences
            | Products ProductForm.Default when problem.Levels |> Array.exists _.Module.IsSome ->
                Some ProductForm.Differences
            | Products ProductForm.Differences -> Some ProductForm.Differences
            | Products _
            | SecondDerivatives -> Some ProductForm.Exact
            | _ -> None)

    /// Positions of the levels above one, from the lowest up.
    let above (problem: BilevelProblem) (index: int) : int list =
        [ for j in 0 .. problem.Levels.Length - 1 do
              if problem.Heights[j] > problem.Heights[index] then
                  j ]

    /// Positions of the levels below one, from the lowest up.
    let below (problem: BilevelProblem) (index: int) : int list =
        [ for j in 0 .. problem.Levels.Length - 1 do
              if problem.Heights[j] < problem.Heights[index] then
                  j ]

    /// Base steps of a window that the method of one of the lowest levels looks back on; 0 if it does not.
    let lookback (problem: BilevelProblem) (index: int) : int64 =
        (methodOf problem index).Needs
        |> List.tryPick (function
            | History(0, _) -> Some(window problem)
            | History(steps, _) -> Some(int64 steps)
            | _ -> None)
        |> Option.defaultValue 0L

    /// True if the levels of a tier step behind base step number `step`, counted from 0.
    let due (problem: BilevelProblem) (tier: int) (step: int64) : bool =
        tier < problem.Tiers.Length
        && (step + 1L) % problem.Tiers[tier].Period = 0L
        && step + 1L - problem.Tiers[tier].Period >= problem.Tiers[tier].WarmUp

    /// True if a level of the lowest tier steps at base step number `step`.
    let active (problem: BilevelProblem) (index: int) (step: int64) : bool =
        match problem.Levels[index].Steps with
        | Some steps -> step % window problem >= window problem - int64 steps
        | None -> true

    /// Positions of the lowest levels.
    let lowest (problem: BilevelProblem) : int list =
        [ for i in 0 .. problem.Levels.Length - 1 do
              if problem.Heights[i] = 0 then
                  i ]

    /// True if a window that the method of one of the lowest levels looks back on begins at this step.
    let begins (problem: BilevelProblem) (index: int) (step: int64) : bool =
        let back, window = lookback problem index, window problem
        let inside = step % window

        back > 0L
        && inside = window - back
        && due problem 1 (step - inside + window - 1L)

    /// True if one of the lowest levels takes the first step of its window at this step.
    let startsWindow (problem: BilevelProblem) (index: int) (step: int64) : bool =
        active problem index step
        && (step % window problem = 0L || not (active problem index (step - 1L)))
