namespace Sama.Functional

open System
open System.Threading.Tasks
open TorchSharp
open Sama

/// How parts of a gradient are summed over the ranks.
[<NoComparison; NoEquality>]
type internal Summing =
    {
        /// so many elements from the first on
        Part: int64 -> int64 -> Task<Verdict>
        /// whether all was finite on this rank: the first rank where it was not, or −1. Asked for once where the host would
        /// wait for every part that it looks at; none where each is looked at when it is summed
        Finite: (bool -> int) option
    }

/// A flat gradient that is reduced in parts: a bucket is a run of parameters. They are reduced from the last to the first on
/// every rank, whatever is complete first, and those that are not told of at the end of the pass: the order is the same
/// everywhere, and nothing of a bucket comes behind its reduction.
[<AllowNullLiteral>]
type internal Buckets(layout: Layout, gradient: Tensor, bytes: int64, summing: Summing) =
    let bounds =
        let ends = ResizeArray [ layout.Slices.Count ]
        let mutable size = 0L

        for i in layout.Slices.Count - 1 .. -1 .. 0 do
            size <- size + layout.Slices[i].Length * gradient.ElementSize

            if size >= bytes && i > 0 then
                ends.Add i
                size <- 0L

        ends.Add 0
        // first and end of each bucket's slices, from the last bucket to the first
        [| for k in 0 .. ends.Count - 2 -> struct (ends[k + 1], ends[k]) |]

    let isComplete = Array.create bounds.Length false
    let tasks = ResizeArray<Task<Verdict>>()
    let flags = ResizeArray<Tensor>()
    let mutable failure: exn = null

    let post () =
        let struct (first, until) = bounds[tasks.Count]
        let start = layout.Slices[first].Offset
        let last = layout.Slices[until - 1]
        let count = last.Offset + last.Length - start

        if summing.Finite.IsSome then
            Scope.tensor (fun () -> gradient.narrow(0L, start, count).isfinite().all ())
            |> Scope.detach
            |> flags.Add

        tasks.Add(summing.Part start count)

    let rec first (found: Verdict list) : int =
        match found with
        | verdict :: _ when not (isNull (box verdict)) && verdict.NotFinite >= 0 -> verdict.NotFinite
        | _ :: rest -> first rest
        | [] -> -1

    static member val private Between = 1L <<< 20

    /// What NCCL takes at a time is worth its start.
    static member val private OnDevices = 25L <<< 20

    /// Bytes of a bucket, 0 for one of all: as wanted, else by who sums and on how many hosts.
    static member Size (wanted: Nullable<int64>) (isDevice: bool) (hosts: int) : int64 =
        if wanted.HasValue then wanted.Value
        elif isDevice then Buckets.OnDevices
        elif hosts > 1 then Buckets.Between
        else 0L

    /// First and end of each bucket's slices, from the last bucket to the first.
    member _.Bounds: struct (int * int)[] = bounds

    /// The bucket that is reduced next.
    member _.Next = tasks.Count

    /// A bucket is complete: it is reduced when its turn has come.
    member _.Complete(bucket: int) : unit =
        isComplete[bucket] <- true

        while tasks.Count < bounds.Length && isComplete[tasks.Count] do
            post ()

    /// Runs what a backward pass calls: an exception there would end the process, so that it is raised at the end.
    member _.Calling(body: unit -> unit) : unit =
        try
            body ()
        with e ->
            failure <- e

    /// The parameters of the pass whose gradients complete the vector.
    abstract Watch: Params -> Params

    default _.Watch parameters = parameters

    /// That backward pass has ended.
    abstract Ended: unit -> unit

    default _.Ended() = ()

    /// How many buckets were under way before the pass ended.
    member _.Early = tasks.Count

    /// Waits for all; the first rank whose gradient is not finite, or −1. RankFailureException where a rank failed.
    member _.Finish() : int =
        if not (isNull failure) then
            raise failure

        while tasks.Count < bounds.Length do
            post ()

        match first [ for task in tasks -> task.GetAwaiter().GetResult() ], summing.Finite with
        | -1, Some vote -> vote (Number.readAll (List.ofSeq flags) |> Array.forall ((=) 1.0))
        | found, _ -> found

    abstract Free: unit -> unit

    default _.Free() =
        for flag in flags do
            flag.Dispose()

    interface IDisposable with
        member buckets.Dispose() = buckets.Free()
