namespace Sama

/// A finite step of λ: what the metagradient said of the meta loss, and what came of it.
[<NoComparison>]
type FiniteStep =
    {
        /// length of the step, along −dL/dλ
        Length: float
        /// change of the meta loss to first order: −length · ‖dL/dλ‖
        Predicted: float
        /// change of the meta loss, the training done again
        Actual: float
    }

    /// |actual − predicted|/|predicted|: near 0 where the training is smooth in λ over that length.
    member step.RelativeError = abs (step.Actual - step.Predicted) / abs step.Predicted

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Derivatives of the meta loss through a whole training, as L. Engstrom et al., "Optimizing ML Training with Metagradients"
/// (2025): exact reverse mode through every step, from few states.
module Metagradient =

    let private method form : HypergradientMethod =
        { Name = "metagradient"
          Needs = [ Products form; LearnedOptions ]
          Motion = Unknown "a metagradient goes through a whole training"
          Choose = None
          BestResponse = fun _ _ -> invalidOp "a metagradient is no response of one step" }

    /// The problem under a method that asks for what a metagradient needs, so that it is refused as methods are.
    let private served (form: ProductForm) (problem: BilevelProblem) : BilevelProblem =
        let refuse reason = invalidArg (nameof problem) reason

        if problem.Levels.Length <> 2 then
            refuse $"a metagradient is that of two levels; the problem has {problem.Levels.Length}"

        let level = problem.Levels[0]

        if level.Reset.IsSome || level.Steps.IsSome then
            refuse
                $"level '{level.Name}' starts anew with every window or leaves out steps of it (Level.resetTo, Level.steps): a metagradient goes through one training, in which every step counts"

        if not (Across.alone problem) then
            refuse "a metagradient is found by one process; the problem is on ranks"

        Problem.withMethod
            (method form)
            { problem with
                Levels = [| for level in problem.Levels -> { level with Method = None } |] }

    /// The state without an open window, which a training does not need.
    let private bare (state: RunState) : RunState =
        { state with
            Levels = [| for level in state.Levels -> { level with Window = null } |] }

    let private requireRepeatable (engine: Engine) =
        engine.Look(fun live ->
            for i, level in Array.indexed live.Problem.Levels do
                if live.Fetch i |> List.exists (fun micro -> not micro.Repeatable) then
                    invalidOp
                        $"the data of level '{level.Name}' are a stream, which no draw gives again: a metagradient takes steps again. Take Batches.shuffled, or a function of the draw")

    let private identity (problem: BilevelProblem) (state: RunState) (steps: int) : string =
        let form = Structure.productForm problem 0

        let tensors =
            [ for level in state.Levels do
                  level.Vector
                  yield! RuleState.tensors level.Rule
              yield! state.Buffers.Values ]

        Checksum.ofText $"{problem}|{form}|{steps}|{state.Step}|{state.Seed}|{Checksum.ofTensors tensors}"

    let private reversed (o: MetagradientOptions) problem (state: RunState) (steps: int) keep engine =
        requireRepeatable engine

        let folder =
            Option.ofObj o.Folder
            |> Option.map (fun folder -> TrainingFolder(folder, identity problem state steps))

        let stored = folder |> Option.map _.Open()
        let disk = if folder.IsSome then o.Disk else 0
        let kept = stored |> Option.map _.Kept |> Option.defaultValue []

        let trace =
            TrainingTrace(problem, stored |> Option.map _.Trace |> Option.defaultValue [||])

        use store = new TrainingStore(problem, state, Option.toObj folder, disk)
        store.Take kept

        use walk = new ReversedTraining.Walk(engine, steps, store, trace, folder)

        let left =
            match stored |> Option.bind _.Found with
            | Some(left, found) ->
                walk.Resume found
                left
            | None -> steps

        Revolve.run (1 + o.Memory + disk) (0 :: kept) left walk
        folder |> Option.iter _.Clear()
        let adjoints, outcome = walk.Found
        let struct (inMemory, onDisk) = store.Most

        { Loss = outcome.Loss
          Lambda = keep (adjoints.OfLambda + outcome.Direct)
          Direct = keep (outcome.Direct.clone ())
          Theta = keep (adjoints.OfTheta.clone ())
          Report =
            { Steps = steps
              Taken = walk.Taken
              InMemory = inMemory
              OnDisk = onDisk
              ProductForm = (Structure.productForm problem 0).Value
              Resumed = stored |> Option.exists (fun s -> s.Trace.Length > 0) } }

    let private requireSteps (steps: int) = Method.atLeast 1 (nameof steps) steps

    /// `ofTraining` with options. With a folder, what was broken off (an exception, a process that was ended) goes on when it
    /// is called with the same problem, state and steps again; the folder is empty when it is done. InvalidDataException naming
    /// a file there that is damaged, InvalidOperationException for a folder of another training.
    let ofTrainingWith
        (options: MetagradientOptions)
        (problem: BilevelProblem)
        (state: RunState)
        (steps: int)
        : MetagradientResult =
        requireSteps steps
        Method.atLeast 0 "Memory" options.Memory
        Method.atLeast 1 "Disk" options.Disk
        let problem = served options.Products problem
        let state = bare state
        Bilevel.onCopy problem (nameof state) state (reversed options problem state steps)

    /// d L_meta(θ_T, λ)/dλ and /dθ₀ of the training of so many base steps from a state, λ held at the state's: exactly through
    /// all of them, rule state, masks, accumulation and stop-features included; weights of examples are entries of λ. The meta
    /// loss is that of a meta step behind the last base step. Running statistics of modules count as constants of a step, as in
    /// training mode. Steps are taken again from states that are kept (`Revolve`) and have to lead to the same bits: T = 10,000
    /// takes each step four times at most from 20 states. Nothing changes; the caller disposes the result. ArgumentException
    /// for a state of another problem, more than two levels, levels that start anew, ranks, and levels that products of that
    /// form cannot serve; InvalidOperationException for a step that is not taken again alike; NonFiniteException as a run.
    let ofTraining (problem: BilevelProblem) (state: RunState) (steps: int) : MetagradientResult =
        ofTrainingWith MetagradientOptions.Default problem state steps

    /// L_meta(θ_T, λ) behind a training of so many base steps, λ held at the state's: what a metagradient is the derivative
    /// of. Nothing changes. Errors as `ofTraining`, but for products.
    let lossOfTraining (problem: BilevelProblem) (state: RunState) (steps: int) : float =
        requireSteps steps
        let problem = served ProductForm.Default problem

        Bilevel.onCopy problem (nameof state) (bare state) (fun _ engine ->
            for _ in 2..steps do
                engine.BaseStep() |> ignore

            let found = ReversedTraining.outcome engine
            found.ByTheta.Dispose()
            found.Direct.Dispose()
            found.Loss)

    /// `descend` with options.
    let descendWith (options: DescentOptions) (problem: BilevelProblem) (state: RunState) (steps: int) : DescentResult =
        requireSteps steps
        Method.atLeast 1 "Metagradients" options.Metagradients
        Method.positive "Radius" options.Radius
        Method.nonNegative "Tolerance" options.Tolerance
        let losses = ResizeArray<float>()
        let mutable trainings, metagradients = 0, 0

        let value (lambda: Tensor) =
            trainings <- trainings + 1

            try
                lossOfTraining problem (RunState.at 1 lambda state) steps
            with :? NonFiniteException ->
                infinity

        let slope steps (lambda: Tensor) =
            metagradients <- metagradients + 1

            try
                use found =
                    ofTrainingWith options.Metagradient problem (RunState.at 1 lambda state) steps

                Some(found.Lambda.clone ())
            with :? NonFiniteException ->
                None

        let rec partial steps (lambda: Tensor) =
            match slope (steps / 2) lambda with
            | Some h when Method.size h > 0.0 -> h
            | _ when steps > 3 -> partial (steps / 2) lambda
            | _ ->
                invalidOp
                    $"λ steers no part of the training of {steps} steps whose loss is finite: start where the training does not diverge"

        Scope.run (fun keep ->
            let lambda, loss, converged =
                TrainingDescent.minimise options value (slope steps) (partial steps) losses.Add (state.Lambda.clone ())

            { Lambda = keep lambda
              Loss = loss
              Losses = losses
              Trainings = trainings
              Metagradients = metagradients
              Converged = converged })

    /// λ brought down by whole trainings from a state: each step of λ is a quasi-Newton step of the metagradient (L-BFGS) of
    /// bounded length, and is taken if the training behind it ends with a lower meta loss; else the opposite one, or a
    /// shorter one. One call learns what λ holds, such as a rate that starts far off, for a training that has yet to be done
    /// with it. The price is a training a loss, and about five to eight a metagradient, however
    /// many numbers λ has. Nothing changes; the caller disposes the result. InvalidOperationException where no training near
    /// λ is finite; else as `ofTraining`.
    let descend (problem: BilevelProblem) (state: RunState) (steps: int) : DescentResult =
        descendWith DescentOptions.Default problem state steps

    /// Trains `subsets` times without a random part of the rows (`fraction` of them, at least one, drawn anew each time from
    /// `seed`): `retrain keep` trains with the rows for which `keep` is true and gives the meta loss. Its `Lds` then tells how
    /// well scores of rows predict the losses. ArgumentException for fewer than two rows or subsets, or a fraction that is not
    /// between 0 and 1; InvalidOperationException for a loss that is not finite.
    let retrained
        (rows: int)
        (fraction: float)
        (subsets: int)
        (seed: int)
        (retrain: bool[] -> float)
        : Counterfactuals =
        Retraining.without rows fraction subsets seed retrain

    /// How predictive a metagradient is (metasmoothness): for each length ℓ the training is done again at λ − ℓ h/‖h‖, h the
    /// metagradient, and its meta loss held against the first order, −ℓ‖h‖. ArgumentException for a length that is not
    /// positive, InvalidOperationException for h = 0; else as `lossOfTraining`.
    let smoothness
        (problem: BilevelProblem)
        (state: RunState)
        (steps: int)
        (found: MetagradientResult)
        (lengths: float list)
        : FiniteStep list =
        for length in lengths do
            Method.positive (nameof lengths) length

        let size = Method.size found.Lambda

        if size = 0.0 then
            invalidOp "the metagradient is 0: there is no direction in which to try it"

        [ for length in lengths ->
              Scope.run (fun _ ->
                  let moved = state.Lambda - found.Lambda * (length / size)

                  { Length = length
                    Predicted = -length * size
                    Actual = lossOfTraining problem (RunState.at 1 moved state) steps - found.Loss }) ]
