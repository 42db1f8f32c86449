namespace Sama.Functional

open TorchSharp
open Sama

/// The hypergradient that one base step found for a level: in that level's gradient vector.
[<NoComparison; NoEquality>]
type internal MetaStep =
    { Index: int
      Loss: float ref
      Responses: (int * Response) list }

/// Steps of the levels above the lowest: their hypergradients, looked at and not yet written.
module internal MetaSteps =

    /// What is wrong with a loss gradient in its adapted form may be the rule.
    let private seenAs (live: LiveStep) k =
        if List.contains Adaptation (Structure.methodOf live.Problem k).Needs then
            $"the meta gradient, adapted by rule '{live.Problem.Levels[k].Update.Name}',"
        else
            "the meta gradient"

    let private requireFinite (live: LiveStep) j (gradients: Tensor[]) =
        let own = live.Levels[j]

        live.Readings.Finite(
            own.Gradient,
            fun () ->
                for k in Structure.below live.Problem j do
                    if not (isNull gradients[k]) && not (Number.isFinite gradients[k]) then
                        Checks.notFinite live.Number live.Levels[k].Level (seenAs live k) gradients[k]

                Checks.notFinite live.Number own.Level "the hypergradient" own.Gradient
        )

    /// The hypergradient of level j into its gradient vector; `direct` sees j and its direct part.
    let private hypergradient (live: LiveStep) (point: Point) j (direct: int -> Tensor -> unit) : MetaStep =
        let problem = live.Problem
        let gradients = Array.create live.Vectors.Length null

        for k in Structure.below problem j do
            if point.Taken[k].IsSome then
                gradients[k] <- live.Levels[k].Meta.zero_ ()

        gradients[j] <- live.Levels[j].Gradient.zero_ ()

        let mode =
            // a level that is moved later replays its features then
            if problem.Heights[j] < problem.Tiers.Length - 1 then
                { Mode.Meta with Stops = Stops.Record }
            else
                Mode.Meta

        let micros = live.Fetch j

        let value =
            PhaseClock.within live.Clock RunPhase.Meta (fun () ->
                Points.partials point (Problem.precision problem) j mode micros gradients)

        let loss = Checks.loss live.Readings live.Number live.Levels[j].Level value
        direct j gradients[j]

        let responses =
            PhaseClock.within live.Clock RunPhase.Perturbed (fun () -> Responses.addResponses point j j gradients)

        Across.mean problem $"the hypergradient of level '{problem.Levels[j].Name}'" gradients[j]
        requireFinite live j gradients
        live.Sound j

        { Index = j
          Loss = loss
          Responses = responses }

    /// Hypergradients of the levels of the tiers that are due, from the lowest up; a level that stepped responds to those
    /// above it, and joins `taken`.
    let take (live: LiveStep) (taken: LevelStep option[]) (due: int -> bool) direct : MetaStep list =
        let top = live.Problem.Tiers.Length - 1

        let ofTier tier =
            [ for j in 0 .. live.Vectors.Length - 1 do
                  if live.Problem.Heights[j] = tier then
                      j ]

        [ for tier in 1..top do
              if due tier then
                  for j in ofTier tier do
                      hypergradient live (live.PointOf(Array.copy taken)) j direct

                  if tier < top && due (tier + 1) then
                      for j in ofTier tier do
                          PhaseClock.within live.Clock RunPhase.Rule live.Levels[j].Preview
                          taken[j] <- Some(live.Levels[j].Step(live.Fetch j, null, null)) ]

    /// The loss of level j where all levels stand.
    let loss (live: LiveStep) j : float ref =
        let nothing: Tensor[] = Array.create live.Vectors.Length null
        let point = live.PointOf(Array.create live.Vectors.Length None)

        Points.partials point (Problem.precision live.Problem) j Mode.Meta (live.Fetch j) nothing
        |> Checks.loss live.Readings live.Number live.Levels[j].Level

    /// The passes of levels between others, which are differenced too, must give the same when they are run again.
    let replay (live: LiveStep) (point: Point) (metas: MetaStep list) : unit =
        for meta in metas do
            if live.Problem.Heights[meta.Index] < live.Problem.Tiers.Length - 1 then
                let seen = Points.seenBy point meta.Index

                Checks.replay
                    live.Problem
                    meta.Index
                    seen
                    null
                    (live.Levels[meta.Index].Scratch())
                    (live.Fetch meta.Index)
