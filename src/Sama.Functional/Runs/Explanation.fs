namespace Sama

open System
open System.Collections.Generic

/// Why the highest level moves, or does not, at one state; for reading, `ToString` has all of it.
[<NoComparison>]
type Explanation =
    {
        /// the level's name
        Level: string
        /// ‖h‖; NaN where it could not be found
        HypergradientNorm: float
        /// ‖∂L_meta/∂λ‖, the direct part of h
        DirectNorm: float
        /// ‖h − direct‖, the part through the levels below
        ResponseNorm: float
        /// coordinates of λ where h is not 0
        Reached: int64
        /// coordinates of λ that the rule's step would change, in their own type
        Moved: int64
        /// coordinates of λ
        Length: int64
        /// ‖u‖ of the step that the rule would take
        UpdateNorm: float
        /// what the method did for the level right below; of method "none" where nothing was found
        Report: Report
        /// what stands in the way, the gravest first; empty if nothing does
        Findings: IReadOnlyList<string>
    }

    /// Numbers and findings, a line each.
    override e.ToString() =
        String.Join(
            "\n",
            [ $"level '{e.Level}': ‖h‖ {e.HypergradientNorm:G4} (direct {e.DirectNorm:G4}, through the levels below {e.ResponseNorm:G4})"
              $"h is not 0 at {e.Reached:N0} of {e.Length:N0} coordinates; a step of its rule has length {e.UpdateNorm:G4} and moves {e.Moved:N0}"
              $"method: {e.Report}"
              if e.Findings.Count = 0 then
                  "nothing stands in its way"
              for finding in e.Findings do
                  $"- {finding}" ]
        )

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// What stands in the way of the highest level.
module internal Explanation =

    let private count (x: Tensor) : int64 =
        Scope.run (fun _ -> x.count_nonzero().item<int64> ())

    let private names (level: Level) (flags: bool[]) =
        String.Join(
            ", ",
            [ for slice, flag in Seq.zip level.Layout.Slices flags do
                  if not flag then
                      $"'{slice.Name}'" ]
        )

    /// What losses depend on, at the batches of this step.
    let private connections (live: LiveStep) (point: Point) top : string list =
        let problem = live.Problem
        let name i = problem.Levels[i].Name

        let reachedBy i =
            Problem.reached problem (Points.seenBy point i) (live.Fetch i).Head

        let byOwn = reachedBy top
        let below = Structure.below problem top

        let byOptions i =
            LearnedOptions.reached problem i point.Before

        let byBelow =
            [ for i in below -> i, Array.map2 (Array.map2 (||)) (reachedBy i) (byOptions i) ]

        let any = Array.exists id

        let steered =
            Array.init byOwn[top].Length (fun p ->
                byOwn[top].[p] || byBelow |> List.exists (fun (_, flags) -> flags[top].[p]))

        [ if not (below |> List.exists (fun i -> any byOwn[i])) then
              $"the loss of level '{name top}' depends on no parameter of a level below: nothing comes back through them (a copy of the model? detached values? a count such as an accuracy?)"

          if not (byBelow |> List.exists (fun (_, flags) -> any flags[top])) then
              $"no loss below depends on the parameters of level '{name top}'"

          if not (Array.forall id steered) then
              $"no loss depends on the parameters {names problem.Levels[top] steered} of level '{name top}' at this batch" ]

    /// What the method met.
    let private responses (live: LiveStep) (report: MetaReport) top : string list =
        let below =
            Structure.below live.Problem top
            |> List.filter (fun i -> live.Problem.Heights[i] = 0)

        [ for i in below do
              if count live.Levels[i].Gradient = 0L then
                  $"the gradient of level '{live.Problem.Levels[i].Name}' is 0 everywhere (all weights of examples 0?)"

          let zeros, length = report.Response.Zeros, live.Vectors[List.last below].numel ()

          if zeros = length then
              $"v is 0 at all {length:N0} coordinates that the response sees: the meta gradient is, or the base rule's adaptation (no gradient was ever seen, or the rate is 0)"
          elif zeros * 2L > length then
              $"v is 0 at {zeros:N0} of {length:N0} coordinates that the response sees"

          if report.Response.Capped > 0L then
              $"{report.Response.Capped:N0} coordinates without a base gradient hold ε down"

          yield! report.Warnings ]

    /// What becomes of h in the level's rule.
    let private motion (problem: BilevelProblem) (step: int64) top norm reached moved (u: float) length : string list =
        let level = problem.Levels[top]
        let tier = problem.Tiers[problem.Heights[top]]

        [ if norm > 0.0 && u = 0.0 then
              $"h is not 0, but the rule '{level.Update.Name}' takes no step: its rate (a schedule?) is 0, or it leaves the parameters out (groups, a projection)"
          elif u > 0.0 && moved * 2L < reached then
              $"the rule's step is below the rounding of {level.Type} at {reached - moved:N0} of {reached:N0} coordinates: raise its rate"

          if norm > 0.0 && reached * 2L < length then
              $"h is 0 at {length - reached:N0} of {length:N0} coordinates at this batch: they move only with batches that reach them (one weight an example moves once an epoch of meta steps: a smaller Unroll, larger batches, or a net that gives the weights)"

          if step < tier.WarmUp then
              $"the level steps from base step {tier.WarmUp} on, the state is at {step}" ]

    let private without (level: string) length (why: string) : Explanation =
        { Level = level
          HypergradientNorm = nan
          DirectNorm = nan
          ResponseNorm = nan
          Reached = 0L
          Moved = 0L
          Length = length
          UpdateNorm = nan
          Report = Report.empty "none"
          Findings = [ why ] }

    let private look (step: int64) (live: LiveStep) point top (report: MetaReport) (direct: Tensor) : Explanation =
        let run = live.Levels[top]
        let h, vector = run.Gradient, run.Vector
        let u, _ = run.Bound.Take run.Rule h vector
        let reached, moved = count h, count (vector - u - vector)
        let size = Method.size u

        { Level = run.Level.Name
          HypergradientNorm = Method.size h
          DirectNorm = Method.size direct
          ResponseNorm = Method.size (h - direct)
          Reached = reached
          Moved = moved
          Length = vector.numel ()
          UpdateNorm = size
          Report = report.Response
          Findings =
            [ yield! connections live point top
              yield! responses live report top
              yield! motion live.Problem step top report.HypergradientNorm reached moved size (vector.numel ()) ]
            |> List.distinct }

    let ofState (problem: BilevelProblem) (state: RunState) : Explanation =
        try
            Bilevel.examine problem state (look state.Step)
        with :? InvalidOperationException as e ->
            let level = Array.last problem.Levels
            without level.Name level.Layout.Length e.Message
