namespace Sama.DataOptimization

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.Functional

/// A running average of parameters (Polyak and Juditsky, 1992), the calm model that learners judge by (a mean teacher;
/// Tarvainen and Valpola, 2017). It owns its vector, which is a constant in every pass: no `pass.Stop` is needed.
[<Sealed>]
type AveragedParameters(start: Params, [<Optional; DefaultParameterValue(0.99)>] decay: float) =
    do
        Check.notNull (nameof start) start
        Check.that (nameof decay) (decay >= 0.0 && decay < 1.0) (fun () -> $"{decay} is not in 0 .. 1, below 1")

    let vector = start.Vector.detach().clone().DetachFromDisposeScope()

    let parameters =
        use scope = torch.NewDisposeScope()
        let frozen = Params.frozen start.Layout vector

        for slice in start.Layout.Slices do
            scope.Detach frozen[slice.Name] |> ignore

        frozen

    let mutable seen = 0L

    let requireAlive () =
        ObjectDisposedException.ThrowIf(vector.IsInvalid, typeof<AveragedParameters>)

    // the layout that was last found to be the same: a run has one at every step
    let mutable known = start.Layout

    let isLike (layout: Layout) =
        let shapes (layout: Layout) =
            [ for slice in layout.Slices -> slice.Name, List.ofArray slice.Shape ]

        if
            not (Object.ReferenceEquals(layout, known))
            && shapes layout = shapes start.Layout
        then
            known <- layout

        Object.ReferenceEquals(layout, known)

    /// The averages, by name; borrowed, they move with `Follow`.
    member _.Parameters =
        requireAlive ()
        parameters

    /// How often it has followed.
    member _.Followed = seen

    /// average ← d · average + (1 − d) · latest with d = min(decay, t / (10 + t)) at the t-th call, so that the start is
    /// soon forgotten: about the last 1/(1 − decay) calls count. ArgumentException for other parameters.
    member _.Follow(latest: Params) : unit =
        Check.notNull (nameof latest) latest

        requireAlive ()

        Check.that (nameof latest) (isLike latest.Layout) (fun () ->
            $"other parameters than the average's:\n{latest}\nin place of\n{parameters}")

        seen <- seen + 1L
        let kept = min decay (float seen / (10.0 + float seen))
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()

        vector.mul_(Scalar.op_Implicit kept).add_ (latest.Vector.detach (), Scalar.op_Implicit (1.0 - kept))
        |> ignore

    interface IDisposable with
        /// Frees the averages.
        member _.Dispose() =
            for slice in parameters.Layout.Slices do
                parameters[slice.Name].Dispose()

            vector.Dispose()
