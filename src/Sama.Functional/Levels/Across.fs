namespace Sama.Functional

open System
open System.Collections.Generic
open System.Diagnostics
open System.Threading.Tasks
open TorchSharp
open Sama

/// What the engine does across the ranks of a problem; nothing on one process. Every rank comes to these points in the same
/// order: they are the only ones at which one waits for another.
module internal Across =

    let private ranks (problem: BilevelProblem) = problem.Ranks.Communicator

    let alone (problem: BilevelProblem) : bool = (ranks problem).IsAlone

    /// Where the run is, for messages; what was not finite before is forgotten.
    let at (problem: BilevelProblem) (step: int64) : unit =
        if not (alone problem) then
            (ranks problem).Place <- $"step {step}"
            (ranks problem).Culprit <- -1

    /// What ranks wait for from now on is surrounded by this, such as a clock; null: by nothing.
    let watch (problem: BilevelProblem) (around: Func<Func<int>, int>) : unit =
        if not (alone problem) then
            (ranks problem).Around <- around

    /// `wait` gives the first rank whose numbers are not finite, or −1.
    let private waited (communicator: Communicator) (wait: unit -> int) : unit =
        let clock = Stopwatch.GetTimestamp()

        let notFinite =
            match communicator.Around with
            | null -> wait ()
            | around -> around.Invoke wait

        if not (isNull communicator.OnWaited) then
            communicator.OnWaited.Invoke(Stopwatch.GetElapsedTime clock)

        if notFinite >= 0 && communicator.Culprit < 0 then
            communicator.Culprit <- notFinite

    /// Waits for what needs no numbers.
    let waitedFor (communicator: Communicator) (wait: unit -> unit) : unit =
        waited communicator (fun () ->
            wait ()
            -1)

    /// The mean over the ranks, in place.
    let mean (problem: BilevelProblem) (what: string) (x: Tensor) : unit =
        if not (alone problem) then
            let communicator = ranks problem

            waited communicator (fun () ->
                communicator
                    .Reduce($"mean of {what}", x, 0L, x.numel (), 1.0 / float communicator.Size)
                    .GetAwaiter()
                    .GetResult()
                    .NotFinite)

    /// The same of a vector that is nobody else's.
    let meanOf problem what (x: Tensor) : Tensor =
        mean problem what x
        x

    /// Gradients of a level's loss: by its own vector they are reduced, by the levels above they stay this rank's until h is.
    let own (problem: BilevelProblem) (i: int) (wanted: int list) (gradients: Tensor[]) : Tensor[] =
        if List.contains i wanted then
            mean problem $"the gradient of level '{problem.Levels[i].Name}'" gradients[i]

        gradients

    /// Products that are vectors of a level's own parameters; those by λ stay this rank's until h is reduced.
    let linearization (problem: BilevelProblem) (local: ILinearization) : ILinearization =
        if alone problem then
            local
        else
            { new ILinearization with
                member _.ThetaVjp w =
                    meanOf problem "a product" (local.ThetaVjp w)

                member _.LambdaVjp w = local.LambdaVjp w

                member _.Vjps w =
                    let struct (ofTheta, ofLambda) = local.Vjps w
                    struct (meanOf problem "a product" ofTheta, ofLambda)

                member _.LambdaJvp d =
                    meanOf problem "a product" (local.LambdaJvp d) }

    let private bucketed (problem: BilevelProblem) (what: string) (index: int) (gradient: Tensor) : Buckets =
        let level, communicator = problem.Levels[index], ranks problem
        let isDevice = communicator.IsOnDevice gradient

        let bytes =
            Buckets.Size problem.Ranks.Options.BucketBytes isDevice communicator.Hosts

        let summing = communicator.Summing($"mean of {what}", gradient, isDevice)

        // what a copy of another type is given comes when the pass is over, and so does what goes through the host's memory
        if
            bytes = 0L
            || problem.Options.Precision <> Precision.Own
            || not (isDevice || Number.onHost gradient)
        then
            new Buckets(level.Layout, gradient, Int64.MaxValue, summing)
        else
            match level.Module with
            | Some m -> new BucketsByModule(level.Layout, gradient, bytes, summing, m, level.Tied)
            | None -> new BucketsByUse(level.Layout, gradient, bytes, summing, not isDevice)

    /// The gradient of a level's loss, reduced while it comes about where its parameters tell when they are done; null on one
    /// process.
    let gradient (problem: BilevelProblem) (index: int) (gradient: Tensor) : Buckets =
        if alone problem then
            null
        else
            bucketed problem $"the gradient of level '{problem.Levels[index].Name}'" index gradient

    let private metaOf (problem: BilevelProblem) (k: int) =
        $"the meta gradient by level '{problem.Levels[k].Name}'"

    let private joins (problem: BilevelProblem) =
        problem.Ranks.Options.Response = ResponseReduction.Joined

    /// The gradient by a lowest level of a loss above it, before the response to it, in the same way.
    let metaGradient (problem: BilevelProblem) (index: int) (gradient: Tensor) : Buckets =
        if alone problem || not (joins problem) then
            null
        else
            bucketed problem (metaOf problem index) index gradient

    /// The same by a level between others, to which the responses of those below it are added first.
    let meta (problem: BilevelProblem) (k: int) (v: Tensor) : unit =
        if joins problem then
            mean problem (metaOf problem k) v

    /// Waits for a gradient.
    let finish (problem: BilevelProblem) (buckets: Buckets) : unit =
        if not (isNull buckets) then
            (ranks problem).Early <- (ranks problem).Early + buckets.Early
            waited (ranks problem) buckets.Finish

    /// Numbers of every rank, by rank; none on one process.
    let gather (problem: BilevelProblem) : (float[] -> float[][]) option =
        if alone problem then
            None
        else
            Some(fun values ->
                let communicator = ranks problem
                let mutable all = [| values |]

                waited communicator (fun () ->
                    let found, notFinite = communicator.GatherChecked values
                    all <- found
                    notFinite)

                all)

    /// Every rank is here, with the same text.
    let agree (problem: BilevelProblem) (text: string) : unit =
        if not (alone problem) then
            waitedFor (ranks problem) (fun () -> (ranks problem).Agree text)

    /// Buffers of modules become the same on all ranks.
    let buffers (problem: BilevelProblem) (live: (string * Tensor) list) : unit =
        if not (alone problem || live.IsEmpty) then
            use _ = torch.no_grad ()

            let floating, others =
                live |> List.map snd |> List.partition torch.is_floating_point

            let averaged, first =
                if problem.Ranks.Options.Buffers = RankBuffers.Mean then
                    floating, others
                else
                    [], floating @ others

            waitedFor (ranks problem) (fun () ->
                use _ = torch.NewDisposeScope()

                let together (tensors: Tensor list) (reduce: Tensor -> Task) =
                    if not tensors.IsEmpty then
                        let all =
                            (torch.cat [| for t in tensors -> t.reshape(-1L).cpu().to_type torch.float64 |]).clone ()

                        (reduce all).GetAwaiter().GetResult()
                        let parts = all.split ([| for t in tensors -> t.numel () |], 0L)

                        for t, part in Seq.zip tensors parts do
                            t.copy_ (part.reshape t.shape) |> ignore

                together averaged (ranks problem).Mean
                together first (fun x -> (ranks problem).Broadcast(x, 0)))

    /// The end of a step, where a rank can still fail without a trace: buffers become the same; now and then, that all ranks
    /// are where they should be.
    let settle (problem: BilevelProblem) (step: int64) (vectors: Tensor[]) (live: (string * Tensor) list) : unit =
        if not (alone problem) then
            buffers problem live

            if step &&& (step - 1L) = 0L then
                agree problem $"the parameters before step {step}, of checksum {Checksum.ofTensors vectors}"
            else
                agree problem "the end of a step"

    let private mark = "\031"

    let private what (e: NonFiniteException) =
        let front = $"step {e.Step}, level '{e.Level}': "
        let text = e.Message.Substring front.Length
        text.Substring(0, text.Length - " is not finite".Length)

    let private told (communicator: Communicator) (e: exn) : string =
        match e with
        | :? NonFiniteException as e ->
            let whose =
                if communicator.Culprit >= 0 then
                    $" on rank {communicator.Culprit}"
                else
                    ""

            String.Join(mark, [ "N"; string e.Step; e.Level; what e + whose ])
        | e -> String.Join(mark, [ "E"; $"rank {communicator.Rank}, {communicator.Place}: {e.Message}" ])

    /// What every rank raises where this one cannot go on: the same on all, so that all end, or leave the step out.
    let settled (problem: BilevelProblem) (e: exn) : exn =
        if alone problem then
            e
        else
            let communicator = ranks problem
            let common = communicator.Fail(told communicator e)

            match common.Message.Split mark with
            | [| "N"; step; level; what |] -> NonFiniteException(Int64.Parse step, level, what)
            | [| "E"; text |] ->
                let inner = if common.Rank = communicator.Rank then e else null
                RankFailureException(common.Rank, text, inner)
            | _ -> RankFailureException(common.Rank, $"{communicator.Place}: {common.Message}", null)

    /// What goes well on every rank or on none: no rank is asked where it does.
    let alike (problem: BilevelProblem) (body: unit -> unit) : unit =
        try
            body ()
        with e ->
            raise (settled problem e)

    /// What one rank does alone, or each by itself, without a step: where it fails on one, it fails on all.
    let guarded (problem: BilevelProblem) (what: string) (body: unit -> 'result) : 'result =
        if alone problem then
            body ()
        else
            try
                let result = body ()
                agree problem what
                result
            with e ->
                raise (settled problem e)
