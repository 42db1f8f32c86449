namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices
open TorchSharp

/// A tensor function that frees what it makes but its result, which is the caller's.
module internal Fresh =

    let tensor (body: unit -> torch.Tensor) : torch.Tensor =
        use _ = torch.NewDisposeScope()
        (body ()).MoveToOuterDisposeScope()

    let matrix (name: string) (values: torch.Tensor) : unit =
        Check.notNull name values

        Check.that name (values.dim () = 2L && values.shape[0] > 0L && values.shape[1] > 1L) (fun () ->
            $"""shape [{String.Join(", ", values.shape)}]: rows of at least two classes are expected""")

    /// ArgumentException for a class that is none of 0 .. classes − 1, on the CPU alone: no pass waits for a device to ask.
    let classes (name: string) (classes: int64) (labels: torch.Tensor) : unit =
        Check.that name (labels.dtype = torch.int64) (fun () -> $"dtype {labels.dtype}, int64 is expected")

        if labels.device_type = DeviceType.CPU && labels.numel () > 0L then
            use least = labels.min ()
            use most = labels.max ()
            let least, most = least.item<int64> (), most.item<int64> ()

            Check.that name (least >= 0L && most < classes) (fun () ->
                $"label {(if least < 0L then least else most)} is not one of the {classes} classes 0 to {classes - 1L}")

    let like (name: string) (shape: int64[]) (values: torch.Tensor) : unit =
        Check.notNull name values

        Check.that name (values.shape = shape) (fun () ->
            $"""shape [{String.Join(", ", values.shape)}], [{String.Join(", ", shape)}] is expected""")

/// Pieces of self-training with confidence, as COSINE has them (Yu et al., NAACL 2021). Tensors are [n, C], rows of
/// classes, of any floating dtype and device; arguments are borrowed, results are fresh and the caller's.
[<AbstractClass; Sealed>]
type SelfTraining =

    /// Confidence 1 − H(p) / log C of each row, [n] in 0 .. 1: 0 for uniform probabilities, 1 for a certain class. No
    /// gradient flows into it. ArgumentException for another shape.
    static member Confidence(probabilities: torch.Tensor) : torch.Tensor =
        Fresh.matrix (nameof probabilities) probabilities

        Fresh.tensor (fun () ->
            let p = probabilities.detach ()
            let entropy = torch.special.entr(p).sum (1L)
            (1.0 - entropy / log (float p.shape[1])).clamp (Scalar.op_Implicit 0.0, Scalar.op_Implicit 1.0))

    /// Soft pseudo-labels [n, C]: t_ij = p_ij^power / f_j with the class frequency f_j = Σᵢ p_ij over the rows given, each
    /// row then to sum 1 (Xie et al., 2016): confident classes are sharpened, frequent ones held back. No gradient
    /// flows into them. ArgumentException for another shape or a power below 1.
    static member SoftPseudoLabels
        (probabilities: torch.Tensor, [<Optional; DefaultParameterValue(2.0)>] power: float)
        : torch.Tensor =
        Fresh.matrix (nameof probabilities) probabilities
        Check.least (nameof power) 1.0 power

        Fresh.tensor (fun () ->
            let p = probabilities.detach ()
            let tiny = Scalar.op_Implicit 1e-30
            let frequency = p.sum (0L, keepdim = true)
            let t = p.pow (Scalar.op_Implicit power) / frequency.clamp_min tiny
            t / t.sum(1L, keepdim = true).clamp_min tiny)

    /// Weights [n] of the rows that are learned from: the confidence where it is at or above the threshold, 0 elsewhere.
    /// ArgumentException for another shape or a threshold outside 0 .. 1.
    static member Weights
        (probabilities: torch.Tensor, [<Optional; DefaultParameterValue(0.6)>] threshold: float)
        : torch.Tensor =
        Check.that (nameof threshold) (threshold >= 0.0 && threshold <= 1.0) (fun () -> $"{threshold} is not in 0 .. 1")

        Fresh.tensor (fun () ->
            let confidence = SelfTraining.Confidence probabilities

            confidence
            * confidence.ge(Scalar.op_Implicit threshold).``to`` (confidence.dtype))

    /// Weighted divergence from pseudo-labels, a scalar: (1/n) Σᵢ wᵢ KL(tᵢ ‖ pᵢ), from log-probabilities [n, C] that
    /// carry the gradient, pseudo-labels t [n, C] and weights [n]. ArgumentException for other shapes.
    static member Loss
        (logProbabilities: torch.Tensor, pseudoLabels: torch.Tensor, weights: torch.Tensor)
        : torch.Tensor =
        Fresh.matrix (nameof logProbabilities) logProbabilities
        Fresh.like (nameof pseudoLabels) logProbabilities.shape pseudoLabels
        Fresh.like (nameof weights) [| logProbabilities.shape[0] |] weights

        Fresh.tensor (fun () ->
            let target = pseudoLabels.detach ()

            let divergence =
                -torch.special.entr(target).sum (1L) - (target * logProbabilities).sum (1L)

            (weights.detach () * divergence).mean ())

    /// Confidence regulariser, a scalar: (1/n) Σᵢ mᵢ KL(u ‖ pᵢ) with u uniform, −log C − (1/C) Σ_j log p_ij: it keeps
    /// predictions from becoming too sure. `weights` [n] choose the rows, null all. ArgumentException for other shapes.
    static member ConfidenceRegulariser
        (logProbabilities: torch.Tensor, [<Optional; DefaultParameterValue(null: torch.Tensor)>] weights: torch.Tensor)
        : torch.Tensor =
        Fresh.matrix (nameof logProbabilities) logProbabilities

        if not (isNull weights) then
            Fresh.like (nameof weights) [| logProbabilities.shape[0] |] weights

        Fresh.tensor (fun () ->
            let classes = float logProbabilities.shape[1]
            let divergence = -logProbabilities.mean([| 1L |]) - log classes

            if isNull weights then
                divergence.mean ()
            else
                (weights.detach () * divergence).mean ())

    /// Contrastive loss over all pairs i < j of rows of features [n, d], a scalar: same class d², else
    /// max(0, margin − d)², their mean, with d² = ‖vᵢ − vⱼ‖² / dim; `classes` [n] int64 are the pseudo-labels' classes.
    /// The gradient of a pair at distance 0 is 0. ArgumentException for other shapes, fewer than two rows or a margin
    /// that is not above 0.
    static member ContrastiveLoss
        (features: torch.Tensor, classes: torch.Tensor, [<Optional; DefaultParameterValue(1.0)>] margin: float)
        : torch.Tensor =
        Check.notNull (nameof features) features

        Check.that (nameof features) (features.dim () = 2L && features.shape[0] > 1L) (fun () ->
            $"""shape [{String.Join(", ", features.shape)}]: at least two rows of features are expected""")

        Fresh.like (nameof classes) [| features.shape[0] |] classes
        Check.that (nameof margin) (margin > 0.0 && Double.IsFinite margin) (fun () -> $"{margin} is not above 0")

        Fresh.tensor (fun () ->
            let rows = features.shape[0]
            let pairs = torch.triu_indices (rows, rows, 1L, device = features.device)
            let first, second = pairs[0], pairs[1]

            let difference =
                features.index_select (0L, first) - features.index_select (0L, second)

            let squared: torch.Tensor = difference.pow(Scalar.op_Implicit 2.0).mean ([| 1L |])
            // the root has no gradient at 0: pairs there take a constant instead
            let apart = squared.gt (Scalar.op_Implicit 0.0)

            let distance =
                torch.where(apart, squared, torch.ones_like squared).sqrt ()
                * apart.``to`` (squared.dtype)

            let short = (margin - distance).clamp_min (Scalar.op_Implicit 0.0)

            let same = classes.index_select(0L, first).eq (classes.index_select (0L, second))

            torch.where(same, squared, short.pow (Scalar.op_Implicit 2.0)).mean ())
