namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Derivatives, all by `torch.autograd.backward`: its errors are managed exceptions, those of `grad` end the process.
module Autodiff =

    let private requireNumber (value: Tensor) =
        if isNull value then
            invalidOp "the loss is null"

        if value.numel () <> 1L then
            let shape = String.Join("x", value.shape)
            invalidOp $"a loss is one number; this one has shape [{shape}] (take its mean or sum)"

    /// The loss itself. InvalidOperationException, by that name of it, if it depends on no parameter.
    let internal requireGraph (what: string) (value: Tensor) : Tensor =
        if not value.requires_grad then
            if not (torch.is_grad_enabled ()) then
                invalidOp
                    $"{what} has no gradient, since gradients are off: the call stands in a scope of no_grad() or inference_mode(), or set_grad_enabled(false) was called; make it outside"

            invalidOp $"{what} depends on no parameter (a detach, an integer tensor or no_grad cuts it off)"

        value

    /// Adds the gradients of a loss into the slots of those of the leaves that it depends on. Other leaves in its graph
    /// (a module outside the levels that was not frozen) keep the gradients that they have; null: it goes to
    /// all there are.
    let internal backward (loss: Tensor) (leaves: Tensor[]) : unit =
        requireNumber loss

        if loss.requires_grad && (isNull leaves || leaves.Length > 0) then
            torch.autograd.backward ([| loss |], null, Nullable false, false, leaves)

    /// What becomes of the graph of a pull: freed, kept for another pull, or kept and extended by the pull itself.
    type internal Graph =
        | Freed
        | Kept
        | Extended

    /// Σ Jᵢᵀ seedᵢ of outputs by leaf inputs, inside the caller's scope; 0 where nothing connects them.
    let internal pullAll (graph: Graph) (outputs: (Tensor * Tensor) list) (inputs: Tensor[]) : Tensor[] =
        let outputs = outputs |> List.filter (fun (output, _) -> output.requires_grad)

        for input in inputs do
            input.grad <- null

        if not outputs.IsEmpty then
            let tensors, seeds = List.unzip outputs

            torch.autograd.backward (
                Array.ofList tensors,
                Array.ofList seeds,
                Nullable(graph <> Freed),
                (graph = Extended),
                inputs
            )

        [| for input in inputs ->
               let gradient = input.grad
               input.grad <- null
               if isNull gradient then torch.zeros_like input else gradient |]

    /// Jᵀ seed of one output by one leaf input.
    let internal pull (graph: Graph) (output: Tensor) (seed: Tensor) (input: Tensor) : Tensor =
        (pullAll graph [ output, seed ] [| input |])[0]

    let internal leaf (x: Tensor) : Tensor = x.detach().requires_grad_ true

    /// ∂value/∂x of a loss, itself a function of what x and the loss depend on.
    let internal gradientInGraph (value: Tensor) (x: Tensor) : Tensor =
        requireNumber value
        pull Extended value (torch.ones_like value) x

    /// v ↦ (∂f/∂x)ᵀ v; zero where f does not depend on x. The caller owns the result.
    let vjp (f: Tensor -> Tensor) (x: Tensor) (v: Tensor) : Tensor =
        Scope.tensor (fun () ->
            let x = leaf x
            pull Freed (f x) v x)

    /// w ↦ (∂f/∂x) w, as the derivative of the vjp, which is linear in its seed. The caller owns the result.
    let jvp (f: Tensor -> Tensor) (x: Tensor) (w: Tensor) : Tensor =
        Scope.tensor (fun () ->
            let x = leaf x
            let value = f x
            let seed = leaf (torch.zeros_like value)
            let pulled = pull Extended value seed x
            pull Freed pulled w seed)

    /// Value (0-D) and flat gradient of a loss; each parameter is a leaf, so that modules join. Both are the caller's.
    let gradient (loss: Params -> Tensor) (layout: Layout) (vector: Tensor) : Tensor * Tensor =
        Scope.run (fun keep ->
            let total = torch.zeros_like vector
            let parameters = Params.leaves layout vector total
            let value = loss parameters
            requireNumber value
            backward (requireGraph "the loss" value) parameters.Views
            keep (value.detach ()), keep total)
