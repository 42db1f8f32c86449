namespace Sama.Functional

open TorchSharp
open Sama

/// First-order passes over the levels of a problem.
module internal Passes =

    /// What a pass sees of a vector: copies in the pass's type, leaves whose gradients go into `slot`, or frozen.
    let private seen (precision: torch.ScalarType option) (level: Level) (vector: Tensor) (gradient: Tensor) =
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

            Params.leaves level.Layout own slot, slot

    /// Runs a loss on views of `vectors`, leaves where `gradients` has a vector and frozen where it has null, and adds
    /// `share` times its gradients into them; none where the loss reaches no leaf. With `precision` the passes see
    /// copies of that type, and gradients come back in the vectors' own. `others` are leaves
    /// of the loss's own, whose gradients they keep; `buckets` look at those of some levels while they come. The loss, 0-D, in
    /// the caller's scope.
    let private gradientOf
        (others: Tensor[])
        (buckets: (int * Buckets) list)
        (problem: BilevelProblem)
        (precision: torch.ScalarType option)
        (vectors: Tensor[])
        (gradients: Tensor[])
        (share: float)
        (loss: Params[] -> Tensor)
        : Tensor =
        let parameters, slots =
            Array.map3 (seen precision) problem.Levels vectors gradients |> Array.unzip

        Problem.bind problem parameters

        let value =
            (parameters, buckets)
            ||> List.fold (fun seen (k, own) -> Array.updateAt k (own.Watch seen[k]) seen)
            |> loss

        let leaves = Problem.leaves problem parameters
        let inputs = if isNull leaves then null else Array.append leaves others
        Autodiff.backward (if share = 1.0 then value else value * share) inputs

        for _, own in buckets do
            own.Ended()

        for level, own in Array.zip problem.Levels parameters do
            NnModule.checkAliases level.Name level.Tied own

        for gradient, slot in Array.zip gradients slots do
            if not (isNull slot || obj.ReferenceEquals(gradient, slot)) then
                gradient.add_ (slot.to_type gradient.dtype) |> ignore

        value.detach().reshape [||]

    /// The same with other leaves alone.
    let gradientBeside others problem precision vectors gradients share loss : Tensor =
        gradientOf others [] problem precision vectors gradients share loss

    /// The same with neither.
    let gradient problem precision vectors gradients share loss : Tensor =
        gradientOf [||] [] problem precision vectors gradients share loss

    /// Losses of micro-batches, whose gradients are added into `gradients` by shares. The last one's pass completes these:
    /// `buckets` look at it.
    let losses
        (buckets: (int * Buckets) list)
        problem
        precision
        vectors
        gradients
        (micros: Micro list)
        (loss: Micro -> Params[] -> Tensor)
        : Tensor list =
        let share = 1.0 / float micros.Length

        [ for at, micro in List.indexed micros ->
              let own = if at = micros.Length - 1 then buckets else []
              // the graph dies here, before anything else needs memory
              Scope.tensor (fun () -> gradientOf [||] own problem precision vectors gradients share (loss micro)) ]

    /// Mean over micro-batches of their gradients, added into `gradients`.
    let accumulate problem precision (micros: Micro list) mode vectors gradients : unit =
        let share = 1.0 / float micros.Length

        for micro in micros do
            Scope.run (fun _ -> gradient problem precision vectors gradients share (micro.Loss mode) |> ignore)

    /// λ of several levels, one behind the other; the tensor itself if there is one.
    let joined (upper: Tensor[]) : Tensor =
        if upper.Length = 1 then upper[0] else torch.cat upper

    /// The vectors of several levels, cut from one.
    let parted (problem: BilevelProblem) (indices: int list) (vector: Tensor) : Tensor[] =
        match indices with
        | [ _ ] -> [| vector |]
        | _ -> vector.split ([| for i in indices -> problem.Levels[i].Layout.Length |], 0L)
