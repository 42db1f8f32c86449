namespace Sama

open System
open System.Collections.Generic
open TorchSharp

/// Why a loss is evaluated: to train, for the meta gradient, or at a perturbed vector for a finite difference.
type PassKind =
    /// to train, or the same step taken again
    | Base = 0
    /// for the meta gradient
    | Meta = 1
    /// at a perturbed vector, or for second derivatives
    | Perturbed = 2

/// What a pass does with the features that are not differentiated.
type internal Stops =
    /// detach, and record what perturbed passes replay
    | Record
    /// detach
    | Detach
    /// replay what the base pass recorded
    | Replay
    /// a leaf in the feature's place, beside the feature in its graph: the derivative through it is added by hand
    | Follow of ResizeArray<struct (Tensor * Tensor)>

module internal Stops =

    /// Runs a loss; the features that are followed belong to the caller's scope, whatever scopes the loss has of its own.
    let within (stops: Stops) (loss: unit -> 'result) : 'result =
        match stops with
        | Follow features ->
            let known = features.Count

            try
                loss ()
            finally
                use scope = torch.NewDisposeScope()

                for i in known .. features.Count - 1 do
                    let struct (leaf, feature) = features[i]
                    scope.Attach [| leaf :> IDisposable; feature |]
                    scope.MoveToOuter leaf |> ignore
                    scope.MoveToOuter feature |> ignore
        | _ -> loss ()

/// How a loss is evaluated.
[<Struct; NoComparison; NoEquality>]
type internal Mode =
    { Kind: PassKind
      Stops: Stops }

    /// A base pass: its features are what perturbed passes replay.
    static member Base =
        { Kind = PassKind.Base
          Stops = Stops.Record }

    /// A base step taken again, from another θ: its features are that θ's own.
    static member Again =
        { Kind = PassKind.Base
          Stops = Stops.Detach }

    /// For the gradient of an upper level.
    static member Meta =
        { Kind = PassKind.Meta
          Stops = Stops.Detach }

    /// For second derivatives: with the base pass's features, or through them.
    static member Linearized(followStops: bool) =
        { Kind = PassKind.Perturbed
          Stops =
            if followStops then
                Stops.Follow(ResizeArray())
            else
                Stops.Replay }

    /// At perturbed vectors, with the base pass's features.
    static member Perturbed =
        { Kind = PassKind.Perturbed
          Stops = Stops.Replay }

/// One evaluation of a loss.
[<Sealed>]
type Pass internal (draw: Draw, mode: Mode, record: Dictionary<string, Tensor>) =
    let seen = HashSet<string>()

    /// Batch and masks; equal in a base pass and its perturbed passes.
    member _.Draw = draw

    /// Why the loss is evaluated.
    member _.Kind = mode.Kind

    /// What it is for, and of which draw.
    override _.ToString() =
        $"{mode.Kind} pass of level {draw.Stream}, step {draw.Step}, rank {draw.Rank}, seed {draw.Seed}"

    /// Marks a feature that depends on θ and is not differentiated. The base pass detaches and records it, perturbed
    /// passes replay the record: a bare `detach` there would be recomputed, and so differentiated.
    /// ArgumentException for a name given twice in one pass, InvalidOperationException if the base pass had none.
    member _.Stop(name: string, tensor: Tensor) : Tensor =
        ArgumentNullException.ThrowIfNull(name, nameof name)
        ArgumentNullException.ThrowIfNull(tensor, nameof tensor)

        if not (seen.Add name) then
            raise (ArgumentException($"the stop-feature '{name}' is given twice in one pass", nameof name))

        match mode.Stops with
        | Replay ->
            match record.TryGetValue name with
            | true, recorded -> recorded.to_type tensor.dtype
            | _ ->
                raise (
                    InvalidOperationException
                        $"the base pass recorded no stop-feature '{name}': a loss marks the same features in every pass of a step"
                )
        | Record ->
            let stopped = tensor.detach ()

            match record.TryGetValue name with
            | true, before -> before.Dispose()
            | _ -> ()

            // its own handle: the loss may close a scope around the feature
            record[name] <- stopped.alias().DetachFromDisposeScope()
            stopped
        | Detach -> tensor.detach ()
        | Follow features ->
            let leaf = tensor.detach().requires_grad_(true).DetachFromDisposeScope()
            features.Add(struct (leaf, tensor.alias().DetachFromDisposeScope()))
            leaf.alias ()
