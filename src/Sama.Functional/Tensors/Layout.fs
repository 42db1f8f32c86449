namespace Sama

open System
open System.Collections.Generic

/// One named parameter within a flat vector; offset and length in elements.
[<NoComparison; NoEquality>]
type Slice =
    {
        /// the parameter's name
        Name: string
        /// its shape
        Shape: int64[]
        /// elements before it in the flat vector
        Offset: int64
        /// its elements
        Length: int64
    }

/// Names, shapes and offsets of the parameters that lie in one flat vector.
[<Sealed; AllowNullLiteral>]
type Layout internal (slices: Slice[]) =
    let index =
        Dictionary(slices |> Seq.mapi (fun i slice -> KeyValuePair(slice.Name, i)))

    let lengths = slices |> Array.map _.Length

    /// The slices in storage order.
    member _.Slices: IReadOnlyList<Slice> = slices

    /// Elements of the flat vector.
    member _.Length = Array.sum lengths

    member internal _.Lengths = lengths

    /// Position of a parameter. ArgumentException if there is none of that name.
    member _.IndexOf(name: string) : int =
        match index.TryGetValue name with
        | true, i -> i
        | _ ->
            let known =
                if index.Count = 0 then
                    "there is none, since the level is alone in its problem"
                else
                    let names = String.Join(", ", index.Keys)
                    $"there are: {names}"

            raise (ArgumentException($"no parameter is named '{name}'; {known}", nameof name))

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Layouts of named tensors, and the flat vectors they describe.
module Layout =

    /// Slices one behind the other. ArgumentException for no parameter, a name given twice or an empty name.
    let create (shapes: (string * int64[]) seq) : Layout =
        let slice (offset: int64) (name: string, shape: int64[]) =
            let length = Array.fold (*) 1L shape

            { Name = name
              Shape = shape
              Offset = offset
              Length = length },
            offset + length

        let slices = shapes |> Array.ofSeq |> Array.mapFold slice 0L |> fst

        if Array.isEmpty slices then
            invalidArg (nameof shapes) "a level needs at least one parameter"

        for name, twice in slices |> Array.countBy _.Name do
            if String.IsNullOrEmpty name then
                invalidArg (nameof shapes) "a parameter's name is empty"

            if twice > 1 then
                invalidArg (nameof shapes) $"parameter '{name}' is given {twice} times"

        Layout slices

    let private checkUsable (named: (string * Tensor) seq) =
        for name, tensor in named do
            if isNull tensor || tensor.IsInvalid then
                let state = if isNull tensor then "null" else "disposed"
                invalidArg (nameof named) $"parameter '{name}' is {state}"

    let private checkAlike (named: (string * Tensor) seq) =
        let first, reference = Seq.head named

        for name, tensor in named do
            if tensor.is_sparse then
                invalidArg (nameof named) $"parameter '{name}' is sparse; make it dense (to_dense())"

            if not (torch.is_floating_point tensor) then
                invalidArg (nameof named) $"parameter '{name}' is {tensor.dtype}; parameters are floating-point"

            if
                tensor.dtype <> reference.dtype
                || tensor.device.ToString() <> reference.device.ToString()
            then
                invalidArg
                    (nameof named)
                    $"parameter '{name}' is {tensor.dtype} on {tensor.device}, '{first}' is {reference.dtype} on {reference.device}; one level has one dtype and device"

    /// The layout of named tensors in their order. ArgumentException unless all are there, floating-point, of one dtype
    /// and on one device.
    let ofNamed (named: (string * Tensor) seq) : Layout =
        checkUsable named
        let layout = create (named |> Seq.map (fun (name, tensor) -> name, tensor.shape))
        checkAlike named
        layout

    /// Named tensors, copied into one new flat vector in their order.
    let ravel (named: (string * Tensor) seq) : Tensor =
        checkUsable named
        // TorchSharp's cat of one tensor is that tensor
        Scope.tensor (fun () ->
            match [| for _, tensor in named -> tensor.detach().reshape -1L |] with
            | [| one |] -> one.clone ()
            | all -> torch.cat all)

    /// Views of a flat vector, one a slice; differentiable, and their backward is one `cat`.
    let views (layout: Layout) (vector: Tensor) : Tensor[] =
        if vector.shape <> [| layout.Length |] then
            let shape = String.Join("x", vector.shape)
            invalidArg (nameof vector) $"a vector of {layout.Length} elements is expected, its shape is [{shape}]"

        vector.split (layout.Lengths, 0L)
        |> Array.mapi (fun i part -> part.view layout.Slices[i].Shape)
