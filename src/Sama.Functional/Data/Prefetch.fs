namespace Sama

open System
open System.Collections.Generic
open System.Threading.Tasks
open TorchSharp

/// Batches made ahead on the thread pool, one at a time, at most `depth` of them in memory beside the one that is used.
/// The batches are those of the source, which must be a function of the draw alone (and draw nothing from libtorch's
/// generator): the next draw is guessed, and a guess that fails is thrown away. Thread-safe.
[<Sealed>]
type Prefetch<'batch>(source: Func<Draw, 'batch>, depth: int) =
    do
        ArgumentNullException.ThrowIfNull(source, nameof source)
        ArgumentOutOfRangeException.ThrowIfLessThan(depth, 1, nameof depth)

    let sync = obj ()
    let ahead = Queue<struct (Draw * Task<struct ('batch * Tensor list)>)>()
    let mutable last: Task = Task.CompletedTask
    // set once the guesses that it belongs to are thrown away: those not begun are not made
    let mutable stale = ref false
    let mutable disposed = false

    let same (a: Draw) (b: Draw) =
        a.Seed = b.Seed && a.Step = b.Step && a.Stream = b.Stream && a.Rank = b.Rank

    /// In a scope of the pool's thread, held beyond it.
    let make (draw: Draw) : struct ('batch * Tensor list) =
        Sama.Functional.Scope.run (fun _ ->
            let batch, own = Sama.Functional.Batch.hold null (source.Invoke draw)
            struct (batch, own))

    let free (task: Task<struct ('batch * Tensor list)>) =
        task.ContinueWith(
            (fun (ended: Task<struct ('batch * Tensor list)>) ->
                if ended.IsCompletedSuccessfully then
                    let struct (_, own) = ended.Result

                    for tensor in own do
                        tensor.Dispose()
                else
                    // looked at, so that nobody is told of it later
                    ended.Exception |> ignore),
            TaskContinuationOptions.ExecuteSynchronously
        )
        |> ignore

    let clear () =
        stale.Value <- true
        stale <- ref false

        for struct (_, task) in ahead do
            free task

        ahead.Clear()

    let start (draw: Draw) =
        let isStale = stale

        let task =
            last.ContinueWith(
                (fun (_: Task) ->
                    if isStale.Value then
                        raise (OperationCanceledException())

                    make draw),
                TaskContinuationOptions.RunContinuationsAsynchronously
            )

        last <- task
        ahead.Enqueue(struct (draw, task))

    let take (draw: Draw) =
        lock sync (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<Prefetch<'batch>>)

            let guessed =
                match ahead.TryPeek() with
                | true, struct (first, _) -> same first draw
                | _ -> false

            if not guessed then
                clear ()
                start draw

            let struct (_, task) = ahead.Dequeue()

            for i in ahead.Count + 1 .. depth do
                start { draw with Step = draw.Step + int64 i }

            task)

    /// The source's batch of this draw; its tensors are the caller's scope's. What the source raised for the draw is raised
    /// here. ObjectDisposedException once it is disposed.
    member _.Next(draw: Draw) : 'batch =
        let struct (batch, own) = (take draw).GetAwaiter().GetResult()

        use scope = torch.NewDisposeScope()

        for tensor in own do
            scope.Attach tensor
            tensor.MoveToOuterDisposeScope() |> ignore

        batch

    interface IDisposable with
        /// Ends the work ahead and frees its batches.
        member _.Dispose() =
            lock sync (fun () ->
                disposed <- true
                clear ())
