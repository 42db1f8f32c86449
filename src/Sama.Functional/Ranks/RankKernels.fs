namespace Sama.Functional

#nowarn "9"

open System
open System.Numerics
open System.Runtime.CompilerServices

/// Kernels over raw vectors of float32 and float64, element by element: the bits do not depend on how a vector is cut.
module internal RankKernels =

    let inline private read<'t> (data: nativeint) (i: int) : 't =
        Unsafe.ReadUnaligned<'t>((data + nativeint i * nativeint sizeof<'t>).ToPointer())

    let inline private write<'t> (data: nativeint) (i: int) (value: 't) : unit =
        Unsafe.WriteUnaligned<'t>((data + nativeint i * nativeint sizeof<'t>).ToPointer(), value)

    let inline private added<'t when 't: struct and 't: (new: unit -> 't) and 't :> ValueType>
        ([<InlineIfLambda>] one: 't -> 't -> 't)
        (scale: Vector<'t>)
        (target: nativeint)
        (other: nativeint)
        (count: int)
        : unit =
        let width = Vector<'t>.Count
        let vectors = count / width

        for k in 0 .. vectors - 1 do
            let sum =
                read<Vector<'t>> (target + nativeint (k * width * sizeof<'t>)) 0
                + read<Vector<'t>> (other + nativeint (k * width * sizeof<'t>)) 0

            write (target + nativeint (k * width * sizeof<'t>)) 0 (Vector.Multiply<'t>(sum, scale))

        for i in vectors * width .. count - 1 do
            write target i (one (read<'t> target i) (read<'t> other i))

    /// target ← scale · (target + other), `count` elements of 4 or 8 bytes.
    let add (bytes: int) (scale: float) (target: nativeint) (other: nativeint) (count: int) : unit =
        if bytes = 4 then
            let s = float32 scale
            added<float32> (fun a b -> (a + b) * s) (Vector<float32> s) target other count
        else
            added<float> (fun a b -> (a + b) * scale) (Vector<float> scale) target other count

    let inline private sound<'t when 't: struct and 't: (new: unit -> 't) and 't :> ValueType>
        ([<InlineIfLambda>] one: 't -> 't -> 't)
        ([<InlineIfLambda>] isZero: 't -> bool)
        (data: nativeint)
        (count: int)
        : bool =
        let width = Vector<'t>.Count
        let vectors = count / width
        let mutable total = Vector<'t>.Zero

        for k in 0 .. vectors - 1 do
            let x = read<Vector<'t>> (data + nativeint (k * width * sizeof<'t>)) 0
            total <- total + (x - x)

        let mutable rest = Vector.Sum total

        for i in vectors * width .. count - 1 do
            rest <- one rest (read<'t> data i)

        isZero rest

    /// False if an element is NaN or infinite: x − x is 0 for all others.
    let isFinite (bytes: int) (data: nativeint) (count: int64) : bool =
        let rec from (first: int64) =
            let part = int (min (count - first) 65536L)
            let at = data + nativeint (first * int64 bytes)

            part = 0
            || (if bytes = 4 then
                    sound<float32> (fun total x -> total + (x - x)) ((=) 0.0f) at part
                else
                    sound<float> (fun total x -> total + (x - x)) ((=) 0.0) at part)
               && from (first + int64 part)

        from 0L
