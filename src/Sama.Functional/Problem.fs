namespace Sama

open System

/// What a run does when a loss, gradient or update is not finite.
type NonFinitePolicy =
    /// NonFiniteException, the state as it was before the step
    | Stop = 0
    /// the step is left out, θ, λ and rule states stay as they were, and its report says so
    | Skip = 1

/// The type in which base and meta passes compute. Vectors, rules and perturbed passes keep the parameters' own type: in
/// bfloat16 θ ± εv is mostly below one unit in the last place.
type Precision =
    /// the parameters' own
    | Own = 0
    /// bfloat16
    | BFloat16 = 1

/// How a problem is run.
[<NoComparison>]
type BilevelOptions =
    {
        /// K, base steps per meta step
        Unroll: int
        /// base steps before the first window that ends with a meta step
        WarmUp: int64
        /// micro-batches a base step; their draws have steps t·Accumulate + i
        Accumulate: int
        /// what a run does at what is not finite
        NonFinite: NonFinitePolicy
        /// the type in which base and meta passes compute
        Precision: Precision
    }

    /// One base step per meta step, no warm-up, one batch a step, stop at what is not finite, the parameters' own type.
    static member Default =
        { Unroll = 1
          WarmUp = 0L
          Accumulate = 1
          NonFinite = NonFinitePolicy.Stop
          Precision = Precision.Own }

/// Levels from the lowest up, and how the upper one's hypergradient is found.
[<NoComparison; NoEquality>]
type BilevelProblem =
    internal
        { Levels: Level[]
          Method: HypergradientMethod
          Options: BilevelOptions }

    /// The levels' names, from the lowest up.
    member problem.LevelNames = problem.Levels |> Array.map _.Name

namespace Sama.Functional

open TorchSharp
open Sama

/// Problems, composed and checked before anything runs.
module Problem =

    let private requireServed (options: BilevelOptions) (method: HypergradientMethod) (levels: Level list) =
        let refuse reason =
            invalidArg (nameof method) $"{method.Name} cannot be used here: {reason}"

        let below = List.take (levels.Length - 1) levels

        if levels.Length > 2 && method.Adjoint.IsNone then
            refuse
                "more than two levels need a method that solves for its adjoint (exact, conjugateGradient, neumann, …)"

        for level in below do
            for need in method.Needs do
                match need with
                | Adaptation ->
                    match level.Rule.Adapt with
                    | Error reason -> refuse reason
                    | Ok _ -> ()
                | SecondDerivatives when levels |> List.exists _.Module.IsSome ->
                    refuse "a module cannot be differentiated twice; give the model as a function of Params"
                | ElementwiseRule when not level.Rule.Elementwise ->
                    refuse $"the rule of level '{level.Name}' couples coordinates"
                | History steps when steps > options.Unroll ->
                    refuse $"it goes through {steps} base steps, more than Unroll ({options.Unroll})"
                | MicroBatches count when count > options.Accumulate ->
                    refuse
                        $"it asks for {count} micro-batches of a base step, which has {options.Accumulate} (Accumulate)"
                | AtMost size when level.Layout.Length > size ->
                    refuse
                        $"level '{level.Name}' has {level.Layout.Length} parameters, its limit is {size}; conjugateGradient and neumann have none"
                | _ -> ()

    /// Levels from the lowest up, the last one the meta level; runs have two, `Hypergradient.at` takes three.
    /// ArgumentException, with the reason, for options out of range, levels of one name, and a method that the levels
    /// cannot serve.
    let create (options: BilevelOptions) (method: HypergradientMethod) (levels: Level list) : BilevelProblem =
        if levels.Length < 2 || levels.Length > 3 then
            invalidArg (nameof levels) $"a problem has two or three levels, {levels.Length} were given"

        for name, twice in levels |> List.countBy _.Name do
            if twice > 1 then
                invalidArg (nameof levels) $"{twice} levels are named '{name}'"

        for level in levels.Tail do
            if string level.Device <> string levels.Head.Device then
                invalidArg
                    (nameof levels)
                    $"level '{level.Name}' is on {level.Device}, '{levels.Head.Name}' on {levels.Head.Device}; a problem has one device (Problem.toDevice)"

        if options.Unroll < 1 || options.Accumulate < 1 || options.WarmUp < 0L then
            invalidArg
                (nameof options)
                $"Unroll ({options.Unroll}) and Accumulate ({options.Accumulate}) are at least 1, WarmUp ({options.WarmUp}) at least 0"

        requireServed options method levels

        { Levels = Array.ofList levels
          Method = method
          Options = options }

    /// The same problem with another method; refused as `create` does.
    let withMethod (method: HypergradientMethod) (problem: BilevelProblem) : BilevelProblem =
        requireServed problem.Options method (List.ofArray problem.Levels)
        { problem with Method = method }

    /// The same problem on that device: parameters start there, modules are moved themselves. Batches are not: `data`
    /// gives them on the device. States that exist move by `RunState.toDevice`.
    let toDevice (device: torch.Device) (problem: BilevelProblem) : BilevelProblem =
        { problem with
            Levels = problem.Levels |> Array.map (Level.toDevice device) }

    /// ArgumentException naming a level whose vector is not on the problem's device.
    let internal requireDevice (problem: BilevelProblem) (vectors: Tensor seq) : unit =
        for level, vector in Seq.zip problem.Levels vectors do
            if string vector.device <> string level.Device then
                invalidArg
                    "state"
                    $"level '{level.Name}' of the state is on {vector.device}, of the problem on {level.Device}; move one of them (RunState.toDevice, Problem.toDevice)"

    let internal precision (problem: BilevelProblem) : torch.ScalarType option =
        if problem.Options.Precision = Precision.BFloat16 then
            Some torch.bfloat16
        else
            None

    /// Base steps that the method looks back on, the last one included.
    let internal history (problem: BilevelProblem) : int =
        problem.Method.Needs
        |> List.tryPick (function
            | History 0 -> Some problem.Options.Unroll
            | History steps -> Some steps
            | _ -> None)
        |> Option.defaultValue 1

    /// Runs `body` and puts every module's buffers back: only base passes may update them. It surrounds forward and
    /// backward, since the backward of a normalisation checks that its buffers are as the forward left them.
    let internal keepingBuffers (problem: BilevelProblem) (body: unit -> 'result) : 'result =
        NnModule.keepingBuffers (problem.Levels |> Seq.choose _.Module |> List.ofSeq) body

    /// One level's loss at a draw, as a function of every level's parameters.
    let internal objective (problem: BilevelProblem) (index: int) (draw: Draw) : Stops -> Params[] -> Tensor =
        let names = problem.Levels |> Array.map _.Name
        let loss = problem.Levels[index].Objective draw

        fun stops parameters ->
            Array.iter2 (fun level p -> level.Bind p) problem.Levels parameters
            loss stops (Levels(names, parameters))

    let internal draw (seed: int64) (stream: int) (step: int64) : Draw =
        { Seed = seed
          Step = step
          Stream = stream
          Rank = 0 }

    /// For each level, which of its parameters one level's loss depends on: by one pass of that loss.
    let private reached (problem: BilevelProblem) (vectors: Tensor[]) (seed: int64) (index: int) : bool[][] =
        Scope.run (fun _ ->
            let parameters =
                Array.map2 (fun level v -> Params.probe level.Layout v) problem.Levels vectors

            keepingBuffers problem (fun () ->
                objective problem index (draw seed index 0L) Detach parameters
                |> Autodiff.requireLoss
                |> Autodiff.backward)

            [| for level, own in Array.zip problem.Levels parameters ->
                   level.Module
                   |> Option.map NnModule.parameters
                   |> Option.defaultValue own.Views
                   |> Array.map (fun leaf -> not (isNull leaf.grad)) |])

    /// ArgumentException naming a parameter that neither its own level's loss nor one below it sees.
    let internal checkConnections (problem: BilevelProblem) (vectors: Tensor[]) (seed: int64) : unit =
        let byLoss =
            [ for index in 0 .. problem.Levels.Length - 1 -> reached problem vectors seed index ]

        for owner, level in Array.indexed problem.Levels do
            let seen =
                byLoss
                |> List.truncate (owner + 1)
                |> List.map (Array.item owner)
                |> List.reduce (Array.map2 (||))

            match Array.tryFindIndex not seen with
            | Some i ->
                let losses =
                    problem.Levels[..owner]
                    |> Array.map (fun l -> $"'{l.Name}'")
                    |> String.concat " nor "

                invalidArg
                    (nameof problem)
                    $"parameter '{level.Layout.Slices[i].Name}' of level '{level.Name}' does not influence the loss of level {losses}"
            | None -> ()
