namespace Sama.Functional

open System.Collections.Generic
open TorchSharp
open Sama

/// Some slices of a flat vector, as a vector with a layout of its own.
[<NoComparison; NoEquality>]
type internal Slices =
    {
        Layout: Layout
        /// the slices' places in the whole vector
        Places: Slice[]
        Whole: Layout
    }

    /// One behind the other in both vectors: then a view serves, and nothing is copied.
    member private s.Contiguous =
        let start = s.Places[0].Offset

        Seq.forall2 (fun (own: Slice) (place: Slice) -> own.Offset = place.Offset - start) s.Layout.Slices s.Places

    /// The slices of a flat vector; differentiable; a view where they lie one behind the other.
    member s.Gather(vector: Tensor) : Tensor =
        if s.Contiguous then
            vector.narrow (0L, s.Places[0].Offset, s.Layout.Length)
        else
            torch.cat [| for place in s.Places -> vector.narrow (0L, place.Offset, place.Length) |]

    /// Runs `change` on the slices of a flat vector, in place.
    member s.Within (vector: Tensor) (change: Tensor -> 'result) : 'result =
        let part = s.Gather vector
        let result = change part

        if not s.Contiguous then
            for own, place in Seq.zip s.Layout.Slices s.Places do
                vector.narrow(0L, place.Offset, place.Length).copy_ (part.narrow (0L, own.Offset, own.Length))
                |> ignore

        result

module internal Slices =

    /// The slices whose names belong; there is at least one.
    let named (belongs: string -> bool) (layout: Layout) : Slices =
        let places =
            layout.Slices |> Seq.filter (fun slice -> belongs slice.Name) |> Array.ofSeq

        { Layout = Layout.create (places |> Seq.map (fun slice -> slice.Name, slice.Shape))
          Places = places
          Whole = layout }

    /// A flat vector of pieces in storage order, zeros between and behind them; differentiable.
    let private lay (layout: Layout) (pieces: Tensor seq) : Tensor =
        let mutable reached = 0L

        torch.cat
            [| for slice, piece in Seq.zip layout.Slices pieces do
                   if slice.Offset > reached then
                       torch.zeros ([| slice.Offset - reached |], dtype = piece.dtype, device = piece.device)

                   reached <- slice.Offset + slice.Length
                   piece.reshape -1L

               if layout.Length > reached then
                   let last = Seq.last pieces
                   torch.zeros ([| layout.Length - reached |], dtype = last.dtype, device = last.device) |]

    /// The whole vector from the vectors of disjoint slices that cover it; differentiable.
    let scatter (layout: Layout) (parts: (Slices * Tensor) list) : Tensor =
        let pieces = Dictionary<string, Tensor>()

        for slices, part in parts do
            for slice in slices.Layout.Slices do
                pieces[slice.Name] <- part.narrow (0L, slice.Offset, slice.Length)

        lay layout [ for slice in layout.Slices -> pieces[slice.Name] ]

    /// f of each parameter's views of some flat vectors, as one flat vector; differentiable.
    let each (layout: Layout) (f: Slice -> Tensor[] -> Tensor) (vectors: Tensor list) : Tensor =
        let views = vectors |> List.map (Layout.views layout)

        lay layout [ for i in 0 .. layout.Slices.Count - 1 -> f layout.Slices[i] [| for v in views -> v[i] |] ]
