namespace Sama

open System
open System.Collections.Generic

/// The next item of a sequence, such as a DataLoader, at every draw; from its beginning when it ends. The order in which
/// draws are asked for decides, not the draw. For one thread at a time.
[<Sealed>]
type BatchStream<'batch>(batches: IEnumerable<'batch>) =
    do ArgumentNullException.ThrowIfNull(batches, nameof batches)
    let mutable items: IEnumerator<'batch> = null

    let rec next (restarted: bool) : 'batch =
        if isNull items then
            items <- batches.GetEnumerator()

        if items.MoveNext() then
            items.Current
        else
            items.Dispose()
            items <- null

            if restarted then
                raise (InvalidOperationException "the sequence of batches is empty")

            next true

    /// The next item, whatever the draw. InvalidOperationException if the sequence is empty.
    member _.Next(_draw: Draw) : 'batch = next (isNull items)

    interface IStream
