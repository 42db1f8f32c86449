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

    /// False if an element is NaN or infinite: x − x is 0 for all others.
    let isFinite (bytes: int) (data: nativeint) (count: int64) : bool =
        let mutable at, left, sound = data, count, true

        while sound && left > 0L do
            let part = int (min left 65536L)
            let mutable i = 0

            if bytes = 4 then
                let mutable total = Vector<float32>.Zero

                while i + Vector<float32>.Count <= part do
                    let x = read<Vector<float32>> (at + nativeint (i * 4)) 0
                    total <- total + (x - x)
                    i <- i + Vector<float32>.Count

                let mutable rest = Vector.Sum total

                while i < part do
                    let x = read<float32> at i
                    rest <- rest + (x - x)
                    i <- i + 1

                sound <- rest = 0.0f
            else
                let mutable total = Vector<float>.Zero

                while i + Vector<float>.Count <= part do
                    let x = read<Vector<float>> (at + nativeint (i * 8)) 0
                    total <- total + (x - x)
                    i <- i + Vector<float>.Count

                let mutable rest = Vector.Sum total

                while i < part do
                    let x = read<float> at i
                    rest <- rest + (x - x)
                    i <- i + 1

                sound <- rest = 0.0

            at <- at + nativeint (part * bytes)
            left <- left - int64 part

        sound
