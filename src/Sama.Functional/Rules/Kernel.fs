#nowarn "9" // raw storage, on purpose

namespace Sama.Functional

open System
open System.Runtime.Intrinsics.X86
open System.Threading.Tasks
open TorchSharp
open Sama

/// A step: the update, and the state after it.
[<Struct; NoComparison; NoEquality>]
type internal FormulaStep<'V> = { U: 'V; A: 'V; B: 'V; C: 'V }

/// An elementwise rule at one step. a, b, c are its state before the step; one it has no use for is 0.
type internal IFormula =
    /// g θ a b c ↦ u, a′, b′, c′; u is not a, b or c themselves
    abstract Step<'V when 'V :> IReal<'V>> : 'V * 'V * 'V * 'V * 'V -> FormulaStep<'V>
    /// g θ a b c ↦ ∂u/∂g, without cancellation
    abstract Slope<'V when 'V :> IReal<'V>> : 'V * 'V * 'V * 'V * 'V -> 'V

/// The tensors a kernel reads and writes; null where a formula has no use for one.
[<NoComparison; NoEquality>]
type internal Operands =
    { G: Tensor
      Theta: Tensor
      State: Tensor[]
      Target: Tensor }

    member o.All: Tensor[] =
        [| o.G; o.Theta; yield! o.State; o.Target |] |> Array.filter (isNull >> not)

/// A block of every operand: g, θ, a, b, c and the target, whose addresses `At` holds; 0 where there is none.
[<Struct; NoComparison; NoEquality>]
type internal OperandBlocks<'T when 'T: struct> =
    { Scratch: Scratch
      At: nativeint[]
      Offset: nativeint
      Bytes: nativeint }

    member p.Read(operand: int) : Block<'T> =
        if p.At[operand] = 0n then
            Block(Loops.one 0.0)
        else
            Block.Read(p.Scratch, p.At[operand] + p.Offset, p.Bytes)

    member p.Write(operand: int, x: Block<'T>) : unit =
        if p.At[operand] <> 0n then
            x.Write(p.Scratch, p.At[operand] + p.Offset, p.Bytes)

/// A formula on the storage of tensors.
type internal Fused =

    /// Whether u and the state after the step are finite; nothing is written.
    static member IsFinite(f: #IFormula, p: OperandBlocks<'T>) : bool =
        let moved = f.Step<Block<'T>>(p.Read 0, p.Read 1, p.Read 2, p.Read 3, p.Read 4)

        moved.U.IsFinite p.Bytes
        && moved.A.IsFinite p.Bytes
        && moved.B.IsFinite p.Bytes
        && moved.C.IsFinite p.Bytes

    /// target ← u and, with `advance`, the state after the step. The target may be g: it is written last.
    static member Step(f: #IFormula, p: OperandBlocks<'T>, advance: bool) : unit =
        let moved = f.Step<Block<'T>>(p.Read 0, p.Read 1, p.Read 2, p.Read 3, p.Read 4)

        if advance then
            p.Write(2, moved.A)
            p.Write(3, moved.B)
            p.Write(4, moved.C)

        p.Write(5, moved.U)

    /// target ← ∂u/∂g · target
    static member Adapt(f: #IFormula, p: OperandBlocks<'T>) : unit =
        let slope = f.Slope<Block<'T>>(p.Read 0, p.Read 1, p.Read 2, p.Read 3, p.Read 4)
        slope.Scale(p.Scratch, p.At[5] + p.Offset, p.Bytes)

/// What a rule does at one step, by operators or by kernels.
type internal IKernel =
    abstract Step: Graph * Graph * Graph * Graph * Graph -> FormulaStep<Graph>
    abstract Slope: Graph * Graph * Graph * Graph * Graph -> Graph
    /// target ← u; the state too with `advance`
    abstract StepInto: advance: bool -> Operands -> unit
    /// whether u and the state after the step are finite; the target is not written
    abstract IsFinite: Operands -> bool
    /// target ← ∂u/∂g · target
    abstract AdaptInto: Operands -> unit

/// Kernels: one pass over the storage of tensors, in blocks, on libtorch's number of threads.
module internal Kernel =

    /// Kernels serve contiguous float32 and float64 on the CPU, all of one length and type.
    let serves (operands: Operands) : bool =
        let target = operands.Target

        (target.dtype = torch.float32 || target.dtype = torch.float64)
        && operands.All
           |> Array.forall (fun x ->
               Number.onHost x
               && x.dtype = target.dtype
               && x.numel () = target.numel ()
               && x.is_contiguous ())

    // blocks below which a second thread costs more than it brings
    let private grain = 128

    /// Asks for the next block's lines while this one is computed: a formula reads its operands one after the other,
    /// too far apart for the processor to see far ahead.
    let private fetch (at: nativeint[]) (offset: nativeint) : unit =
        if Sse.IsSupported then
            for address in at do
                if address <> 0n then
                    for line in 0..64 .. Scratch.Bytes - 1 do
                        Sse.Prefetch0(Loops.pointer (address + offset + nativeint line))

    let private run<'T when 'T: struct>
        (at: nativeint[])
        (bytes: nativeint)
        (body: OperandBlocks<'T> -> unit)
        (first: nativeint)
        (last: nativeint)
        =
        let scratch = Scratch.Mine
        let mutable offset = first

        while offset < last do
            let size = min (nativeint Scratch.Bytes) (min last bytes - offset)
            fetch at (offset + nativeint Scratch.Bytes)
            scratch.Reset<'T> size

            body
                { Scratch = scratch
                  At = at
                  Offset = offset
                  Bytes = size }

            offset <- offset + nativeint Scratch.Bytes

    let private over<'T when 'T: struct> (operands: Operands) (body: OperandBlocks<'T> -> unit) : unit =
        let address (x: Tensor) =
            if isNull x then 0n else Number.address x

        let at =
            [| address operands.G
               address operands.Theta
               yield! Array.map address operands.State
               address operands.Target |]

        let bytes = nativeint (operands.Target.numel ()) * nativeint sizeof<'T>
        let blocks = int ((bytes + nativeint Scratch.Bytes - 1n) / nativeint Scratch.Bytes)
        let threads = torch.get_num_threads ()
        // more parts than threads: a thread that another process delays leaves work to the rest
        let parts = max 1 (min (4 * threads) (blocks / grain))

        let bound part =
            nativeint (int64 blocks * int64 part / int64 parts) * nativeint Scratch.Bytes

        let part i =
            run at bytes body (bound i) (min bytes (bound (i + 1)))

        if threads = 1 || parts = 1 then
            for i in 0 .. parts - 1 do
                part i
        else
            Parallel.For(0, parts, ParallelOptions(MaxDegreeOfParallelism = threads), part)
            |> ignore

        // the addresses do not keep their tensors alive
        GC.KeepAlive operands

    /// The kernel of a formula.
    let ofFormula (f: #IFormula) : IKernel =
        { new IKernel with
            member _.Step(g, theta, a, b, c) = f.Step<Graph>(g, theta, a, b, c)
            member _.Slope(g, theta, a, b, c) = f.Slope<Graph>(g, theta, a, b, c)

            member _.StepInto advance operands =
                if operands.Target.dtype = torch.float32 then
                    over<float32> operands (fun p -> Fused.Step(f, p, advance))
                else
                    over<float> operands (fun p -> Fused.Step(f, p, advance))

            member _.IsFinite operands =
                let finite = ref true

                // parts may write the same false
                if operands.Target.dtype = torch.float32 then
                    over<float32> operands (fun p ->
                        if finite.Value && not (Fused.IsFinite(f, p)) then
                            finite.Value <- false)
                else
                    over<float> operands (fun p ->
                        if finite.Value && not (Fused.IsFinite(f, p)) then
                            finite.Value <- false)

                finite.Value

            member _.AdaptInto operands =
                if operands.Target.dtype = torch.float32 then
                    over<float32> operands (fun p -> Fused.Adapt(f, p))
                else
                    over<float> operands (fun p -> Fused.Adapt(f, p)) }
