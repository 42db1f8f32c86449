namespace Sama.Functional

#nowarn "9"

open System
open System.Numerics
open System.Runtime.CompilerServices
open System.Threading.Tasks
open TorchSharp
open Sama

/// Σ x², Σ x² where g ≠ 0, the number of x ≠ 0, and how many of these have g = 0.
[<Struct>]
type internal Sums =
    { All: float
      Active: float
      NonZero: int64
      Outside: int64 }

/// Norms of x beside g, 0-D on x's device: float64, and int64 for the counts.
[<NoComparison; NoEquality>]
type internal Norms =
    {
        /// ‖x‖
        All: Tensor
        /// ‖x‖_A, A the coordinates with g ≠ 0; ‖x‖ where that is 0
        Active: Tensor
        /// x ≠ 0
        NonZero: Tensor
        /// x ≠ 0 and g = 0
        Outside: Tensor
    }

/// One-pass kernels over flat vectors. Sums are float64; on the CPU they go chunk by chunk, so that the bits do not depend
/// on the number of threads.
module internal Flat =

    let private chunk = 1 <<< 16

    let private add (a: Sums) (b: Sums) : Sums =
        { Sums.All = a.All + b.All
          Active = a.Active + b.Active
          NonZero = a.NonZero + b.NonZero
          Outside = a.Outside + b.Outside }

    let private read<'t> (data: nativeint) (i: int) : 't =
        Unsafe.ReadUnaligned<'t>((data + nativeint i * nativeint sizeof<'t>).ToPointer())

    let private write<'t> (data: nativeint) (i: int) (value: 't) : unit =
        Unsafe.WriteUnaligned<'t>((data + nativeint i * nativeint sizeof<'t>).ToPointer(), value)

    /// Lanes in which a mask is set, in a chunk that int32 can count.
    let private lanes<'t when 't: struct> (counts: Vector<int>) : int64 =
        // a lane of 8 bytes is two of 4
        int64 (-(Vector.Sum counts)) / (int64 sizeof<'t> / 4L)

    /// One chunk; `squares` of a register in float64 lanes.
    let inline private sums<'t when 't: struct and 't: (new: unit -> 't) and 't :> ValueType and 't: equality>
        ([<InlineIfLambda>] squares: Vector<'t> -> Vector<float>)
        ([<InlineIfLambda>] square: 't -> float)
        (x: nativeint)
        (g: nativeint)
        (count: int)
        : Sums =
        let none = Vector<'t>.Zero
        let width = Vector<'t>.Count
        let vectors = count / width
        let mutable all, active = Vector<float>.Zero, Vector<float>.Zero
        let mutable nonZero, outside = Vector<int>.Zero, Vector<int>.Zero

        for i in 0 .. vectors - 1 do
            let v = read<Vector<'t>> x i
            let untouched = Vector.Equals<'t>(read<Vector<'t>> g i, none)
            let moved = Vector.OnesComplement(Vector.Equals<'t>(v, none))
            all <- all + squares v
            active <- active + squares (Vector.AndNot(v, untouched))
            nonZero <- nonZero + Vector.AsVectorInt32 moved
            outside <- outside + Vector.AsVectorInt32(Vector.BitwiseAnd(moved, untouched))

        let mutable total: Sums =
            { All = Vector.Sum all
              Active = Vector.Sum active
              NonZero = lanes<'t> nonZero
              Outside = lanes<'t> outside }

        for i in vectors * width .. count - 1 do
            let v = read<'t> x i
            let seen = read<'t> g i <> none[0]

            total <-
                add
                    total
                    { Sums.All = square v
                      Active = (if seen then square v else 0.0)
                      NonZero = (if v <> none[0] then 1L else 0L)
                      Outside = (if v <> none[0] && not seen then 1L else 0L) }

        total

    let private sums32 x g count =
        sums<float32>
            (fun v ->
                let mutable low, high = Vector<float>(), Vector<float>()
                Vector.Widen(v, &low, &high)
                low * low + high * high)
            (fun v -> float v * float v)
            x
            g
            count

    let private sums64 x g count =
        sums<float> (fun v -> v * v) (fun v -> v * v) x g count

    let private plain (x: Tensor) =
        Number.onHost x
        && (x.dtype = torch.float32 || x.dtype = torch.float64)
        && x.is_contiguous ()

    /// `body start count` for every chunk of `total` elements, on libtorch's number of threads.
    let private chunks (total: int64) (body: int -> int64 -> int -> unit) =
        let parts = int ((total + int64 chunk - 1L) / int64 chunk)

        let part i =
            let start = int64 i * int64 chunk
            body i start (int (min (int64 chunk) (total - start)))

        let threads = torch.get_num_threads ()

        if parts < 4 || threads = 1 then
            for i in 0 .. parts - 1 do
                part i
        else
            Parallel.For(0, parts, ParallelOptions(MaxDegreeOfParallelism = threads), part)
            |> ignore

    let private onHost (x: Tensor) (g: Tensor) : Sums =
        let size, sums = if x.dtype = torch.float32 then 4L, sums32 else 8L, sums64
        let total = x.numel ()
        let parts = Array.zeroCreate (int (total / int64 chunk) + 1)
        let from, seen = Number.address x, Number.address g

        chunks total (fun i start count ->
            let offset = nativeint (start * size)
            parts[i] <- sums (from + offset) (seen + offset) count)

        GC.KeepAlive(struct (x, g))

        Array.fold
            add
            { Sums.All = 0.0
              Active = 0.0
              NonZero = 0L
              Outside = 0L }
            parts

    /// Norms of x beside g, both flat and of one dtype. libtorch's own float32 norm errs by 1 % at 1e8 elements.
    let norms (x: Tensor) (g: Tensor) : Norms =
        let all, active, nonZero, outside =
            if x.numel () > 0L && plain x && plain g && x.dtype = g.dtype then
                let sums = onHost x g

                let number (value: float) =
                    torch.tensor (value, dtype = torch.float64)

                number sums.All, number sums.Active, torch.tensor sums.NonZero, torch.tensor sums.Outside
            else
                Scope.run (fun keep ->
                    let squares = x.to_type(torch.float64).square ()
                    let touched, moved = g.ne (Number.scalar 0.0), x.ne (Number.scalar 0.0)

                    keep (squares.sum ()),
                    keep ((squares * touched).sum ()),
                    keep (moved.sum ()),
                    keep (moved.logical_and(touched.logical_not ()).sum ()))

        { All = all.sqrt ()
          Active = torch.where(active.gt (Number.scalar 0.0), active, all).sqrt ()
          NonZero = nonZero
          Outside = outside }

    /// ‖x‖ as a 0-D float64 tensor.
    let norm (x: Tensor) : Tensor = (norms x x).All

    let inline private combined<'t when 't: struct and 't: (new: unit -> 't) and 't :> ValueType>
        ([<InlineIfLambda>] one: 't -> 't -> 't)
        (s: Vector<'t>)
        (target: nativeint)
        (a: nativeint)
        (b: nativeint)
        (count: int)
        =
        let width = Vector<'t>.Count
        let vectors = count / width

        for i in 0 .. vectors - 1 do
            write target i (read<Vector<'t>> a i + Vector.Multiply<'t>(read<Vector<'t>> b i, s))

        for i in vectors * width .. count - 1 do
            write target i (one (read<'t> a i) (read<'t> b i))

    /// target ← a + s·b, s 0-D; the target may be a or b. All flat and of one type.
    let combine (target: Tensor) (a: Tensor) (s: Tensor) (b: Tensor) : unit =
        if plain target && plain a && plain b then
            let total, scale = target.numel (), Number.read s
            let size = if target.dtype = torch.float32 then 4L else 8L
            let t, x, y = Number.address target, Number.address a, Number.address b

            chunks total (fun _ start count ->
                let o = nativeint (start * size)

                if size = 4L then
                    let s = float32 scale
                    combined<float32> (fun a b -> a + s * b) (Vector<float32> s) (t + o) (x + o) (y + o) count
                else
                    combined<float> (fun a b -> a + scale * b) (Vector<float> scale) (t + o) (x + o) (y + o) count)

            GC.KeepAlive(struct (target, a, b))
        else
            Scope.run (fun _ -> target.copy_ (a.addcmul (b, s, Number.scalar 1.0)) |> ignore)
