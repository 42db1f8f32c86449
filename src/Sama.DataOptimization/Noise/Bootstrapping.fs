namespace Sama.DataOptimization

open System.Runtime.InteropServices
open TorchSharp

/// Losses that trust the model beside the label (Reed et al., 2015). Log-probabilities are [n, C] of a floating dtype,
/// labels [n] int64; both are borrowed, the result [n] is fresh and the caller's.
[<AbstractClass; Sealed>]
type Bootstrapping =

    static member private Mixed(logProbabilities: torch.Tensor, labels: torch.Tensor, beta: float, belief) =
        Fresh.matrix (nameof logProbabilities) logProbabilities
        Fresh.like (nameof labels) [| logProbabilities.shape[0] |] labels
        Check.that (nameof beta) (beta >= 0.0 && beta <= 1.0) (fun () -> $"{beta} is not in 0 .. 1")
        Fresh.classes (nameof labels) logProbabilities.shape[1] labels

        Fresh.tensor (fun () ->
            let given = logProbabilities.gather(1L, labels.unsqueeze (1L)).squeeze (1L)
            let believed: torch.Tensor = belief ()
            -(beta * given + (1.0 - beta) * believed))

    /// Soft bootstrapping, per row −Σ_k [β t_k + (1 − β) q_k] log q_k with t the label's one-hot and q the model's
    /// probabilities, both of whose occurrences carry the gradient: cross-entropy beside a minimum of entropy.
    /// ArgumentException for other shapes or dtypes, a label that is no class, or β outside 0 .. 1.
    static member Soft
        (logProbabilities: torch.Tensor, labels: torch.Tensor, [<Optional; DefaultParameterValue(0.95)>] beta: float)
        : torch.Tensor =
        Bootstrapping.Mixed(
            logProbabilities,
            labels,
            beta,
            fun () -> (logProbabilities.exp () * logProbabilities).sum (1L)
        )

    /// Hard bootstrapping, per row −Σ_k [β t_k + (1 − β) z_k] log q_k with z the one-hot of the model's most probable
    /// class. ArgumentException as for `Soft`.
    static member Hard
        (logProbabilities: torch.Tensor, labels: torch.Tensor, [<Optional; DefaultParameterValue(0.8)>] beta: float)
        : torch.Tensor =
        Bootstrapping.Mixed(logProbabilities, labels, beta, fun () -> logProbabilities.amax ([| 1L |]))
