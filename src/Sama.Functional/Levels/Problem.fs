namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// Problems, composed and checked before anything runs.
module Problem =

    /// Tiers of levels from the lowest up: the levels of one tier step together and do not see each other (tasks under
    /// one parent, several parents of one level), each level sees those of the tiers below and is steered by those above,
    /// as far as its loss depends on them. ArgumentException, with the reason, for options out of range, levels of one
    /// name or with a parameter in common, and a method that the levels cannot serve.
    let ofTiers (options: BilevelOptions) (method: HypergradientMethod) (tiers: Level list list) : BilevelProblem =
        Composition.compose options method tiers

    /// Levels from the lowest up, each over the one before it, the last one the meta level: `ofTiers` of one level a tier.
    /// One level alone is trained plainly; its method is not used.
    let create (options: BilevelOptions) (method: HypergradientMethod) (levels: Level list) : BilevelProblem =
        ofTiers options method [ for level in levels -> [ level ] ]

    /// The same problem with another method; refused as `create` does.
    let withMethod (method: HypergradientMethod) (problem: BilevelProblem) : BilevelProblem =
        let changed = { problem with Method = method }
        Composition.requireServed changed
        changed

    /// The same problem on ranks, each with its own rows: `data` picks them by `draw.Rank`, a batch of the problem is that of
    /// all ranks together. Every rank makes the same problem; runs of it start from rank 0's state. ArgumentException for a
    /// method that cannot be reduced in that way, a rule whose state cannot be split (ShardStates), and buckets of a negative size.
    let onRanksWith (options: ReductionOptions) (ranks: Communicator) (problem: BilevelProblem) : BilevelProblem =
        if isNull ranks then
            nullArg (nameof ranks)

        Options.requireOne "Response" options.Response
        Options.requireOne "Buffers" options.Buffers

        if options.BucketBytes.HasValue && options.BucketBytes.Value < 0L then
            invalidArg (nameof options) $"BucketBytes ({options.BucketBytes}) is negative"

        let changed =
            { problem with
                Ranks =
                    { Communicator = ranks
                      Options = options } }

        Composition.requireServed changed
        changed

    /// `onRanksWith` the default options.
    let onRanks (ranks: Communicator) (problem: BilevelProblem) : BilevelProblem =
        onRanksWith ReductionOptions.Default ranks problem

    /// The same problem on that device: parameters start there, modules are moved themselves, batches when they are drawn.
    /// States that exist move by `RunState.toDevice`.
    let toDevice (device: torch.Device) (problem: BilevelProblem) : BilevelProblem =
        { problem with
            Levels = problem.Levels |> Array.map (Level.toDevice device) }

    let internal precision (problem: BilevelProblem) : torch.ScalarType option =
        if problem.Options.Precision = Precision.BFloat16 then
            Some torch.bfloat16
        else
            None

    /// What fixes a level's batch behind base step number `step`; `micro` counts those of an accumulated base step.
    let internal draw (problem: BilevelProblem) (seed: int64) (index: int) (step: int64) (micro: int) : Draw =
        { Seed = seed
          Step =
            if problem.Heights[index] = 0 then
                step * int64 problem.Options.Accumulate + int64 micro
            else
                step / problem.Tiers[problem.Heights[index]].Period
          Stream = index
          Rank = problem.Ranks.Communicator.Rank }

    /// A level's batches behind base step number `step`, fetched.
    let internal micros (problem: BilevelProblem) (seed: int64) (index: int) (step: int64) : Micro list =
        let count =
            if problem.Heights[index] = 0 then
                problem.Options.Accumulate
            else
                1

        let fetched = List<Micro>()

        try
            for i in 0 .. count - 1 do
                fetched.Add(problem.Levels[index].Fetch problem.LevelNames (draw problem seed index step i))

            List.ofSeq fetched
        with _ ->
            for micro in fetched do
                (micro :> System.IDisposable).Dispose()

            reraise ()

    /// Modules of the levels, then those that a loss calls beside them, each named as it is in a state.
    let internal modules (problem: BilevelProblem) : (string * torch.nn.Module) list =
        let seen = HashSet<obj>(ReferenceEqualityComparer.Instance)

        [ for level in problem.Levels do
              match level.Module with
              | Some m when seen.Add m -> $"{level.Name}/", m
              | _ -> ()
          for level in problem.Levels do
              for i, m in List.indexed level.Observed.Value do
                  if seen.Add m then
                      $"{level.Name}/observed{i}/", m ]

    /// Every buffer of the problem's modules, by its name in a state.
    let internal buffers (problem: BilevelProblem) : (string * Tensor) list = Buffers.ofModules (modules problem)

    /// Runs `body` and puts every module's buffers back: only base passes may update them. It surrounds forward and
    /// backward, since the backward of a normalisation checks that its buffers are as the forward left them.
    let internal keepingBuffers (problem: BilevelProblem) (body: unit -> 'result) : 'result =
        Buffers.keeping (fun () -> buffers problem) body

    /// Runs `body` without gradients, the problem's modules and those given in eval mode, its tensors freed; modes, buffers
    /// and the CPU's generator are put back.
    let internal apart (problem: BilevelProblem) (others: torch.nn.Module list) (body: unit -> 'result) : 'result =
        let modules = [ for _, m in modules problem -> m ] @ others

        keepingBuffers problem (fun () ->
            NnModule.evaluating modules (fun () ->
                Draw.apart (fun () ->
                    use _ = torch.NewDisposeScope()
                    use _ = torch.no_grad ()
                    body ())))

    /// Points modules at the levels' parameters.
    let internal bind (problem: BilevelProblem) (parameters: Params[]) : unit =
        for level, own in Array.zip problem.Levels parameters do
            if not level.Tied.IsEmpty then
                NnModule.pointAt level.Tied own

    /// What a backward pass goes to: the views that are leaves, and the parameters of modules that stand for them. Null if
    /// a loss has disposed one of them: then it goes to all there are.
    let internal leaves (problem: BilevelProblem) (parameters: Params[]) : Tensor[] =
        let all =
            [| for level, own in Array.zip problem.Levels parameters do
                   if own.Mode = Leaves then
                       yield! own.Views

                       for tied in level.Tied do
                           for parameter in tied.Parameters do
                               parameter :> Tensor |]

        if all |> Array.exists _.IsInvalid then null else all

    /// InvalidOperationException naming a parameter that is no longer as it was when its level was made.
    let internal requireUnchanged (problem: BilevelProblem) : unit =
        for level in problem.Levels do
            level.Module
            |> Option.iter (fun m -> NnModule.requireUnchanged level.Name m level.Tied)

    /// For each level, which of its parameters a loss depends on at one batch, whatever its gradient there is.
    let internal reached (problem: BilevelProblem) (vectors: Tensor[]) (micro: Micro) : bool[][] =
        Scope.run (fun _ ->
            let parameters =
                Array.map2 (fun (level: Level) v -> Params.probe level.Layout v) problem.Levels vectors

            keepingBuffers problem (fun () ->
                bind problem parameters
                Autodiff.backward (micro.Loss Mode.Meta parameters) (leaves problem parameters))

            [| for level, own in Array.zip problem.Levels parameters do
                   let gradients =
                       if level.Tied.IsEmpty then
                           // a view that the loss has disposed, it has used
                           [| for view in own.Views -> if view.IsInvalid then view else view.grad |]
                       else
                           [| for tied in level.Tied -> tied.Parameters.Head.grad |]

                   gradients |> Array.map (isNull >> not) |])
