namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Derivatives, all by `torch.autograd.backward`: its errors are managed exceptions, those of `grad` end the process.
module Autodiff =

    let private checkLoss (value: Tensor) =
        if value.numel () <> 1L then
            let shape = String.Join("x", value.shape)
            invalidOp $"a loss is one number; this one has shape [{shape}] (take its mean or sum)"

        if not value.requires_grad then
            invalidOp "the loss depends on no parameter (a detach, an integer tensor or no_grad cuts it off)"

    /// Adds the gradients of a loss into the slots of the leaves it depends on.
    let internal backward (loss: Tensor) : unit =
        checkLoss loss
        torch.autograd.backward ([| loss |], null, Nullable false, false, null)

    /// Jᵀ seed of outputs by inputs, inside the caller's scope; with `graph` it can be differentiated again.
    let internal pull (graph: bool) (output: Tensor) (seed: Tensor) (inputs: Tensor[]) : Tensor[] =
        for input in inputs do
            input.grad <- null

        torch.autograd.backward ([| output |], [| seed |], Nullable graph, graph, inputs)

        [| for input in inputs ->
               let gradient = input.grad
               input.grad <- null
               if isNull gradient then torch.zeros_like input else gradient |]

    let internal leaf (x: Tensor) : Tensor = x.detach().requires_grad_ true

    /// ∇f at x, itself a function of what x and f depend on.
    let internal gradientInGraph (f: Tensor -> Tensor) (x: Tensor) : Tensor =
        let value = f x
        checkLoss value
        (pull true value (torch.ones_like value) [| x |])[0]

    /// v ↦ (∂f/∂x)ᵀ v; zero where f does not depend on x. The caller owns the result.
    let vjp (f: Tensor -> Tensor) (x: Tensor) (v: Tensor) : Tensor =
        Scope.tensor (fun () ->
            let x = leaf x
            let value = f x

            if value.requires_grad then
                (pull false value v [| x |])[0]
            else
                torch.zeros_like x)

    /// Value (0-D) and flat gradient of a loss; each parameter is a leaf, so that modules join. Both are the caller's.
    let gradient (loss: Params -> Tensor) (layout: Layout) (vector: Tensor) : Tensor * Tensor =
        Scope.run (fun keep ->
            let total = torch.zeros_like vector
            let value = loss (Params.leaves layout vector total)
            backward value
            keep (value.detach ()), keep total)
