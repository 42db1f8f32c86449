namespace Sama.DataOptimization

open System.Collections.Generic
open System.Diagnostics

/// The stages of a cleaning by name, each made once, counted and told of.
[<Sealed>]
type internal Stages(options: CleaningOptions, count: int) =
    // of several ranks, rank 0 writes
    let store = CleaningStore(options.StateFolder, options.Ranks.Rank = 0)
    let seconds = Dictionary<string, float>()
    let clock = Stopwatch()
    let mutable stage = ""
    let mutable finished = 0

    /// InvalidOperationException if the state folder is of other data or options.
    member _.Open(identity: string) = store.Open identity

    /// Says how far the stage is that is being made.
    member _.Report (step: int) (steps: int) (loss: float) : unit =
        if not (isNull options.Progress) then
            options.Progress.Report
                { Stage = stage
                  Done = finished
                  Stages = count
                  Step = step
                  Steps = steps
                  Loss = loss }

    /// What the store has under a name, else what `make` gives, which must not make another stage.
    member _.Made(name: string, make: unit -> float32[]) : float32[] =
        options.StopIfCancelled()
        let found = store.TryLoad name

        // where one rank lacks it, all make it
        if options.Ranks.Any(isNull found) then
            stage <- name
            clock.Restart()
            let values = make ()
            seconds[name] <- clock.Elapsed.TotalSeconds
            store.Save(name, values, seconds[name])
            finished <- finished + 1
            values
        else
            if seconds.TryAdd(name, store.Seconds name) then
                finished <- finished + 1

            found

    /// Seconds of some stages.
    member _.Seconds(names: string seq) : float =
        names |> Seq.sumBy (fun name -> seconds.GetValueOrDefault name)
