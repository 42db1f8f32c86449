namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices

/// The rows of one epoch and what their losses are multiplied by.
[<NoComparison>]
type EpochRows =
    {
        /// rows to train on, sorted
        Rows: int[]
        /// factor of each of these rows' losses
        Weights: float[]
    }

/// InfoBatch (Qin et al., ICLR 2024): each epoch leaves out a random part of the well-learned rows and rescales the
/// rest of them, so that the expected gradient is that of all rows.
[<AbstractClass; Sealed>]
type InfoBatch =

    /// The rows of an epoch, from each row's last known loss: a row of loss below the mean is left out with probability
    /// `prune`, and weighs 1 / (1 − prune) where it is kept; all others are kept with weight 1. So the expected weight of
    /// every row is 1. Epochs from `anneal` · `epochs` on take all rows. The same seed and epoch give the same rows.
    /// Before losses are known give all rows the same one. ArgumentException for no rows, a loss that is not finite,
    /// an epoch outside 0 .. epochs − 1, `prune` outside [0, 1) or `anneal` outside [0, 1].
    static member Rows
        (
            losses: float[],
            epoch: int,
            epochs: int,
            [<Optional; DefaultParameterValue(0.5)>] prune: float,
            [<Optional; DefaultParameterValue(0.875)>] anneal: float,
            [<Optional; DefaultParameterValue(0)>] seed: int
        ) : EpochRows =
        Check.nonEmpty (nameof losses) losses
        Check.finite (nameof losses) losses
        Check.that (nameof epoch) (epoch >= 0 && epoch < epochs) (fun () -> $"epoch {epoch} of {epochs}")
        Check.that (nameof prune) (prune >= 0.0 && prune < 1.0) (fun () -> $"{prune} is not in [0, 1)")
        Check.that (nameof anneal) (anneal >= 0.0 && anneal <= 1.0) (fun () -> $"{anneal} is not in [0, 1]")

        if float epoch >= anneal * float epochs then
            { Rows = Array.init losses.Length id
              Weights = Array.create losses.Length 1.0 }
        else
            let mean = Array.average losses
            let random = Seeded.random seed epoch

            let kept =
                [| for row in 0 .. losses.Length - 1 do
                       // drawn for every row, so that one row's loss does not shift the others' draws
                       let draw = random.NextDouble()

                       if losses[row] >= mean then
                           struct (row, 1.0)
                       elif draw >= prune then
                           struct (row, 1.0 / (1.0 - prune)) |]

            { Rows = kept |> Array.map (fun struct (row, _) -> row)
              Weights = kept |> Array.map (fun struct (_, weight) -> weight) }

/// DynaMS (Wang et al., ICLR 2023): training on the rows nearest to the boundary, chosen again as the model changes.
[<AbstractClass; Sealed>]
type DynaMs =

    /// Share of rows of an epoch: all of them for `warmUp` epochs, then falling linearly to `final`, which the last
    /// epoch has (the linear fall is this library's choice). ArgumentException for an epoch outside 0 .. epochs − 1, a warm-up that is not in 1 .. epochs or a share
    /// outside (0, 1].
    static member Share(epoch: int, epochs: int, warmUp: int, final: float) : float =
        Check.that (nameof epoch) (epoch >= 0 && epoch < epochs) (fun () -> $"epoch {epoch} of {epochs}")
        Check.that (nameof warmUp) (warmUp > 0 && warmUp <= epochs) (fun () -> $"{warmUp} of {epochs} epochs warm up")
        Check.share (nameof final) final

        if epoch < warmUp then
            1.0
        else
            1.0 - (1.0 - final) * float (epoch - warmUp + 1) / float (epochs - warmUp)

    /// The rows to train on: the share with the smallest margins (`PruningScores.BoundaryDistance`), rows on the wrong side
    /// first; equal margins are decided by the seed. ArgumentException as for `Keep.ByScore`.
    static member Rows(margins: float[], share: float, [<Optional; DefaultParameterValue(0)>] seed: int) : int[] =
        Keep.ByScore(margins, share, highest = false, seed = seed)
