namespace Sama.DataOptimization

open System
open System.Collections.Generic
open Sama

/// A training whose rows are chosen anew at the end of every epoch of them.
[<Sealed>]
type internal DynamicRows
    (rows: int[], steps: int, seed: int, choose: DynamicRows -> int -> AveragedParameters -> EpochRows) =
    let losses = Dictionary<int, float>()
    let mutable seconds = 0.0

    /// Seconds that choosing took beside training.
    member _.Seconds() = seconds

    member _.Spend(more: float) = seconds <- seconds + more

    /// Each row's loss when it was trained on last, one above all known where it was not yet; in the rows' order.
    member _.Losses: float[] =
        let unknown = Seq.fold max 1.0 losses.Values

        rows
        |> Array.map (fun row ->
            match losses.TryGetValue row with
            | true, loss -> loss
            | _ -> unknown)

    /// θ after the steps; `choose` gives places among the rows for the epoch that begins at a step.
    member dynamic.Train (trainer: PruningTrainer) (labels: int[]) : float32[] =
        let size = min trainer.Options.Batch rows.Length
        let first = ref 0L
        let epoch = ref Unchecked.defaultof<EpochRows>

        let next (step: int) (average: AveragedParameters) =
            let chosen = choose dynamic step average
            let order = Array.init chosen.Rows.Length id
            (Seeded.random seed (step + 1)).Shuffle order
            first.Value <- int64 step

            epoch.Value <-
                { Rows = order |> Array.map (fun place -> rows[chosen.Rows[place]])
                  Weights = order |> Array.map (fun place -> chosen.Weights[place]) }

        let batches () =
            max 1L (int64 epoch.Value.Rows.Length / int64 size)

        // the last batch of an epoch takes what would fill none
        let plan (step: int64) =
            let count = batches ()
            let at = int ((step - first.Value) % count |> abs)
            let from = at * size

            let length =
                if int64 at = count - 1L then
                    epoch.Value.Rows.Length - from
                else
                    size

            struct (Array.sub epoch.Value.Rows from length,
                    Array.sub epoch.Value.Weights from length |> Array.map float32)

        next 0 (Unchecked.defaultof<AveragedParameters>)

        trainer.Train(
            seed,
            null,
            steps,
            plan,
            fun step shown average ->
                let log = Rows.FromTensor shown.Log
                Array.iter2 (fun row (p: float[]) -> losses[row] <- -p[labels[row]]) shown.Rows log

                if int64 step - first.Value >= batches () && step < steps then
                    next step average
        )

module internal DynamicRowsOf =

    let all (count: int) =
        { Rows = Array.init count id
          Weights = Array.create count 1.0 }

    /// InfoBatch's own choices: half of the rows below the mean, of losses or of scores, all rows in the last eighth.
    let infoBatch (rows: int[]) steps seed (scores: float[]) =
        DynamicRows(
            rows,
            steps,
            seed,
            fun dynamic step _ ->
                InfoBatch.Rows((if isNull scores then dynamic.Losses else scores), step, steps, 0.5, 0.875, seed)
        )

    /// The share of rows nearest to the boundary, from a tenth of the steps on.
    let dynaMs (rows: int[]) steps share seed (boundary: Params -> int[] -> float[]) (clock: unit -> float) =
        DynamicRows(
            rows,
            steps,
            seed,
            fun dynamic step average ->
                if 10 * step < steps then
                    all rows.Length
                else
                    let begun = clock ()
                    let near = DynaMs.Rows(boundary average.Parameters rows, share, seed)
                    dynamic.Spend(clock () - begun)

                    { Rows = near
                      Weights = Array.create near.Length 1.0 }
        )
