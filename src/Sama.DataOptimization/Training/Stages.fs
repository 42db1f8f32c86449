namespace Sama.DataOptimization

open System
open System.Collections.Generic
open Sama

/// The stages of a cleaning or a pruning by name, each made once, counted and told of; `clock` gives the seconds that they
/// are measured in.
[<Sealed>]
type internal Stages
    (
        folder: string,
        progress: IProgress<StageProgress>,
        ranks: Communicator,
        stopIfCancelled: unit -> unit,
        count: int,
        clock: unit -> float
    ) =
    // of several ranks, rank 0 writes
    let store = StageStore(folder, ranks.Rank = 0)
    let seconds = Dictionary<string, float>()
    let mutable stage = ""
    let mutable finished = 0

    /// InvalidOperationException if the state folder is of other data or options.
    member _.Open(identity: string) = store.Open identity

    /// Says how far the stage is that is being made.
    member _.Report (step: int) (steps: int) (loss: float) : unit =
        if not (isNull progress) then
            progress.Report
                { Stage = stage
                  Done = finished
                  Stages = count
                  Step = step
                  Steps = steps
                  Loss = loss }

    /// What the store has under a name, else what `make` gives, which must not make another stage.
    member _.Made(name: string, make: unit -> float32[]) : float32[] =
        stopIfCancelled ()
        let found = store.TryLoad name

        // where one rank lacks it, all make it
        if ranks.Any(isNull found) then
            stage <- name
            let begun = clock ()
            let values = make ()
            seconds[name] <- clock () - begun
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
