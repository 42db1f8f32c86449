namespace Sama.Functional

open System

/// A vector of which a range is summed: elements of 4 or 8 bytes.
[<Struct; NoComparison; NoEquality>]
type internal RankRange =
    {
        /// where the vector begins
        Data: nativeint
        /// bytes of an element
        Bytes: int
        /// elements of the vector
        Length: int64
        First: int64
        Count: int64
    }

/// A block that is going round.
[<Sealed; AllowNullLiteral>]
type internal RingBlock(scratch: int) =
    let incoming = new RankMemory(scratch)
    let send, receive = new Message(), new Message()

    member val Start = 0L with get, set
    member val Length = 0L with get, set
    member val Step = 0 with get, set
    member val IsBusy = false with get, set
    member val WasReceived = false with get, set
    member _.Incoming = incoming.Address
    member _.Send = send
    member _.Receive = receive

    interface IDisposable with
        member _.Dispose() =
            (incoming :> IDisposable).Dispose()
            (send :> IDisposable).Dispose()
            (receive :> IDisposable).Dispose()

/// Sums over the ranks: blocks of 1 MB of the vector, each a ring of reduce-scatter and all-gather (Patarasuk and Yuan,
/// Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations, 2009), some of them under way at a time. Which rank
/// adds first is a function of the element's place in the vector and of the number of ranks alone: the bits are those of
/// every cut into ranges, of every MPI, whatever arrives first.
[<Sealed>]
type internal Ring(wire: Wire) =
    let rank, size = wire.Rank, wire.Size
    let blockBytes = 1 <<< 20
    let tag = 16
    let right, left = (rank + 1) % size, (rank - 1 + size) % size
    // a segment of a block is at most its share, rounded up
    let scratch = (blockBytes / 8 / size + 2) * 8

    let blocks = Array.init 4 (fun _ -> new RingBlock(scratch))
    let around (i: int) = ((i % size) + size) % size

    /// Segment i of a block, as far as it lies in the range: first element and how many.
    let segment (range: RankRange) (block: RingBlock) (i: int) : struct (int64 * int) =
        let from = block.Start + block.Length * int64 i / int64 size
        let until = block.Start + block.Length * int64 (i + 1) / int64 size
        let from, until = max from range.First, min until (range.First + range.Count)
        struct (from, int (max 0L (until - from)))

    let isReducing (block: RingBlock) = block.Step < size - 1

    let sent (block: RingBlock) =
        if isReducing block then
            around (rank - block.Step)
        else
            around (rank + 1 - (block.Step - (size - 1)))

    let received (block: RingBlock) = around (sent block - 1)

    let place (range: RankRange) (element: int64) =
        range.Data + nativeint (element * int64 range.Bytes)

    let launch (range: RankRange) (slot: int) =
        let block = blocks[slot]
        let struct (to', outgoing) = segment range block (sent block)
        let struct (from, incoming) = segment range block (received block)
        block.WasReceived <- false

        if incoming > 0 then
            let target =
                if isReducing block then
                    block.Incoming
                else
                    place range from

            block.Receive.Receive(target, incoming * range.Bytes, left, tag + slot)

        if outgoing > 0 then
            block.Send.Send(place range to', outgoing * range.Bytes, right, tag + slot)

    /// What has arrived is added; the sum is scaled where it is complete.
    let accept (range: RankRange) (scale: float) (block: RingBlock) =
        block.WasReceived <- true

        if isReducing block then
            let struct (from, count) = segment range block (received block)
            let scale = if block.Step = size - 2 then scale else 1.0
            RankKernels.add range.Bytes scale (place range from) block.Incoming count

    /// True if the block went on.
    let advance (range: RankRange) scale slot : bool =
        let block = blocks[slot]
        let mutable moved = false

        if not block.WasReceived && block.Receive.Done then
            accept range scale block
            moved <- true

        if block.WasReceived && block.Send.Done then
            block.Step <- block.Step + 1
            moved <- true

            if block.Step = 2 * size - 2 then
                block.IsBusy <- false
            else
                launch range slot

        moved

    /// range ← scale · Σ over ranks; scale is 1 on one rank. Every rank calls it with the same range.
    member _.Sum(range: RankRange, scale: float) : unit =
        let elements = int64 (blockBytes / range.Bytes)
        let last = (range.First + range.Count - 1L) / elements
        let mutable next = range.First / elements

        let start () =
            let slot = int (next % int64 blocks.Length)
            let block = blocks[slot]

            if next <= last && not block.IsBusy then
                block.Start <- next * elements
                block.Length <- min elements (range.Length - block.Start)
                block.Step <- 0
                block.IsBusy <- true
                next <- next + 1L
                launch range slot
                true
            else
                false

        let poll () =
            let mutable moved = start ()
            let mutable busy = false

            for slot in 0 .. blocks.Length - 1 do
                if blocks[slot].IsBusy then
                    moved <- advance range scale slot || moved
                    busy <- busy || blocks[slot].IsBusy

            struct (next > last && not busy, moved)

        if range.Count > 0L && size > 1 then
            wire.Await(poll, fun () -> $"rank {left}, whose part of the sum has not come")

    /// The bytes of one rank on all: each passes them on to its right.
    member _.Broadcast(data: nativeint, bytes: int64, root: int) : unit =
        let parts = (bytes + int64 blockBytes - 1L) / int64 blockBytes

        let part i =
            int (min (int64 blockBytes) (bytes - i * int64 blockBytes))

        let message = blocks[0]

        for i in 0L .. (if size > 1 then parts - 1L else -1L) do
            let at = data + nativeint (i * int64 blockBytes)

            if rank <> root then
                message.Receive.Receive(at, part i, left, tag)

                wire.Await(
                    (fun () -> struct (message.Receive.Done, false)),
                    fun () -> $"rank {left}, whose part of a broadcast has not come"
                )

            // the part before is on its way meanwhile
            wire.Await(
                (fun () -> struct (message.Send.Done, false)),
                fun () -> $"rank {right}, which takes no part of a broadcast"
            )

            if right <> root then
                message.Send.Send(at, part i, right, tag)

        wire.Await(
            (fun () -> struct (message.Send.Done, false)),
            fun () -> $"rank {right}, which takes no part of a broadcast"
        )

    /// Of rank r, bytes `bounds[r]` to `bounds[r + 1]` on all: each passes on what it has got, a rank's part at a time.
    member _.Gather(data: nativeint, bounds: int64[]) : unit =
        let parts (r: int) =
            (bounds[r + 1] - bounds[r] + int64 blockBytes - 1L) / int64 blockBytes

        let place (r: int) (i: int64) : struct (nativeint * int) =
            let from = bounds[r] + i * int64 blockBytes
            struct (data + nativeint from, int (min (int64 blockBytes) (bounds[r + 1] - from)))

        let message = blocks[0]

        for step in 0 .. size - 2 do
            let own, theirs = around (rank - step), around (rank - step - 1)

            for i in 0L .. max (parts own) (parts theirs) - 1L do
                if i < parts theirs then
                    let struct (at, count) = place theirs i
                    message.Receive.Receive(at, count, left, tag)

                if i < parts own then
                    let struct (at, count) = place own i
                    message.Send.Send(at, count, right, tag)

                wire.Await(
                    (fun () -> struct (message.Receive.Done && message.Send.Done, false)),
                    fun () -> $"rank {left} or {right}, whose part has not come or is not taken"
                )

    interface IDisposable with
        member _.Dispose() =
            for block in blocks do
                (block :> IDisposable).Dispose()
