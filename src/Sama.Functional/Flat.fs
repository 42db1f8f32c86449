namespace Sama.Functional

#nowarn "9"

open System
open System.Numerics
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open System.Threading.Tasks
open TorchSharp
open Sama

/// Σ x², Σ x² where g ≠ 0, and the number of x ≠ 0.
[<Struct>]
type internal Sums =
    { All: float
      Active: float
      NonZero: int64 }

/// One-pass kernels over flat vectors. Sums are float64; on the CPU they go chunk by chunk, so that the bits do not depend
/// on the number of threads.
module internal Flat =

    let private chunk = 1 <<< 16

    let private add (a: Sums) (b: Sums) : Sums =
        { All = a.All + b.All
          Active = a.Active + b.Active
          NonZero = a.NonZero + b.NonZero }

    let private read<'t> (data: nativeint) (i: int) : 't =
        Unsafe.ReadUnaligned<'t>((data + nativeint i * nativeint sizeof<'t>).ToPointer())

    let private write<'t> (data: nativeint) (i: int) (value: 't) : unit =
        Unsafe.WriteUnaligned<'t>((data + nativeint i * nativeint sizeof<'t>).ToPointer(), value)

    /// One chunk; `squares` of a register in float64 lanes, `zero` true where a register's lane is 0.
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
        let mutable nonZero = 0L

        for i in 0 .. vectors - 1 do
            let v = read<Vector<'t>> x i
            let untouched = Vector.Equals<'t>(read<Vector<'t>> g i, none)
            all <- all + squares v
            active <- active + squares (Vector.AndNot(v, untouched))

            if Vector.EqualsAny(v, none) then
                for lane in 0 .. width - 1 do
                    if v[lane] <> none[0] then
                        nonZero <- nonZero + 1L
            else
                nonZero <- nonZero + int64 width

        let mutable total =
            { All = Vector.Sum all
              Active = Vector.Sum active
              NonZero = nonZero }

        for i in vectors * width .. count - 1 do
            let v = read<'t> x i
            let seen = read<'t> g i <> none[0]

            total <-
                add
                    total
                    { All = square v
                      Active = (if seen then square v else 0.0)
                      NonZero = (if v <> none[0] then 1L else 0L) }

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

    let private address (tensor: Tensor) : nativeint =
        IntPtr(Unsafe.AsPointer(&MemoryMarshal.GetReference tensor.bytes))

    let private plain (x: Tensor) =
        Host.holds x
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
        let x, g = address x, address g

        chunks total (fun i start count ->
            let offset = nativeint (start * size)
            parts[i] <- sums (x + offset) (g + offset) count)

        Array.fold
            add
            { All = 0.0
              Active = 0.0
              NonZero = 0L }
            parts

    /// ‖x‖ and ‖x‖_A, A the coordinates with g ≠ 0 (‖x‖ where ‖x‖_A is 0), and the number of x ≠ 0: 0-D, float64 and
    /// int64, on x's device. x and g are flat and of one dtype. libtorch's own float32 norm errs by 1 % at 1e8 elements.
    let norms (x: Tensor) (g: Tensor) : Tensor * Tensor * Tensor =
        let all, active, nonZero =
            if x.numel () > 0L && plain x && plain g && x.dtype = g.dtype then
                let sums = onHost x g

                let number (value: float) =
                    torch.tensor (value, dtype = torch.float64)

                number sums.All, number sums.Active, torch.tensor sums.NonZero
            else
                Scope.run (fun keep ->
                    let squares = x.to_type(torch.float64).square ()

                    keep (squares.sum ()),
                    keep ((squares * g.ne (Number.scalar 0.0)).sum ()),
                    keep (x.count_nonzero ()))

        let active = torch.where (active.gt (Number.scalar 0.0), active, all)
        all.sqrt (), active.sqrt (), nonZero

    /// ‖x‖ as a 0-D float64 tensor.
    let norm (x: Tensor) : Tensor =
        let all, _, _ = norms x x
        all

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
            let t, x, y = address target, address a, address b

            chunks total (fun _ start count ->
                let o = nativeint (start * size)

                if size = 4L then
                    let s = float32 scale
                    combined<float32> (fun a b -> a + s * b) (Vector<float32> s) (t + o) (x + o) (y + o) count
                else
                    combined<float> (fun a b -> a + scale * b) (Vector<float> scale) (t + o) (x + o) (y + o) count)
        else
            Scope.run (fun _ -> target.copy_ (a.addcmul (b, s, Number.scalar 1.0)) |> ignore)
