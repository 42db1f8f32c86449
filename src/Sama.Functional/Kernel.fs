#nowarn "9" // raw storage, on purpose

namespace Sama.Functional

open System
open System.Numerics
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open System.Threading.Tasks
open Microsoft.FSharp.NativeInterop
open TorchSharp
open Sama

/// A step: the update, and the state's registers after it.
[<Struct; NoComparison; NoEquality>]
type internal Moved<'V> = { U: 'V; A: 'V; B: 'V; C: 'V }

/// An elementwise rule at one step. a, b, c are its state before the step; a register it has no use for is anything.
type internal IFormula =
    /// g θ a b c ↦ u, a′, b′, c′
    abstract Step<'V when 'V :> IReal<'V> and 'V: struct> : 'V * 'V * 'V * 'V * 'V -> Moved<'V>
    /// g θ a b c ↦ ∂u/∂g, without cancellation
    abstract Slope<'V when 'V :> IReal<'V> and 'V: struct> : 'V * 'V * 'V * 'V * 'V -> 'V

/// The tensors a kernel reads and writes; null where a formula has no use for one.
[<NoComparison; NoEquality>]
type internal Operands =
    { G: Tensor
      Theta: Tensor
      State: Tensor[]
      Target: Tensor }

    member o.All: Tensor[] =
        [| o.G; o.Theta; yield! o.State; o.Target |] |> Array.filter (isNull >> not)

/// Addresses of g, θ, a, b, c and the target; 0 where there is none.
[<Struct; NoComparison; NoEquality>]
type internal Addresses =
    { G: nativeint
      Theta: nativeint
      A: nativeint
      B: nativeint
      C: nativeint
      Target: nativeint }

    member a.Move(bytes: nativeint) : Addresses =
        let move address =
            if address = 0n then 0n else address + bytes

        { G = move a.G
          Theta = move a.Theta
          A = move a.A
          B = move a.B
          C = move a.C
          Target = move a.Target }

/// The loops, once for all formulas. The compiler specialises them by formula and number type, at once: a loop that is
/// called once a step would stay in its unoptimised tier for many steps.
type internal Loop<'F, 'T when 'F :> IFormula and 'F: struct and 'T: struct and 'T :> INumberBase<'T>> =

    [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
    static member private Load(address: nativeint, offset: nativeint) : Lanes<'T> =
        if address = 0n then
            Lanes Vector<'T>.Zero
        else
            Lanes(
                Unsafe.ReadUnaligned<Vector<'T>>(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> (address + offset)))
            )

    [<MethodImpl(MethodImplOptions.AggressiveInlining)>]
    static member private Store(address: nativeint, offset: nativeint, x: Lanes<'T>) : unit =
        if address <> 0n then
            Unsafe.WriteUnaligned(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> (address + offset)), x.V)

    /// Whole registers: target ← u and, with `advance`, the state after the step.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    static member Step(f: 'F, at: Addresses, advance: bool, bytes: nativeint) : unit =
        let mutable i = 0n

        while i < bytes do
            let moved =
                f.Step<Lanes<'T>>(
                    Loop<'F, 'T>.Load(at.G, i),
                    Loop<'F, 'T>.Load(at.Theta, i),
                    Loop<'F, 'T>.Load(at.A, i),
                    Loop<'F, 'T>.Load(at.B, i),
                    Loop<'F, 'T>.Load(at.C, i)
                )

            Loop<'F, 'T>.Store(at.Target, i, moved.U)

            if advance then
                Loop<'F, 'T>.Store(at.A, i, moved.A)
                Loop<'F, 'T>.Store(at.B, i, moved.B)
                Loop<'F, 'T>.Store(at.C, i, moved.C)

            i <- i + nativeint sizeof<Vector<'T>>

    /// Whole registers: target ← ∂u/∂g · target.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    static member Adapt(f: 'F, at: Addresses, bytes: nativeint) : unit =
        let mutable i = 0n

        while i < bytes do
            let slope =
                f.Slope<Lanes<'T>>(
                    Loop<'F, 'T>.Load(at.G, i),
                    Loop<'F, 'T>.Load(at.Theta, i),
                    Loop<'F, 'T>.Load(at.A, i),
                    Loop<'F, 'T>.Load(at.B, i),
                    Loop<'F, 'T>.Load(at.C, i)
                )

            let v = Loop<'F, 'T>.Load(at.Target, i)
            Loop<'F, 'T>.Store(at.Target, i, Lanes(Vector.Multiply(v.V, slope.V)))
            i <- i + nativeint sizeof<Vector<'T>>

/// What a rule does at one step, by operators or by kernels.
type internal IKernel =
    abstract Step: Graph * Graph * Graph * Graph * Graph -> Moved<Graph>
    abstract Slope: Graph * Graph * Graph * Graph * Graph -> Graph
    /// target ← u; the state too with `advance`
    abstract StepInto: advance: bool -> Operands -> unit
    /// target ← ∂u/∂g · target
    abstract AdaptInto: Operands -> unit

/// Fused kernels over the storage of tensors.
module internal Kernel =

    [<DllImport("LibTorchSharp", EntryPoint = "THSTensor_data")>]
    extern nativeint private storage(nativeint tensor)

    /// Kernels serve contiguous float32 and float64 on the CPU, all of one length and type.
    let serves (operands: Operands) : bool =
        let target = operands.Target

        (target.dtype = torch.float32 || target.dtype = torch.float64)
        && operands.All
           |> Array.forall (fun x ->
               x.device_type = DeviceType.CPU
               && x.dtype = target.dtype
               && x.numel () = target.numel ()
               && x.is_contiguous ())

    let private addresses (operands: Operands) : Addresses =
        let address (x: Tensor) =
            if isNull x then 0n else storage x.Handle

        { G = address operands.G
          Theta = address operands.Theta
          A = address operands.State[0]
          B = address operands.State[1]
          C = address operands.State[2]
          Target = address operands.Target }

    // elements below which a second thread costs more than it brings
    let private grain = 32768L

    /// [0, bytes) in pieces of whole cache lines, on libtorch's number of threads.
    let private split (bytes: nativeint) (elements: int64) (piece: nativeint -> nativeint -> unit) =
        let threads = torch.get_num_threads ()

        if threads = 1 || elements < 2L * grain then
            piece 0n bytes
        else
            // more pieces than threads: a thread that another process delays leaves work to the rest
            let pieces = nativeint (min (int64 threads * 4L) (elements / grain))
            let size = (bytes / pieces / 64n + 1n) * 64n
            let options = ParallelOptions(MaxDegreeOfParallelism = threads)

            Parallel.For(
                0,
                int pieces,
                options,
                fun i ->
                    let first = nativeint i * size

                    if first < bytes then
                        piece first (min size (bytes - first))
            )
            |> ignore

    /// The elements behind the last whole register, moved into one of their own and back.
    let private tail (at: Addresses) (bytes: nativeint) (width: nativeint) (body: Addresses -> unit) =
        let block = NativePtr.stackalloc<byte> (6 * int width) |> NativePtr.toNativeInt

        let slot i address =
            let place = block + nativeint (i: int) * width

            if address = 0n then
                0n
            else
                Buffer.MemoryCopy(
                    NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> address),
                    NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> place),
                    int64 width,
                    int64 bytes
                )

                place

        let copies =
            { G = slot 0 at.G
              Theta = slot 1 at.Theta
              A = slot 2 at.A
              B = slot 3 at.B
              C = slot 4 at.C
              Target = slot 5 at.Target }

        body copies

        for own, place in [ at.A, copies.A; at.B, copies.B; at.C, copies.C; at.Target, copies.Target ] do
            if own <> 0n then
                Buffer.MemoryCopy(
                    NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> place),
                    NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> own),
                    int64 bytes,
                    int64 bytes
                )

    let private over<'T when 'T: struct> (operands: Operands) (body: Addresses -> nativeint -> unit) =
        let at = addresses operands
        let elements = operands.Target.numel ()
        let width = nativeint sizeof<Vector<'T>>
        let bytes = nativeint elements * nativeint sizeof<'T>
        let whole = bytes / width * width
        split whole (elements: int64) (fun first size -> body (at.Move first) size)

        if whole < bytes then
            tail (at.Move whole) (bytes - whole) width (fun copies -> body copies width)

        // the addresses do not keep their tensors alive
        GC.KeepAlive operands

    /// The kernel of a formula.
    let ofFormula<'F when 'F :> IFormula and 'F: struct> (f: 'F) : IKernel =
        { new IKernel with
            member _.Step(g, theta, a, b, c) = f.Step<Graph>(g, theta, a, b, c)
            member _.Slope(g, theta, a, b, c) = f.Slope<Graph>(g, theta, a, b, c)

            member _.StepInto advance operands =
                if operands.Target.dtype = torch.float32 then
                    over<float32> operands (fun at bytes -> Loop<'F, float32>.Step(f, at, advance, bytes))
                else
                    over<float> operands (fun at bytes -> Loop<'F, float>.Step(f, at, advance, bytes))

            member _.AdaptInto operands =
                if operands.Target.dtype = torch.float32 then
                    over<float32> operands (fun at bytes -> Loop<'F, float32>.Adapt(f, at, bytes))
                else
                    over<float> operands (fun at bytes -> Loop<'F, float>.Adapt(f, at, bytes)) }
