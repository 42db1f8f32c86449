namespace Sama.Functional

open System
open System.Collections.Generic
open System.Threading.Tasks
open TorchSharp
open Sama

/// What happens to a gradient in the backward pass, where the node of a parameter is reached.
type internal Arrival = delegate of Tensor -> unit

/// The identity on a parameter. The engine of derivatives takes nodes in the order in which they were made, the last first:
/// when this one is reached, everything that was made behind it in the forward pass is done.
type internal Milestone() =
    inherit torch.autograd.SingleTensorFunction<Milestone>()
    override _.Name = "SamaMilestone"

    override _.forward(context, values) =
        context.save_data ("arrival", values[1])
        (values[0] :?> Tensor).alias ()

    override _.backward(context, gradient) =
        (context.get_data "arrival" :?> Arrival).Invoke gradient
        let none = List<Tensor>()
        none.Add null
        none.Add null
        none

/// A flat gradient that is reduced in parts while the backward pass goes on. A bucket is a run of parameters; it is complete
/// when the node at its first use in the forward pass is reached. Buckets are reduced from the last to the first on every
/// rank, whatever is complete first, and those that no pass reached at the end: the order is the same everywhere.
[<Sealed; AllowNullLiteral>]
type internal Buckets
    (layout: Layout, gradient: Tensor, bytes: int64, isWatching: bool, reduce: int64 -> int64 -> Task<Verdict>) =
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

    let bucketOf =
        [| for i in 0 .. layout.Slices.Count - 1 ->
               bounds |> Array.findIndex (fun struct (first, until) -> i >= first && i < until) |]

    let entry = Array.create bounds.Length -1
    let isComplete = Array.create bounds.Length false
    let tasks = ResizeArray<Task<Verdict>>()
    let made = ResizeArray<Tensor>()
    let known = Array.zeroCreate<Tensor> layout.Slices.Count
    let mutable failure: exn = null

    let post () =
        let struct (first, until) = bounds[tasks.Count]
        let start = layout.Slices[first].Offset
        let last = layout.Slices[until - 1]
        tasks.Add(reduce start (last.Offset + last.Length - start))

    let complete (bucket: int) =
        isComplete[bucket] <- true

        while tasks.Count < bounds.Length && isComplete[tasks.Count] do
            post ()

    /// An exception in a backward pass would end the process.
    let arrive bucket isFirst (slot: Tensor) (given: Tensor) =
        try
            if not (isNull given) then
                slot.add_ given |> ignore

            if isFirst then
                complete bucket
        with e ->
            failure <- e

    /// The parameters of the pass whose gradients complete the vector.
    member _.Watch(parameters: Params) : Params =
        let seen i =
            let view = parameters.Views[i]
            let bucket = bucketOf[i]

            if entry[bucket] >= 0 && entry[bucket] <> i || not (view.requires_grad) then
                view
            elif not (isNull known[i]) && not known[i].IsInvalid then
                known[i]
            else
                let isFirst = entry[bucket] < 0
                entry[bucket] <- i

                let arrival =
                    Arrival(fun given -> arrive bucket isFirst parameters.Gradients[i] given)

                // a scope of the loss's own may end before the pass
                known[i] <- Scope.detach (Milestone.apply (view, arrival))
                made.Add known[i]
                known[i]

        if isWatching then parameters.Seeing seen else parameters

    /// How many buckets were under way before the pass ended.
    member _.Early = tasks.Count

    /// Waits for all; the first rank whose gradient is not finite, or −1. RankFailureException where a rank failed.
    member _.Finish() : int =
        for tensor in made do
            tensor.Dispose()

        if not (isNull failure) then
            raise failure

        while tasks.Count < bounds.Length do
            post ()

        let mutable notFinite = -1

        for task in tasks do
            let verdict = task.GetAwaiter().GetResult()

            if not (isNull (box verdict)) && verdict.NotFinite >= 0 && notFinite < 0 then
                notFinite <- verdict.NotFinite

        notFinite

    interface IDisposable with
        member _.Dispose() =
            for tensor in made do
                tensor.Dispose()
