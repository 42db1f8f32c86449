namespace Sama

open System
open System.Collections.Generic

/// What fixes the batch and the random masks of one pass: `Stream` is the level's index, `Step` counts its steps.
[<Struct; NoComparison>]
type Draw =
    {
        /// the run's seed
        Seed: int64
        /// the level's step, from 0
        Step: int64
        /// the level's index, from the lowest up
        Stream: int
        /// 0 on one process
        Rank: int
    }

    /// A well-mixed hash of all four (SplitMix64), for the generator that picks a batch.
    member draw.RandomSeed: int64 =
        let mix (state: uint64) (value: uint64) =
            let z = state + value * 0x9E3779B97F4A7C15UL + 0x9E3779B97F4A7C15UL
            let z = (z ^^^ (z >>> 30)) * 0xBF58476D1CE4E5B9UL
            let z = (z ^^^ (z >>> 27)) * 0x94D049BB133111EBUL
            z ^^^ (z >>> 31)

        let fields =
            [ uint64 draw.Seed; uint64 draw.Step; uint64 draw.Stream; uint64 draw.Rank ]

        int64 (List.fold mix 0UL fields >>> 1)

/// Why a loss is evaluated: to train, for the meta gradient, or at a perturbed vector for a finite difference.
type PassKind =
    /// to train
    | Base = 0
    /// for the meta gradient
    | Meta = 1
    /// at a perturbed vector
    | Perturbed = 2

/// What a pass does with the features that are not differentiated.
type internal Stops =
    /// detach, and record what perturbed passes replay: a base pass, and its features, which outlive its graph
    | Record of ResizeArray<Tensor>
    /// detach: a meta pass
    | Detach
    /// replay what the base pass recorded: a perturbed pass
    | Replay
    /// a leaf in the feature's place, beside the feature in its graph: the derivative through it is added by hand
    | Follow of ResizeArray<struct (Tensor * Tensor)>

/// One evaluation of a loss.
[<Sealed>]
type Pass internal (draw: Draw, stops: Stops, record: Dictionary<string, Tensor>) =
    let seen = HashSet<string>()

    /// Batch and masks; equal in a base pass and its perturbed passes.
    member _.Draw = draw

    /// Why the loss is evaluated.
    member _.Kind =
        match stops with
        | Record _ -> PassKind.Base
        | Detach -> PassKind.Meta
        | Replay
        | Follow _ -> PassKind.Perturbed

    /// True where dropout and batch statistics are on.
    member _.Training = true

    /// Marks a feature that depends on θ and is not differentiated. The base pass detaches and records it, perturbed
    /// passes replay the record: a bare `detach` there would be recomputed, and so differentiated.
    /// ArgumentException for a name given twice in one pass, InvalidOperationException if the base pass had none.
    member _.Stop(name: string, tensor: Tensor) : Tensor =
        if not (seen.Add name) then
            raise (ArgumentException($"the stop-feature '{name}' is given twice in one pass", nameof name))

        match stops with
        | Replay ->
            match record.TryGetValue name with
            | true, recorded -> recorded.to_type tensor.dtype
            | _ -> raise (InvalidOperationException $"the base pass recorded no stop-feature '{name}'")
        | Record features ->
            let stopped = tensor.detach ()
            record[name] <- stopped
            features.Add stopped
            stopped
        | Detach -> tensor.detach ()
        | Follow features ->
            let leaf = tensor.detach().requires_grad_ true
            features.Add(struct (leaf, tensor))
            leaf

namespace Sama.Functional

open TorchSharp
open Sama

/// Random masks from draws.
module Draw =

    let private generator = obj ()

    /// Runs `pass` under the draw's masks and leaves libtorch's generator as it was. Passes are serialised on it.
    let masks (draw: Draw) (pass: unit -> 'result) : 'result =
        lock generator (fun () ->
            use before = torch.get_rng_state ()

            try
                torch.random.manual_seed draw.RandomSeed |> ignore
                pass ()
            finally
                torch.set_rng_state before)
