namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// Targets whose classes have other shares than the rows that count (Menon et al., 2021).
[<AbstractClass; Sealed>]
type LogitAdjustment =

    /// Log-probabilities [n, C] for a loss on targets [n, C], which may be weighed, so that the model itself keeps the
    /// classes' shares `prior` [C]: log softmax(log p + log π − log prior) with π the targets' shares in the batch, `pseudo`
    /// rows of `prior` added. Without it targets that distrust most labels of a class take the class from the model.
    /// Differentiable in all three; borrowed, the result is the caller's. ArgumentException for other shapes, and a `pseudo` that
    /// is not above 0.
    static member Apply
        (
            logProbabilities: torch.Tensor,
            targets: torch.Tensor,
            prior: torch.Tensor,
            [<Optional; DefaultParameterValue(8.0)>] pseudo: float
        ) : torch.Tensor =
        Fresh.matrix (nameof logProbabilities) logProbabilities
        Fresh.like (nameof targets) logProbabilities.shape targets
        Fresh.like (nameof prior) [| logProbabilities.shape[1] |] prior

        // a class without a target and without these had the share 0, whose logarithm times 0 is no number
        Check.that (nameof pseudo) (Double.IsFinite pseudo && pseudo > 0.0) (fun () ->
            $"{pseudo} rows: a number above 0 is expected")

        Fresh.tensor (fun () ->
            let mass = targets.sum 0L + prior * pseudo
            let shift = (mass / mass.sum ()).log () - prior.log ()
            torch.nn.functional.log_softmax (logProbabilities + shift, 1L))

    /// Shares of the classes among labels, each class counted once more than it occurs (Laplace's rule): [classes],
    /// float32, the caller's; `Apply` takes it beside any type. ArgumentException for no labels or one that is no class.
    static member Prior(labels: int[], classes: int) : torch.Tensor =
        Check.nonEmpty (nameof labels) labels
        Check.labels (nameof labels) classes labels.Length labels
        let counts = Array.create classes 1f

        for label in labels do
            counts[label] <- counts[label] + 1f

        torch.tensor (counts |> Array.map (fun count -> count / Array.sum counts))
