namespace Sama.Functional

open TorchSharp
open Sama

/// Which methods parameters in 16 bits can serve.
module internal Widths =

    let private isNarrow (level: Level) =
        level.Type = torch.float16 || level.Type = torch.bfloat16

    /// Why a need cannot be served at a level, because of its type or that of a level above.
    let refusal (problem: BilevelProblem) index (need: Need) : string option =
        let level = problem.Levels[index]

        let above =
            Structure.above problem index
            |> List.map (Array.get problem.Levels)
            |> List.tryFind isNarrow

        let areDifferences =
            Structure.productForm problem index = Some ProductForm.Differences

        match need, above with
        | Products _, _ when areDifferences && isNarrow level ->
            Some
                $"its products are differences of gradients, and level '{level.Name}' has parameters of {level.Type}, in which a perturbed θ ± δw is mostly θ itself; keep them in float32"
        | Products _, Some upper when areDifferences ->
            Some
                $"its products are differences of gradients, and level '{upper.Name}' has parameters of {upper.Type}, in which such a difference is rounding; keep them in float32"
        | Differences, _ when isNarrow level ->
            Some
                $"level '{level.Name}' has parameters of {level.Type}, in which a perturbed θ ± εv is mostly θ itself; keep them in float32, and compute the passes in 16 bits by Precision.BFloat16"
        | Differences, Some upper ->
            Some
                $"level '{upper.Name}' has parameters of {upper.Type}, in which a difference of gradients by them is rounding; keep them in float32"
        | _ -> None
