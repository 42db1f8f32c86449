namespace Sama.DataOptimization

open System
open TorchSharp
open Sama
open Sama.Functional

/// Norms of gradients by example where no closed form is at hand.
[<AbstractClass; Sealed>]
type GradientNorms =

    /// ‖∂ℓᵢ/∂θ‖₂ of rows 0 .. rows − 1, the whole gradient of each, exactly: one micro-batch, and so one backward pass, a
    /// row. `loss` gives the loss of one row, a number that is differentiable in the parameters. `theta` is flat, borrowed.
    /// Of the last linear layer alone `PruningScores.GraNdLastLayer` costs nothing beyond a forward pass.
    /// ArgumentException for fewer than one row, a vector of another length, or a loss that is not one number.
    static member ByRow(layout: Layout, theta: Tensor, rows: int, loss: Func<Params, int, Tensor>) : float[] =
        Check.notNull (nameof layout) layout
        Check.notNull (nameof theta) theta
        Check.notNull (nameof loss) loss
        Check.that (nameof rows) (rows > 0) (fun () -> $"{rows} rows")

        Check.that (nameof theta) (theta.numel () = layout.Length) (fun () ->
            $"{theta.numel ()} numbers for a layout of {layout.Length}")

        Array.init rows (fun row ->
            use _ = torch.NewDisposeScope()

            let _, gradient =
                Autodiff.gradient (fun parameters -> loss.Invoke(parameters, row)) layout theta
            // in float32 the square of a small entry is 0
            gradient.to_type(torch.float64).norm().item<float> ())
