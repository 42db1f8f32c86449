namespace Sama

open System
open System.Collections.Generic

/// The next item of a sequence, such as a DataLoader, at every draw; from its beginning when it has ended or failed. The order in which
/// draws are asked for decides, not the draw. For one thread at a time.
[<Sealed>]
type BatchStream<'batch>(batches: IEnumerable<'batch>) =
    do ArgumentNullException.ThrowIfNull(batches, nameof batches)
    let mutable items: IEnumerator<'batch> = null

    let rec next (restarted: bool) : 'batch =
        if isNull items then
            items <- batches.GetEnumerator()

        let ended () =
            items.Dispose()
            items <- null

        let more =
            try
                items.MoveNext()
            with _ ->
                // an iterator that failed has ended: the next draw begins anew
                ended ()
                reraise ()

        if more then
            items.Current
        else
            ended ()

            if restarted then
                raise (InvalidOperationException "the sequence of batches is empty")

            next true

    /// The next item, whatever the draw. InvalidOperationException if the sequence is empty.
    member _.Next(_draw: Draw) : 'batch = next (isNull items)

    interface IStream
