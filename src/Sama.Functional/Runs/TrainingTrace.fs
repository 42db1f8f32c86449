namespace Sama.Functional

open System.Collections.Generic
open Sama

/// Where the steps of a training led: a checksum behind each, of parameters, rule state and buffers, against which every
/// step that is taken again is held bit for bit.
[<Sealed>]
type internal TrainingTrace(problem: BilevelProblem, known: int64 seq) =
    let marks = List<int64> known

    let mark (engine: Engine) =
        let own = engine.Levels[0]

        Checksum.numberOf
            [ yield own.Vector
              yield! RuleState.tensors own.Rule
              for _, buffer in Problem.buffers problem do
                  yield buffer ]

    /// Steps that were taken once.
    member _.Length = marks.Count

    /// The checksums, by step.
    member _.Marks: IReadOnlyList<int64> = marks

    /// The engine stands behind that step: for the first time, or as then. InvalidOperationException if elsewhere.
    member _.Hold(step: int, engine: Engine) : unit =
        let found = mark engine

        if step = marks.Count then
            marks.Add found
        elif marks[step] <> found then
            let level = problem.Levels[0].Name

            invalidOp
                $"level '{level}', step {step} of the training, taken again, does not lead to the same bits, so that its derivative would be that of another training. Its data have to be a function of the draw, and its loss of parameters, batch and masks alone: random numbers of its own (System.Random, a generator made outside), counts of its calls and threads that add in any order are not taken again alike"
