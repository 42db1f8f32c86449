namespace Sama.Functional

open System
open TorchSharp
open Sama

/// What the meta loss says behind a training: its value, and its derivatives by θ_T and by λ alone.
[<NoComparison; ReferenceEquality>]
type internal Outcome =
    { Loss: float
      ByTheta: Tensor
      Direct: Tensor }

/// A training of the lower of two levels, λ held, step by step forwards and backwards.
module internal ReversedTraining =

    /// The meta loss behind the step that comes next, on the batch of a meta step behind it; the step is not written. The
    /// tensors are the caller's.
    let outcome (engine: Engine) : Outcome =
        engine.Look(fun live ->
            let problem = live.Problem
            let taken, _ = BaseSteps.take live [ 0 ] false
            live.Read()
            BaseSteps.replay live [ 0 ]
            live.Levels[0].Preview()
            let point = live.PointOf taken
            let gradients = [| live.Levels[0].Meta.zero_ (); live.Levels[1].Gradient.zero_ () |]

            let loss =
                Points.partials point (Problem.precision problem) 1 Mode.Meta (live.Fetch 1) gradients
                |> Checks.loss live.Readings live.Number live.Levels[1].Level

            for i, gradient in Array.indexed gradients do
                live.Readings.Finite(
                    gradient,
                    fun () -> Checks.notFinite live.Number problem.Levels[i] "the meta gradient" gradient
                )

            live.Read()

            { Loss = loss.Value
              ByTheta = Scope.copy gradients[0]
              Direct = Scope.copy gradients[1] })

    let private subject (problem: BilevelProblem) (vectors: Tensor[]) : Linearization.Subject =
        { Problem = problem
          Index = 0
          Upper = [ 1 ]
          Vectors = vectors
          Precision = Problem.precision problem
          Disagreement = None }

    /// The adjoints before the step that comes next, from those behind it, which are freed.
    let private before (engine: Engine) (behind: Trajectory.Adjoints) : Trajectory.Adjoints =
        engine.Look(fun live ->
            let own = live.Levels[0]
            let place: RuleReverse.Place = { Theta = own.Vector; State = own.Rule }

            let found =
                Trajectory.reverse
                    (ref 0)
                    (subject live.Problem live.Vectors)
                    true
                    own.Scratch
                    place
                    (live.Fetch 0)
                    behind

            Trajectory.discard behind

            if not (Number.isFinite found.OfLambda && Number.isFinite found.OfTheta) then
                raise (NonFiniteException(live.Number, own.Level.Name, "the metagradient through this step"))

            { OfTheta = Scope.copy found.OfTheta
              OfState = found.OfState |> List.map Scope.copy
              OfLambda = Scope.copy found.OfLambda })

    let private vectorNames (behind: Trajectory.Adjoints) =
        [ "theta", behind.OfTheta
          "lambda", behind.OfLambda
          for i, tensor in List.indexed behind.OfState do
              $"state/{i}", tensor ]

    let private ofNames
        (found: Collections.Generic.IReadOnlyDictionary<string, Tensor>)
        : Trajectory.Adjoints * Outcome =
        let own name = Scope.copy found[name]

        { OfTheta = own "theta"
          OfLambda = own "lambda"
          OfState = [ for i in 0 .. found.Count - 6 -> own $"state/{i}" ] },
        { Loss = Number.read found["loss"]
          ByTheta = null
          Direct = own "direct" }

    /// Its steps, counted and held to the trace, and what is found of them.
    [<Sealed>]
    type Walk(engine: Engine, steps: int, store: TrainingStore, trace: TrainingTrace, folder: TrainingFolder option) =
        let mutable behind: Trajectory.Adjoints option = None
        let mutable result: Outcome option = None

        let save left =
            match folder, behind, result with
            | Some folder, Some behind, Some { Loss = loss; Direct = direct } ->
                use loss = torch.tensor (loss, dtype = torch.float64)
                folder.Save(left, ("loss", loss) :: ("direct", direct) :: vectorNames behind, trace)
            | _ -> ()

        /// Base steps taken.
        member val Taken = 0L with get, set

        /// What there was in a folder.
        member _.Resume(found) : unit =
            let adjoints, outcome = ofNames found
            behind <- Some adjoints
            result <- Some outcome

        /// Derivatives by θ₀, state and λ through the training, and what the meta loss is behind it.
        member _.Found = behind.Value, result.Value

        interface IReversible with
            member walk.Advance step =
                engine.BaseStep() |> ignore
                walk.Taken <- walk.Taken + 1L
                trace.Hold(step, engine)

            member _.Keep(step, depth) = store.Keep(step, depth, engine, trace)
            member _.Restore step = store.Restore(step, engine)

            member _.Drop step =
                // what was found since is safe before the state that it was found from goes
                if store.IsOnDisk step then
                    save step

                store.Drop step

            member walk.Reverse _ =
                if behind.IsNone then
                    let found = outcome engine
                    walk.Taken <- walk.Taken + 1L
                    let own = engine.Levels

                    behind <-
                        Some
                            { OfTheta = found.ByTheta
                              OfState = [ for t in RuleState.tensors own[0].Rule -> Scope.detach (torch.zeros_like t) ]
                              OfLambda = Scope.detach (torch.zeros_like own[1].Vector) }

                    result <- Some found
                    save steps

                behind <- Some(before engine behind.Value)

        interface IDisposable with
            member _.Dispose() =
                behind |> Option.iter Trajectory.discard
                result |> Option.iter _.Direct.Dispose()
