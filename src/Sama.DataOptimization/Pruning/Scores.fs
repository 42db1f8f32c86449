namespace Sama.DataOptimization

open System.Collections.Generic
open System.Runtime.InteropServices

/// How much a row matters to training, from one look at a model; high is hard or influential.
[<AbstractClass; Sealed>]
type PruningScores =

    static member private Checked(probabilities: float[][], labels: int[]) =
        let classes = Check.probabilities (nameof probabilities) probabilities
        Check.labels (nameof labels) classes probabilities.Length labels

    static member private ErrorNorm (p: float[]) (label: int) =
        let mutable sum = 0.0

        for c in 0 .. p.Length - 1 do
            sum <- sum + pown (p[c] - (if c = label then 1.0 else 0.0)) 2

        sqrt sum

    /// EL2N: ‖p − y‖₂ with the label's one-hot y, of every row, early in training (Paul et al., NeurIPS 2021).
    /// ArgumentException for probabilities that do not sum to 1 or a label outside the classes.
    static member El2n(probabilities: float[][], labels: int[]) : float[] =
        PruningScores.Checked(probabilities, labels)
        Array.map2 PruningScores.ErrorNorm probabilities labels

    /// GraNd: ‖∂ℓᵢ/∂θ‖₂ of every row's whole gradient, early in training (Paul et al., NeurIPS 2021), from per-example
    /// gradients `[row][parameter]`. ArgumentException for rows of different lengths or a number that is not finite.
    static member GraNd(gradients: float[][]) : float[] =
        Check.matrix (nameof gradients) gradients |> ignore
        gradients |> Array.map (fun g -> sqrt (Array.sumBy (fun g -> g * g) g))

    /// GraNd of the last linear layer alone, in closed form: its logits' gradient is p − y, so that the norm for
    /// cross-entropy is ‖p − y‖₂ · √(‖h‖² + 1) with a bias, ‖p − y‖₂ · ‖h‖ without; `features` h are the layer's
    /// inputs, `[row][d]`. ArgumentException as for `El2n`, or for another number of rows.
    static member GraNdLastLayer
        (
            probabilities: float[][],
            labels: int[],
            features: float[][],
            [<Optional; DefaultParameterValue(true)>] bias: bool
        ) : float[] =
        PruningScores.Checked(probabilities, labels)
        Check.length (nameof features) labels.Length features
        Check.matrix (nameof features) features |> ignore
        let one = if bias then 1.0 else 0.0

        Array.map3
            (fun p y h -> PruningScores.ErrorNorm p y * sqrt (Array.sumBy (fun h -> h * h) h + one))
            probabilities
            labels
            features

    /// Mean of the same rows' scores over several models, as EL2N₁₀ and GraNd₁₀ take it over ten initial points.
    /// ArgumentException for no models or numbers of rows that differ.
    static member Mean(scores: IReadOnlyList<float[]>) : float[] =
        Check.nonEmpty (nameof scores) scores
        Check.notNull "scores[0]" scores[0]
        let rows = scores[0].Length

        for model in 0 .. scores.Count - 1 do
            Check.length $"scores[{model}]" rows scores[model]

        Array.init rows (fun row -> scores |> Seq.averageBy (fun model -> model[row]))

    /// Distance of every row to the nearest boundary of a linear last layer, DynaMS's margin (Wang et al., ICLR 2023):
    /// min over c ≠ y of (z_y − z_c) / ‖W_y − W_c‖₂ with logits z = W h + b, `weights` W `[class][d]`; negative for a
    /// row on the wrong side. ArgumentException for a label outside the classes, logits of another number of classes
    /// than W, or two classes of equal weights.
    static member BoundaryDistance(logits: float[][], labels: int[], weights: float[][]) : float[] =
        let classes = Check.matrix (nameof logits) logits
        Check.labels (nameof labels) classes logits.Length labels
        Check.matrix (nameof weights) weights |> ignore

        Check.that (nameof weights) (weights.Length = classes) (fun () ->
            $"{weights.Length} rows of weights for logits of {classes} classes")

        let apart =
            Array2D.init classes classes (fun a b ->
                sqrt (Array.fold2 (fun sum wa wb -> sum + pown (wa - wb) 2) 0.0 weights[a] weights[b]))

        for a in 0 .. classes - 1 do
            for b in 0 .. a - 1 do
                Check.that (nameof weights) (apart[a, b] > 0.0) (fun () -> $"classes {b} and {a} have equal weights")

        Array.map2
            (fun (z: float[]) y ->
                Seq.min (
                    seq {
                        for c in 0 .. classes - 1 do
                            if c <> y then
                                (z[y] - z[c]) / apart[y, c]
                    }
                ))
            logits
            labels
