namespace Sama.Functional

open System
open System.Collections.Generic
open System.Diagnostics
open System.Threading
open System.Threading.Tasks
open Sama

/// What the thread of MPI sees of a connection.
[<NoComparison; NoEquality>]
type internal Link =
    { Wire: Wire
      Star: Star
      Ring: Ring
      Device: RankDevice }

/// Something that the ranks do together: they agree that they all do it, then they do it.
[<NoComparison; NoEquality>]
type internal Together =
    {
        /// what this rank brings; asked for when its turn has come
        Ballot: unit -> Ballot
        Act: Link -> unit
        Done: TaskCompletionSource<Verdict>
        /// what failed before is over: no rank is asked
        Restarts: bool
    }

/// The one thread that owns MPI. What is posted is done in that order, which is the same on every rank; where a rank fails,
/// everything that was posted behind it fails with it, on every rank, until `Restart`. What takes longer than the timeout
/// ends all processes.
[<Sealed>]
type internal RankThread(kind: MpiKind, timeout: TimeSpan, admit: int -> unit) =
    let queue = Queue<Together>()
    let started = TaskCompletionSource<struct (int * int * string)>()
    let mutable stopped = false
    let mutable aborting: (string * int) option = None
    let mutable place = "at its start"
    let mutable rank = 0
    // of what is being done: since when, and what is known of it
    let mutable since = 0L
    let mutable doing = "nothing"
    let others () = "the other ranks"
    let mutable missing = others
    let mutable abortDevice: unit -> unit = ignore

    let say (text: string) =
        Console.Error.WriteLine $"Sama: {text}"
        Console.Error.Flush()

    // MPI_Abort need not return, and may not be enough
    let endProcess (reason: string) (code: int) =
        say reason

        let last =
            Thread(
                (fun () ->
                    Thread.Sleep 3000
                    Signals.endNow ()),
                IsBackground = true
            )

        last.Start()
        // what was said passes through the launcher
        Thread.Sleep 200
        abortDevice ()
        Mpi.abort code
        Thread.Sleep 4000

    let overdue (seconds: float) =
        // read once: it may end while another thread looks
        let begun = since

        begun > 0L
        && Stopwatch.GetElapsedTime begun > timeout + TimeSpan.FromSeconds seconds

    let late () =
        $"rank {rank}, {place}: {missing ()} within {timeout.TotalSeconds:G4} s (in: {doing}); every rank is ended"

    let looked (what: unit -> string) =
        missing <- what

        match aborting with
        | Some(reason, code) -> endProcess reason code
        | None ->
            if overdue (if rank = 0 then 0.0 else 2.0) then
                endProcess (late ()) 1

    let failure (verdict: Verdict) : exn =
        let reason =
            if isNull verdict.Other then
                verdict.Reason
            else
                let lines (text: string) = text.Split '\n'

                // of a text of many lines, the first that differs
                let theirs, roots =
                    Array.zip
                        (Array.truncate (lines verdict.Other).Length (lines verdict.Reason))
                        (Array.truncate (lines verdict.Reason).Length (lines verdict.Other))
                    |> Array.tryFind (fun (a, b) -> a <> b)
                    |> Option.defaultValue (verdict.Reason, verdict.Other)

                $"rank {verdict.Failed} and rank 0 do not do the same: rank {verdict.Failed} has '{theirs}', rank 0 '{roots}'"

        RankFailureException(verdict.Failed, reason, null)

    let perform (link: Link) (broken: exn) (job: Together) : exn =
        if job.Restarts then
            job.Done.SetResult
                { Failed = -1
                  Reason = null
                  Other = null
                  NotFinite = -1
                  Values = [||] }

            null
        elif not (isNull broken) then
            job.Done.SetException broken
            broken
        else
            let ballot = job.Ballot()
            doing <- (ballot.What.Split '\n')[0]
            since <- Stopwatch.GetTimestamp()
            let verdict = link.Star.Agree ballot

            if verdict.Failed >= 0 then
                let e = failure verdict
                since <- 0L
                job.Done.SetException e
                e
            else
                missing <- others
                job.Act link
                since <- 0L
                job.Done.SetResult verdict
                null

    /// What was posted, or nothing within so many milliseconds.
    let next (patience: int) : Together voption =
        lock queue (fun () ->
            if queue.Count = 0 && not stopped && aborting.IsNone then
                Monitor.Wait(queue, patience) |> ignore

            if queue.Count > 0 then
                ValueSome(queue.Dequeue())
            else
                ValueNone)

    let serve (link: Link) =
        use idle = new RankMemory(8)
        let mutable broken: exn = null
        // what was sent last may still lie in a buffer of MPI's: looked after soon, then less and less
        let mutable patience = 2

        while not stopped || lock queue (fun () -> queue.Count > 0) do
            match next patience with
            | ValueSome job ->
                patience <- 2

                try
                    broken <- perform link broken job
                with e ->
                    job.Done.TrySetException e |> ignore
                    endProcess $"rank {rank}, {place}: {e.Message} (in: {doing}); every rank is ended" 1
            | ValueNone ->
                patience <- min 128 (2 * patience)
                Mpi.poke rank idle.Address
                looked missing

    let run () =
        try
            since <- Stopwatch.GetTimestamp()
            doing <- "the start of MPI"
            Promptness.ask () |> ignore
            Signals.keeping (fun () -> Mpi.start kind)
            since <- 0L
            rank <- Mpi.rank ()
            let size = Mpi.size ()

            try
                admit size
            with _ ->
                Mpi.finish ()
                reraise ()

            let wire = Wire(rank, size, looked)
            use star = new Star(wire)
            use ring = new Ring(wire)
            use device = new RankDevice(wire, ring)
            abortDevice <- device.Abort
            started.SetResult(struct (rank, size, Mpi.version ()))

            serve
                { Wire = wire
                  Star = star
                  Ring = ring
                  Device = device }

            since <- Stopwatch.GetTimestamp()
            doing <- "the end of MPI"
            (device :> IDisposable).Dispose()
            Mpi.finish ()
            since <- 0L
        with e ->
            since <- 0L
            started.TrySetException e |> ignore

    let thread = Thread(run, IsBackground = true, Name = "Sama's MPI")

    // a call of MPI that does not return: nobody else looks then
    let watch =
        new Timer(
            (fun _ ->
                if overdue 4.0 then
                    say (late ())
                    Signals.endNow ()),
            null,
            1000,
            1000
        )

    do thread.Start()

    /// Rank, number of ranks and the library's name, once MPI has started.
    member _.Started: struct (int * int * string) = started.Task.GetAwaiter().GetResult()

    /// Where the program is, for messages.
    member _.Place
        with get () = place
        and set (value: string) = place <- value

    /// What this rank is doing and whom it waits for; null if it is about its own work.
    member _.Doing: string =
        if since = 0L then
            null
        else
            $"{doing}, waiting for {missing ()}"

    /// Done in its turn.
    member _.Post(ballot: unit -> Ballot, act: Link -> unit) : Task<Verdict> =
        let job =
            { Ballot = ballot
              Act = act
              Done = TaskCompletionSource<Verdict>(TaskCreationOptions.RunContinuationsAsynchronously)
              Restarts = false }

        lock queue (fun () ->
            if stopped then
                invalidOp "the ranks have been left (the communicator is disposed)"

            queue.Enqueue job
            Monitor.Pulse queue)

        job.Done.Task

    /// What failed is over, once everything that was posted behind it has failed.
    member _.Restart() : unit =
        let job =
            { Ballot = fun () -> Unchecked.defaultof<Ballot>
              Act = ignore
              Done = TaskCompletionSource<Verdict>(TaskCreationOptions.RunContinuationsAsynchronously)
              Restarts = true }

        lock queue (fun () ->
            queue.Enqueue job
            Monitor.Pulse queue)

        job.Done.Task.GetAwaiter().GetResult() |> ignore

    /// Ends every process with that code; it does not return.
    member _.Abort(reason: string, code: int) : unit =
        aborting <- Some(reason, code)
        lock queue (fun () -> Monitor.Pulse queue)
        thread.Join 5000 |> ignore
        Signals.endNow ()

    /// The thread ends behind what was posted, and MPI with it.
    member _.Stop() : unit =
        lock queue (fun () ->
            stopped <- true
            Monitor.Pulse queue)

        thread.Join()
        watch.Dispose()
