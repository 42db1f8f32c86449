namespace Sama.Functional

open TorchSharp
open Sama

/// First-order passes over the levels of a problem.
module internal Passes =

    /// Runs `loss` on views of `vectors`, leaves where `gradients` has a vector and frozen where it has null, and adds
    /// `share` times its gradients into them; none where the loss reaches no leaf. With `precision` the passes see
    /// copies of that type, and gradients come back in the vectors' own. The loss, 0-D, in the caller's scope.
    let gradient
        (levels: Level[])
        (precision: torch.ScalarType option)
        (vectors: Tensor[])
        (gradients: Tensor[])
        (share: float)
        (loss: Params[] -> Tensor)
        : Tensor =
        let seen, slots =
            Array.map3
                (fun (level: Level) (vector: Tensor) (gradient: Tensor) ->
                    let own =
                        match precision with
                        | Some narrow when narrow <> vector.dtype -> vector.detach().to_type narrow
                        | _ -> vector

                    if isNull gradient then
                        Params.frozen level.Layout own, null
                    else
                        let slot =
                            if own.dtype = gradient.dtype then
                                gradient
                            else
                                torch.zeros_like own

                        Params.leaves level.Layout own slot, slot)
                levels
                vectors
                gradients
            |> Array.unzip

        let value = loss seen
        Autodiff.backward (if share = 1.0 then value else value * share)

        for level, parameters in Array.zip levels seen do
            level.Module |> Option.iter (fun m -> NnModule.checkAliases m parameters)

        for gradient, slot in Array.zip gradients slots do
            if not (isNull slot || obj.ReferenceEquals(gradient, slot)) then
                gradient.add_ (slot.to_type gradient.dtype) |> ignore

        value.detach ()
