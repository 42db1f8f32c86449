namespace Sama.Functional

open TorchSharp
open Sama

/// Where all levels of a problem are: the values before and after their last steps, and these steps.
[<NoComparison; NoEquality>]
type internal Point =
    {
        Problem: BilevelProblem
        Before: Tensor[]
        /// after the step, for a level that took one at this base step
        After: int -> Tensor
        /// None for a level that took none: it does not respond
        Taken: LevelStep option[]
        /// what times and counts what responses ask for; null for nothing
        Clock: PhaseClock
        /// how far products are from those with half the step, where that is looked at
        Disagreement: float ref option
    }

/// What is seen and differentiated at a point.
module internal Points =

    /// Levels that j's hypergradient goes through on the way to `top`: those above i, up to the tier of `top`.
    let upper (problem: BilevelProblem) i top =
        Structure.above problem i
        |> List.filter (fun k -> problem.Heights[k] <= problem.Heights[top])

    /// The vectors that level i's loss sees: levels below after their steps, all others before theirs.
    let seenBy (point: Point) i : Tensor[] =
        point.Before
        |> Array.mapi (fun k before ->
            if point.Problem.Heights[k] < point.Problem.Heights[i] then
                point.After k
            else
                before)

    let zeros (point: Point) (indices: int list) : Tensor[] =
        Array.init point.Before.Length (fun k ->
            if List.contains k indices then
                torch.zeros_like point.Before[k]
            else
                null)

    /// A level's loss, and its partial derivatives by every level for which `gradients` holds a vector, added to it; those by
    /// lowest levels that are to respond are the mean over the ranks, reduced while the last micro-batch's pass goes on.
    let partials (point: Point) precision (i: int) mode (micros: Micro list) (gradients: Tensor[]) : Tensor =
        let reduced =
            [ for k in Structure.lowest point.Problem do
                  if k <> i && not (isNull gradients[k]) && point.Taken[k].IsSome then
                      match Across.metaGradient point.Problem k gradients[k] with
                      | null -> ()
                      | buckets -> k, buckets ]

        try
            let losses =
                Passes.losses reduced point.Problem precision (seenBy point i) gradients micros _.Loss(mode)

            for _, buckets in reduced do
                Across.finish point.Problem buckets

            (torch.stack (List.toArray losses)).mean ()
        finally
            for _, buckets in reduced do
                (buckets :> System.IDisposable).Dispose()

    /// The rule of a level as a function of the vectors of `upper`, joined; None if it learns no option.
    let options (point: Point) (i: int) (upper: int list) : (Tensor -> BoundRule) option =
        if LearnedOptions.any point.Problem i then
            Some(fun lambda ->
                LearnedOptions.inGraph point.Problem i point.Before upper (Passes.parted point.Problem upper lambda))
        else
            None
