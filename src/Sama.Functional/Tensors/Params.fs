namespace Sama

open TorchSharp

type internal Differentiation =
    | Leaves
    | Frozen
    | Traced

/// A layout over one flat vector, with a named view of each parameter. Borrowed: it lives as long as the pass.
[<Sealed; AllowNullLiteral>]
type Params
    internal
    (layout: Layout, mode: Differentiation, vector: Tensor, views: Tensor[], gradients: Tensor[], seen: int -> Tensor) =
    let whole =
        lazy
            (match mode with
             | Leaves -> torch.cat [| for i in 0 .. views.Length - 1 -> (seen i).reshape -1L |]
             | Frozen
             | Traced -> vector)

    let requireThere () =
        if vector.IsInvalid then
            raise (
                System.ObjectDisposedException(
                    nameof Params,
                    "these parameters are those of a run that is disposed, or of a pass that is over: copy what is to last (Params.Vector.clone(), Snapshot)"
                )
            )

    internal new(layout, mode, vector, views: Tensor[], gradients) =
        Params(layout, mode, vector, views, gradients, (fun i -> views[i]))

    /// Names and shapes.
    member _.Layout = layout

    /// The flat vector; in a loss a function of the parameters, as they are. ObjectDisposedException behind the run or the
    /// pass that they belong to.
    member _.Vector =
        requireThere ()
        whole.Value

    /// The parameter of that name, in its own shape. ArgumentException if there is none; ObjectDisposedException behind the
    /// run or the pass that they belong to.
    member _.Item
        with get (name: string): Tensor =
            let index = layout.IndexOf name
            requireThere ()
            seen index

    /// Its parameters with their shapes, a line each.
    override _.ToString() =
        let shape (slice: Slice) = System.String.Join("x", slice.Shape)

        let where =
            if vector.IsInvalid then
                "disposed"
            else
                $"{vector.dtype}, {vector.device}"

        System.String.Join(
            "\n",
            [ $"{layout.Length:N0} parameters ({where})"
              for slice in layout.Slices do
                  $"'{slice.Name}' [{shape slice}]" ]
        )

    /// The flat vector of what is there, and may be disposed.
    member internal _.Given = vector
    member internal _.Mode = mode
    member internal _.Views = views

    /// Views of the flat gradient vector; empty unless leaves.
    member internal _.Gradients = gradients

    /// The same parameters, of which a loss sees what `seen` makes of them.
    member internal _.Seeing(seen: int -> Tensor) =
        Params(layout, mode, vector, views, gradients, seen)

namespace Sama.Functional

open TorchSharp
open Sama

/// The three ways in which a pass sees a flat vector.
module Params =

    /// No parameters: what a level alone in its problem sees above it.
    let internal none () : Params =
        Params(Layout [||], Frozen, torch.zeros 0L, [||], [||])

    /// Views that need no gradient: a pass over them stores no graph of them.
    let frozen (layout: Layout) (vector: Tensor) : Params =
        Params(layout, Frozen, vector, Layout.views layout (vector.detach ()), [||])

    /// Views cut from a vector that is itself in a graph.
    let traced (layout: Layout) (vector: Tensor) : Params =
        Params(layout, Traced, vector, Layout.views layout vector, [||])

    /// Leaves on the vector's storage; a backward pass adds into `gradient`, a flat vector of the same layout.
    let leaves (layout: Layout) (vector: Tensor) (gradient: Tensor) : Params =
        let leaf (view: Tensor) (slot: Tensor) =
            let leaf = view.detach().requires_grad_ true
            leaf.grad <- slot
            leaf

        let slots = Layout.views layout gradient
        Params(layout, Leaves, vector, Array.map2 leaf (Layout.views layout (vector.detach ())) slots, slots)

    /// Leaves that have no gradient yet: what a backward pass leaves empty is not connected.
    let internal probe (layout: Layout) (vector: Tensor) : Params =
        let leaf (view: Tensor) = view.detach().requires_grad_ true
        Params(layout, Leaves, vector, Array.map leaf (Layout.views layout (vector.detach ())), null)
