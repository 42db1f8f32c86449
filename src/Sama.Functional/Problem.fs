namespace Sama

open System

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
    }

    /// One base step per meta step, no warm-up, one batch a step.
    static member Default =
        { Unroll = 1
          WarmUp = 0L
          Accumulate = 1 }

/// Levels from the lowest up, and how the upper one's hypergradient is found.
[<NoComparison; NoEquality>]
type BilevelProblem =
    internal
        { Levels: Level[]
          Method: HypergradientMethod
          Options: BilevelOptions }

namespace Sama.Functional

open TorchSharp
open Sama

/// Problems, composed and checked before anything runs.
module Problem =

    /// Base level first, then the meta level. ArgumentException, with the reason, for options out of range, levels of
    /// one name, and a method that the levels cannot serve.
    let create (options: BilevelOptions) (method: HypergradientMethod) (levels: Level list) : BilevelProblem =
        if levels.Length <> 2 then
            invalidArg (nameof levels) $"a problem has a base and a meta level, {levels.Length} were given"

        for name, twice in levels |> List.countBy _.Name do
            if twice > 1 then
                invalidArg (nameof levels) $"{twice} levels are named '{name}'"

        if options.Unroll < 1 || options.Accumulate < 1 || options.WarmUp < 0L then
            invalidArg
                (nameof options)
                $"Unroll ({options.Unroll}) and Accumulate ({options.Accumulate}) are at least 1, WarmUp ({options.WarmUp}) at least 0"

        let refuse reason =
            invalidArg (nameof method) $"{method.Name} cannot be used here: {reason}"

        for need in method.Needs do
            match need, levels.Head.Rule.Adapt with
            | Adaptation, Error reason -> refuse reason
            | SecondDerivatives, _ when levels |> List.exists _.Module.IsSome ->
                refuse "a module cannot be differentiated twice; give the model as a function of Params"
            | _ -> ()

        { Levels = Array.ofList levels
          Method = method
          Options = options }

    /// Runs `body` and puts every module's buffers back: only base passes may update them. It surrounds forward and
    /// backward, since the backward of a normalisation checks that its buffers are as the forward left them.
    let internal keepingBuffers (problem: BilevelProblem) (body: unit -> 'result) : 'result =
        NnModule.keepingBuffers (problem.Levels |> Seq.choose _.Module |> List.ofSeq) body

    /// One level's loss at a draw, as a function of every level's parameters.
    let internal objective (problem: BilevelProblem) (index: int) (draw: Draw) : PassKind -> Params[] -> Tensor =
        let names = problem.Levels |> Array.map _.Name
        let loss = problem.Levels[index].Objective draw

        fun kind parameters ->
            Array.iter2 (fun level p -> level.Bind p) problem.Levels parameters
            loss kind (Levels(names, parameters))

    let internal draw (seed: int64) (stream: int) (step: int64) : Draw =
        { Seed = seed
          Step = step
          Stream = stream
          Rank = 0 }

    /// By one pass over each loss: ArgumentException naming a parameter on which none of `losses` depends.
    let private requireConnected (problem: BilevelProblem) (vectors: Tensor[]) (seed: int64) (owner: int) (losses: int list) =
        Scope.run (fun _ ->
            let reached =
                losses
                |> List.map (fun index ->
                    let parameters =
                        Array.map2 (fun level v -> Params.probe level.Layout v) problem.Levels vectors

                    keepingBuffers problem (fun () ->
                        objective problem index (draw seed index 0L) PassKind.Base parameters
                        |> Autodiff.backward)

                    let leaves =
                        match problem.Levels[owner].Module with
                        | Some m -> NnModule.parameters m
                        | None -> parameters[owner].Views

                    leaves |> Array.map (fun leaf -> not (isNull leaf.grad)))
                |> List.reduce (Array.map2 (||))

            let level = problem.Levels[owner]

            match Array.tryFindIndex not reached with
            | Some i ->
                let which =
                    losses
                    |> List.map (fun i -> $"'{problem.Levels[i].Name}'")
                    |> String.concat " nor "

                invalidArg
                    (nameof problem)
                    $"parameter '{level.Layout.Slices[i].Name}' of level '{level.Name}' does not influence the loss of level {which}"
            | None -> ())

    /// ArgumentException naming a parameter of θ that the base loss does not see, or of λ that no loss sees.
    let internal checkConnections (problem: BilevelProblem) (vectors: Tensor[]) (seed: int64) : unit =
        requireConnected problem vectors seed 0 [ 0 ]
        requireConnected problem vectors seed 1 [ 0; 1 ]
