namespace Sama.Functional

open System
open System.Collections.Generic
open TorchSharp
open Sama

/// The levels of a run in place, at one base step: what is read of it, and told of it.
[<NoComparison; NoEquality>]
type internal LiveStep =
    {
        Problem: BilevelProblem
        Levels: LevelRun[]
        Vectors: Tensor[]
        /// base steps taken before this one
        Number: int64
        Readings: Readings
        /// a level's batches at this step, fetched once
        Fetch: int -> Micro list
        /// null where nobody looks on
        Clock: PhaseClock
        /// whether passes and products of this step are looked at twice
        Replays: bool
    }

    /// Where all levels are, those of `taken` having stepped.
    member live.PointOf(taken: LevelStep option[]) : Point =
        { Problem = live.Problem
          Before = live.Vectors
          After =
            fun k ->
                match taken[k] with
                | Some step -> step.After()
                | None -> live.Vectors[k]
          Taken = taken
          Clock = live.Clock
          Disagreement = if live.Replays then Some(ref 0.0) else None }

    /// The update is finite, and the rule's next state.
    member live.Sound(i: int) : unit =
        PhaseClock.within live.Clock RunPhase.Rule (fun () -> Checks.sound live.Readings live.Number live.Levels[i])

    /// Waits for the numbers that are asked for.
    member live.Read() : unit =
        PhaseClock.within live.Clock RunPhase.Reading live.Readings.Close

    /// The steps of these levels are written, those of upper levels first.
    member live.Commit(working: int list, metas: int list) : unit =
        PhaseClock.within live.Clock RunPhase.Rule (fun () ->
            for j in List.rev metas do
                live.Levels[j].Commit()

            for i in working do
                live.Levels[i].Commit()
                live.Levels[i].Record(live.Number, live.Fetch i))

module internal LiveStep =

    /// What ranks wait for, as the clock's phase; null without one.
    let reducing (clock: PhaseClock) : Func<Func<int>, int> =
        if isNull clock then
            null
        else
            Func<Func<int>, int>(fun wait -> clock.Within(RunPhase.Reduction, wait.Invoke))

    /// Lowest levels that start every window anew do, where the levels above say; how to undo it, and to be done with it.
    let reset (problem: BilevelProblem) (levels: LevelRun[]) (step: int64) =
        [ for i in Structure.lowest problem do
              match levels[i].Level.Reset with
              | Some start when Structure.startsWindow problem i step ->
                  use _ = torch.no_grad ()
                  let seen = Levels(problem.LevelNames, [| for level in levels -> level.Parameters |])
                  levels[i].Reset(start seen)
              | _ -> () ]

    /// A step whose batches are fetched once, into `fetched`.
    let create (problem: BilevelProblem) levels vectors (seed: int64) step readings fetched clock : LiveStep =
        let fetch (fetched: Dictionary<int, Micro list>) i =
            match fetched.TryGetValue i with
            | true, micros -> micros
            | _ ->
                let micros =
                    PhaseClock.within clock RunPhase.Data (fun () -> Problem.micros problem seed i step)

                fetched[i] <- micros

                if not (isNull clock) && problem.Heights[i] = 0 then
                    clock.CountExamples(micros |> List.sumBy _.Rows)

                micros

        for i, level: LevelRun in Array.indexed levels do
            if LearnedOptions.any problem i then
                level.Follow(LearnedOptions.rule problem i vectors)

        { Problem = Structure.at problem step
          Levels = levels
          Vectors = vectors
          Number = step
          Readings = readings
          Fetch = fetch fetched
          Clock = clock
          Replays = false }
