namespace Sama.Functional

open System
open System.Runtime.InteropServices
open System.Text

/// What a rank brings to an agreement, in front of everything that the ranks do together.
[<NoComparison; NoEquality>]
type internal Ballot =
    {
        /// what is about to happen: it has to be the same on every rank
        What: string
        /// why this rank cannot go on, or null
        Failure: string
        /// false if its numbers are not finite
        IsFinite: bool
        /// numbers of its own, which every rank is to see; the same count on every rank, 32 at most
        Values: float[]
    }

/// What came of it, the same on every rank.
[<NoComparison; NoEquality>]
type internal Verdict =
    {
        /// the first rank that failed, or that is about to do something else than rank 0; −1: they go on
        Failed: int
        /// what it said, or does, and what rank 0 does; null where they go on
        Reason: string
        Other: string
        /// the first rank whose numbers are not finite, or −1
        NotFinite: int
        /// by rank
        Values: float[][]
    }

/// Agreements: every rank tells rank 0, which tells all. Rank 0 knows by name who has not come.
[<Sealed>]
type internal Star(wire: Wire) =
    let rank, size = wire.Rank, wire.Size
    let slots = 32
    // failure, hash, finite, values
    let ballotWords = 3 + slots
    let ballotBytes = ballotWords * 8
    let up, down, text = 1, 2, 3
    let peers = if rank = 0 then size else 1
    let incoming = new RankMemory(ballotBytes * peers)
    let own = new RankMemory(ballotBytes)
    // failed, mismatch, not finite, and everybody's values
    let verdictBytes = (3 + size * slots) * 8
    let verdict = new RankMemory(verdictBytes)
    let messages = [| for _ in 1..size -> new Message() |]

    let word (at: nativeint) (i: int) =
        Marshal.ReadInt64(at + nativeint (i * 8))

    let put (at: nativeint) (i: int) (value: int64) =
        Marshal.WriteInt64(at + nativeint (i * 8), value)

    // FNV-1a: the same in every process
    let hash (what: string) : int64 =
        let mutable h = 0xcbf29ce484222325UL

        for b in Encoding.UTF8.GetBytes what do
            h <- (h ^^^ uint64 b) * 0x100000001b3UL

        int64 h

    let awaitAll (others: int list) (missing: int list -> string) =
        wire.Await(
            (fun () -> struct (others |> List.forall (fun r -> messages[r].Done), false)),
            fun () -> others |> List.filter (fun r -> not messages[r].Done) |> missing
        )

    let ranks (list: int list) =
        match list with
        | [ one ] -> $"rank {one}"
        | many -> "ranks " + String.Join(", ", many)

    let others = [ 1 .. size - 1 ]

    let write (at: nativeint) (ballot: Ballot) =
        put at 0 (if isNull ballot.Failure then 0L else 1L)
        put at 1 (hash ballot.What)
        put at 2 (if ballot.IsFinite then 1L else 0L)

        ballot.Values
        |> Array.iteri (fun i x -> put at (3 + i) (BitConverter.DoubleToInt64Bits x))

    /// Rank 0's own ballot lies in front of the others'.
    let count (values: int) =
        let at r =
            incoming.Address + nativeint (r * ballotBytes)

        let all = [ 0 .. size - 1 ]

        let first condition =
            all |> List.tryFind condition |> Option.defaultValue -1 |> int64

        put verdict.Address 0 (first (fun r -> word (at r) 0 = 1L))
        put verdict.Address 1 (first (fun r -> word (at r) 1 <> word (at 0) 1))
        put verdict.Address 2 (first (fun r -> word (at r) 2 = 0L))

        for r in all do
            for i in 0 .. values - 1 do
                put verdict.Address (3 + r * values + i) (word (at r) (3 + i))

    let atRoot (ballot: Ballot) =
        write incoming.Address ballot

        for r in others do
            messages[r].Receive(incoming.Address + nativeint (r * ballotBytes), ballotBytes, r, up)

        awaitAll others (fun late -> $"{ranks late}, which did not come to it")
        count ballot.Values.Length

        for r in others do
            messages[r].Send(verdict.Address, (3 + size * ballot.Values.Length) * 8, r, down)

        awaitAll others (fun late -> $"{ranks late}, which take no answer")

    let atLeaf (ballot: Ballot) =
        write own.Address ballot
        messages[0].Receive(verdict.Address, verdictBytes, 0, down)
        messages[1].Send(own.Address, ballotBytes, 0, up)

        wire.Await(
            (fun () -> struct (messages[0].Done && messages[1].Done, false)),
            fun () -> "rank 0, which gave no answer"
        )

    /// A text of one rank, on all.
    let tell (from: int) (own: string) : string =
        let bytes = if rank = from then Encoding.UTF8.GetBytes own else [||]
        use length = new RankMemory(8)
        Marshal.WriteInt64(length.Address, int64 bytes.Length)

        let exchange (at: nativeint) (count: int) =
            if rank = from then
                let others =
                    [ for r in 0 .. size - 1 do
                          if r <> from then
                              r ]

                for r in others do
                    messages[r].Send(at, count, r, text)

                awaitAll others (fun late -> $"{ranks late}, which take no answer")
            else
                messages[from].Receive(at, count, from, text)
                awaitAll [ from ] (fun _ -> $"rank {from}, which does not say what it failed of")

        exchange length.Address 8
        let count = int (Marshal.ReadInt64 length.Address)
        use place = new RankMemory(count)
        Marshal.Copy(bytes, 0, place.Address, bytes.Length)
        exchange place.Address count
        let read = Array.zeroCreate<byte> count
        Marshal.Copy(place.Address, read, 0, count)
        Encoding.UTF8.GetString read

    /// The most numbers of a ballot.
    member _.Slots = slots

    /// Every rank votes; all have the same verdict.
    member _.Agree(ballot: Ballot) : Verdict =
        (if rank = 0 then atRoot else atLeaf) ballot
        let at = verdict.Address
        let failed, differing = int (word at 0), int (word at 1)

        let reason, other =
            if failed >= 0 then
                tell failed ballot.Failure, null
            elif differing >= 0 then
                let theirs = tell differing ballot.What
                theirs, tell 0 ballot.What
            else
                null, null

        { Failed = max failed (if failed >= 0 then failed else differing)
          Reason = reason
          Other = other
          NotFinite = int (word at 2)
          Values =
            [| for r in 0 .. size - 1 ->
                   [| for i in 0 .. ballot.Values.Length - 1 ->
                          BitConverter.Int64BitsToDouble(word at (3 + r * ballot.Values.Length + i)) |] |] }

    interface IDisposable with
        member _.Dispose() =
            for block in [ incoming; own; verdict ] do
                (block :> IDisposable).Dispose()

            for message in messages do
                (message :> IDisposable).Dispose()
