namespace Sama

open System
open System.Threading.Tasks
open TorchSharp
open Sama.Functional

/// This process among the ranks, each of which runs the same program. What it offers is done by all ranks together, in the
/// same order on each: a rank that is about to do something else, that fails, or that does not come within the timeout ends
/// it on all. The bits of a sum do not depend on the MPI at hand nor on what arrives first. For one thread at a time.
[<Sealed; AllowNullLiteral>]
type Communicator internal (thread: RankThread option, transport: RankTransport) =
    let struct (rank, size, library) =
        match thread with
        | Some thread -> thread.Started
        | None -> struct (0, 1, "none")

    let mutable left = false
    let mutable place = "before its first step"
    let none: Task<Verdict> = Task.FromResult(Unchecked.defaultof<Verdict>)

    let ballot what : Ballot =
        { What = what
          Failure = null
          IsFinite = true
          Values = [||] }

    let post (what: string) (full: Ballot -> Ballot) (act: Link -> unit) : Task<Verdict> =
        match thread with
        | None -> none
        | Some thread ->
            let what = $"{place}: {what}"
            thread.Post((fun () -> full (ballot what)), act)

    /// For callers outside the engine: what failed is over once they are told.
    let restarting (body: unit -> 'result) : 'result =
        try
            body ()
        with :? RankFailureException ->
            thread |> Option.iter _.Restart()
            reraise ()

    let observed (task: Task) : Task =
        if task.IsCompletedSuccessfully then
            task
        else
            task
                .ContinueWith(
                    (fun (ended: Task) ->
                        if ended.IsFaulted then
                            thread |> Option.iter _.Restart()

                        ended),
                    TaskScheduler.Default
                )
                .Unwrap()

    let reduce looks (what: string) (tensor: Tensor) (first: int64) (count: int64) (scale: float) : Task<Verdict> =
        RankTensors.require tensor first count

        if thread.IsNone || count = 0L then
            none
        else
            RankTensors.reduce post transport looks what tensor first count scale

    /// One process, which is all there is.
    static member val Single = new Communicator(None, RankTransport.Auto)

    /// This process's number, from 0.
    member _.Rank: int = rank

    /// How many there are.
    member _.Size: int = size

    /// How many machines the ranks are on.
    member val internal Hosts = 1 with get, set

    /// One process, which waits for nobody.
    member internal _.IsAlone = thread.IsNone

    /// What MPI calls itself; "none" on one process.
    member _.Library: string = library

    /// Where the program is, for messages.
    member internal _.Place
        with get () = place
        and set (value: string) =
            place <- value
            thread |> Option.iter (fun thread -> thread.Place <- value)

    /// The first rank whose numbers were not finite, or −1, since that was last asked.
    member val internal Culprit = -1 with get, set

    /// What surrounds everything that the engine waits for, such as a clock; null: nothing.
    member val internal Around: Func<Func<int>, int> = null with get, set

    /// Told of everything that the engine waits for, how long that was.
    member val internal OnWaited: Action<TimeSpan> = null with get, set

    /// Buckets that were on their way before their backward pass ended.
    member val internal Early = 0 with get, set

    member internal _.Reduce(what, tensor, first, count, scale) =
        reduce true what tensor first count scale

    /// Whether a vector goes from device to device.
    member internal _.IsOnDevice(tensor: Tensor) : bool =
        thread.IsSome && RankTensors.onDevice transport tensor

    /// How parts of a gradient become their mean over the ranks.
    member internal _.Summing(what: string, gradient: Tensor, isDevice: bool) : Summing =
        let vote isFinite =
            (post $"whether {what} is finite" (fun ballot -> { ballot with IsFinite = isFinite }) ignore)
                .GetAwaiter()
                .GetResult()
                .NotFinite

        { Part = fun first count -> reduce (not isDevice) what gradient first count (1.0 / float size)
          Finite = if isDevice then Some vote else None }

    /// The sum over the ranks of so many elements from `first` on, in their place; the tensor (contiguous, floating-point) is
    /// not to be touched before the task ends. ArgumentException for another tensor or range; the task's RankFailureException where
    /// a rank fails.
    member _.Sum(tensor: Tensor, first: int64, count: int64) : Task =
        observed (reduce true "sum" tensor first count 1.0)

    /// The sum over the ranks of a whole tensor, in its place.
    member ranks.Sum(tensor: Tensor) : Task =
        ArgumentNullException.ThrowIfNull(tensor, nameof tensor)
        ranks.Sum(tensor, 0L, tensor.numel ())

    /// The mean over the ranks of a whole tensor, in its place.
    member _.Mean(tensor: Tensor) : Task =
        ArgumentNullException.ThrowIfNull(tensor, nameof tensor)
        observed (reduce true "mean" tensor 0L (tensor.numel ()) (1.0 / float size))

    /// Of rank r, elements `bounds[r]` to `bounds[r + 1]` of a flat tensor, on every rank, in their places.
    member internal _.GatherParts(what: string, tensor: Tensor, bounds: int64[]) : Task<Verdict> =
        if thread.IsNone then
            none
        else
            RankTensors.gather post transport what tensor bounds

    /// The mean over the ranks of a number.
    member ranks.Mean(value: float) : float =
        if size = 1 then
            value
        else
            ranks.Gather [| value |] |> Array.averageBy Array.head

    /// The tensor of rank `root` (contiguous, of any type, the same shape everywhere) on every rank, in its place.
    member _.Broadcast(tensor: Tensor, root: int) : Task =
        ArgumentNullException.ThrowIfNull(tensor, nameof tensor)

        if root < 0 || root >= size then
            invalidArg (nameof root) $"there are {size} ranks, {root} is none of them"

        if not (tensor.is_contiguous ()) then
            invalidArg (nameof tensor) "a contiguous tensor is needed"

        if thread.IsNone || tensor.numel () = 0L then
            Task.CompletedTask
        else
            observed (RankTensors.broadcast post transport tensor root)

    /// The numbers of every rank, by rank: as many on each.
    member ranks.Gather(values: float[]) : float[][] =
        ArgumentNullException.ThrowIfNull(values, nameof values)
        restarting (fun () -> fst (ranks.GatherChecked values))

    /// And the first rank that has one that is not finite, or −1.
    member internal _.GatherChecked(values: float[]) : float[][] * int =
        if thread.IsNone then
            [| values |], (if Array.forall Double.IsFinite values then -1 else 0)
        else
            let parts =
                [ for part in Array.chunkBySize 32 values ->
                      (post
                          $"{values.Length} numbers of each"
                          (fun ballot ->
                              { ballot with
                                  Values = part
                                  IsFinite = Array.forall Double.IsFinite part })
                          ignore)
                          .GetAwaiter()
                          .GetResult() ]

            [| for r in 0 .. size - 1 -> Array.concat [ for part in parts -> part.Values[r] ] |],
            parts
            |> List.tryPick (fun part -> if part.NotFinite >= 0 then Some part.NotFinite else None)
            |> Option.defaultValue -1

    /// True on every rank if it is true on one.
    member ranks.Any(flag: bool) : bool =
        if size = 1 then
            flag
        else
            ranks.Gather [| (if flag then 1.0 else 0.0) |]
            |> Array.exists (fun values -> values[0] > 0.0)

    /// Every rank has come here, with the same text; RankFailureException with the first line that differs.
    member internal _.Agree(text: string) : unit =
        (post text id ignore).GetAwaiter().GetResult() |> ignore

    /// Every rank has come here.
    member ranks.Barrier() : unit =
        restarting (fun () -> ranks.Agree "a barrier")

    /// This rank cannot go on: what every rank raises for it, this one included. Where another failed before, that.
    member internal _.Fail(reason: string) : RankFailureException =
        match thread with
        | None -> RankFailureException(0, reason, null)
        | Some thread ->
            let common =
                try
                    (thread.Post((fun () -> { ballot "" with Failure = reason }), ignore)).GetAwaiter().GetResult()
                    |> ignore

                    RankFailureException(rank, reason, null)
                with :? RankFailureException as common ->
                    common

            thread.Restart()
            common

    /// Ends the processes of all ranks at once, with a message that has this rank and its step.
    member _.Abort(reason: string) : unit =
        match thread with
        | Some thread when not left -> thread.Abort($"rank {rank}, {place}: {reason}; every rank is ended", 1)
        | _ ->
            Console.Error.WriteLine $"Sama: {reason}"
            exit 1

    member internal _.Left = left

    /// Told to end from outside: says where it was, which is all that is known of a rank that was killed.
    member internal _.SayWhere(why: string) : unit =
        match thread with
        | Some thread when not left ->
            let doing =
                if isNull thread.Doing then
                    "about its own work"
                else
                    $"in: {thread.Doing}"

            Console.Error.WriteLine $"Sama: rank {rank}, {place}: {why} ({doing})"
            Console.Error.Flush()
        | _ -> ()

    /// The ranks part: waits until all have come here. MPI does not start again in these processes.
    member _.Dispose() : unit =
        if not left then
            match thread with
            | None -> ()
            | Some thread ->
                left <- true

                try
                    (thread.Post((fun () -> ballot "the end of the program, or of its ranks"), ignore))
                        .GetAwaiter()
                        .GetResult()
                    |> ignore
                with :? RankFailureException as e ->
                    Console.Error.WriteLine $"Sama: rank {rank}, {place}: left the others: {e.Message}"

                thread.Stop()

    interface IDisposable with
        member ranks.Dispose() = ranks.Dispose()
