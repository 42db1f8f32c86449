namespace Sama.DataOptimization

/// How rows of unknown class are divided among the classes (label shift). Clean rows are often picked to be as many of each
/// class: then each stands for another number of rows.
[<AbstractClass; Sealed>]
type ClassShares =

    static let count classes (labels: int[]) : float[] =
        let counts = Array.zeroCreate<float> classes

        for label in labels do
            counts[label] <- counts[label] + 1.0

        counts

    /// Shares q of the classes among rows for which a model predicts `predicted`, from what the same model predicts for rows
    /// of known class that it has not been trained on: the mode of Σ_j s_j log Σ_c q_c M[c][j], with s the shares of the
    /// predictions and M[c][j] the share of prediction j among the known rows of class c (Lipton et al., 2018), by EM
    /// (Saerens et al., 2002). Few known rows tell little: to each class two more are added, one predicted right and one as s,
    /// and to their number one a class that says q = s. ArgumentException for no rows, a label that is no class, or known rows and
    /// their predictions of different number.
    static member Estimate(classes: int, predicted: int[], knownPredicted: int[], known: int[]) : float[] =
        Check.nonEmpty (nameof predicted) predicted
        Check.nonEmpty (nameof known) known
        Check.labels (nameof predicted) classes predicted.Length predicted
        Check.labels (nameof known) classes known.Length known
        Check.labels (nameof knownPredicted) classes known.Length knownPredicted

        let seen =
            count classes predicted |> Array.map (fun n -> n + 1.0) |> Simplex.normalise

        let confusion =
            Array.init classes (fun c ->
                Array.map2 (fun label j -> if label = c then j else -1) known knownPredicted
                |> Array.filter (fun j -> j >= 0)
                |> count classes
                |> Array.mapi (fun j n -> n + seen[j] + (if j = c then 1.0 else 0.0))
                |> Simplex.normalise)

        let rows, belief = float known.Length, float classes

        let step (q: float[]) =
            let mixed =
                Array.init classes (fun j -> Seq.sumBy (fun c -> q[c] * confusion[c][j]) (seq { 0 .. classes - 1 }))

            Array.init classes (fun c ->
                let found =
                    Seq.sumBy (fun j -> seen[j] * q[c] * confusion[c][j] / mixed[j]) (seq { 0 .. classes - 1 })

                (rows * found + belief * seen[c]) / (rows + belief))

        Seq.fold (fun q _ -> step q) seen (seq { 1..200 })

    /// What each known row counts for: the share of its class by that among the known rows, between 1/3 and 3, so that no single
    /// row decides. ArgumentException for no known rows or a label that is no class.
    static member Weights(shares: float[], known: int[]) : float[] =
        Check.nonEmpty (nameof shares) shares
        Check.nonEmpty (nameof known) known
        Check.labels (nameof known) shares.Length known.Length known
        let own = count shares.Length known

        known
        |> Array.map (fun label -> shares[label] * float known.Length / own[label] |> max (1.0 / 3.0) |> min 3.0)
