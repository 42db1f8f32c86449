namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// What a run says of its meta steps beside their numbers: methods that did not converge, levels that stand still and why,
/// parameters that nothing moves.
[<Sealed>]
type internal Warnings(problem: BilevelProblem) =
    let count = problem.Levels.Length
    let taken, stillFor = Array.zeroCreate<int> count, Array.zeroCreate<int> count

    // parameters that no gradient has moved
    let untouched =
        [| for level in problem.Levels -> HashSet [ for slice in level.Layout.Slices -> slice.Name ] |]

    // meta steps behind which a level that stood still from the start is given up, and untouched parameters are named
    let patience = 10

    // meta steps behind which a level that no loss has depended on is given up: few batches may reach it
    let unconnected = 100

    let touch i (run: LevelRun) =
        if untouched[i].Count > 0 then
            Scope.run (fun _ ->
                let views = Layout.views run.Level.Layout run.Gradient

                for slice, view in Seq.zip run.Level.Layout.Slices views do
                    if untouched[i].Contains slice.Name && view.count_nonzero().item<int64> () > 0L then
                        untouched[i].Remove slice.Name |> ignore)

    /// What there is to say of a hypergradient of 0. InvalidOperationException where the level can never move.
    let stillness (live: LiveStep) (point: Point) j (reports: (int * Report) list) : string list =
        let name = problem.Levels[j].Name
        stillFor[j] <- stillFor[j] + 1

        if stillFor[j] <> taken[j] || stillFor[j] > patience && stillFor[j] <> unconnected then
            [ $"the hypergradient of level '{name}' is exactly 0" ]
        else
            let seen = Points.seenBy point j

            // all of v lies where the adaptation is 0, and no gradient will change that
            let isStuck k =
                reports
                |> List.exists (fun (i, report) -> i = k && report.Zeros = live.Vectors[k].numel ())
                && live.Levels[k].Gradient.count_nonzero().item<int64> () = 0L

            match Checks.still problem j seen live.Fetch (List.map fst reports) isStuck with
            | Checks.Blind reason -> invalidOp reason
            | Checks.Unconnected reason when stillFor[j] >= unconnected ->
                invalidOp $"{reason}, nor was it at any meta step before; it can never move"
            | Checks.Dead reason when stillFor[j] >= patience ->
                invalidOp
                    $"level '{name}' has not moved in {stillFor[j]} meta steps and cannot: {reason}. Start the weights above 0, take a base rule without second moments (sgd), or samaNa"
            | Checks.Unconnected reason
            | Checks.Dead reason
            | Checks.Exact reason -> [ reason ]

    /// What is said of a difference whose perturbation rounding takes away; looked at behind the 1st, 2nd, 4th, … meta step.
    let rounded (live: LiveStep) j (k: int) (report: Report) : Report =
        let lookedAt = taken[j] &&& (taken[j] - 1) = 0

        if
            lookedAt
            && isNull report.Note
            && report.Epsilon.HasValue
            && report.Norm.HasValue
        then
            let moved = report.Epsilon.Value * report.Norm.Value
            let size = Method.size live.Vectors[k]
            let unit (t: torch.ScalarType) = torch.finfo(t).eps
            let lost = size * unit live.Vectors[k].dtype / 4.0
            let ofLoss = (live.Fetch k).Head.Perturbed

            if lost > 0.1 * moved then
                { report with
                    Note =
                        $"rounding takes the perturbation away: it has length {moved:G2}, the parameters of level '{problem.Levels[k].Name}' have {size:G2}, rounded by {lost:G2}; take a larger alpha, or float64" }
            elif report.Epsilon.Value > 0.0 && unit ofLoss > unit live.Vectors[k].dtype then
                { report with
                    Note =
                        $"the loss of level '{problem.Levels[k].Name}' is of {ofLoss}, its parameters of {live.Vectors[k].dtype}: h is a difference of its gradients and can be rounding of the narrower type; compute it in the parameters' own type, or take exact products" }
            else
                report
        else
            report

    let unmoved (live: LiveStep) j =
        [ for i in j :: Structure.below problem j do
              if untouched[i].Count > 0 then
                  let names = String.Join(", ", untouched[i])

                  $"no gradient has moved the parameters {names} of level '{live.Levels[i].Level.Name}' in {taken[j]} meta steps: does a loss depend on them?" ]

    /// The run goes on from elsewhere: what was counted is forgotten.
    member _.Forget() : unit =
        Array.fill taken 0 count 0
        Array.fill stillFor 0 count 0

    /// Looks at the gradients of levels while there are parameters that nothing has moved, over the first meta steps.
    member _.Look(live: LiveStep, levels: int list) : unit =
        if taken |> Array.forall (fun n -> n < patience) then
            for i in levels do
                touch i live.Levels[i]

    /// What one meta step did, and what there is to say of it.
    member _.Report(live: LiveStep, point: Point, step: MetaStep) : MetaReport =
        let j = step.Index
        let norm = Method.size live.Levels[j].Gradient
        taken[j] <- taken[j] + 1

        let reports =
            [ for k, response in step.Responses -> k, rounded live j k response.Report.Value ]

        if taken[j] <= patience then
            touch j live.Levels[j]

        let warnings =
            [ for _, report in reports do
                  if report.Converged = Nullable false then
                      $"{report.Method} did not converge: residual {report.Residual.Value:G3}"

                  if not (isNull report.Note) then
                      report.Note
              if norm = 0.0 then
                  yield! stillness live point j reports
              if taken[j] = patience then
                  yield! unmoved live j ]

        let responses =
            if reports.IsEmpty then
                [ Report.empty "none" ]
            else
                List.map snd reports

        MetaReport(problem.Levels[j].Name, step.Loss.Value, norm, responses, warnings)
