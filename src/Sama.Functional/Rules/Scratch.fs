namespace Sama.Functional

open System
open System.Numerics
open System.Runtime.InteropServices

/// One thread's memory for the blocks of a formula, one behind the other. A block is small enough that what a formula
/// computes stays in the cache of the first level, and long enough that its operations cost more than calling them.
[<Sealed; AllowNullLiteral>]
type internal Scratch private () =
    let storage =
        GC.AllocateUninitializedArray<byte>(Scratch.Blocks * Scratch.Bytes + Scratch.Line, pinned = true)

    let start =
        let line = nativeint Scratch.Line
        (Marshal.UnsafeAddrOfPinnedArrayElement(storage, 0) + line - 1n) / line * line

    let mutable used = 0

    [<ThreadStatic; DefaultValue>]
    static val mutable private own: Scratch

    // a field, so that the memory lives as long as its address
    member private _.Storage = storage

    static member private Line = 64

    /// more than any formula needs
    static member private Blocks = 64

    /// length of a block: 256 numbers in float32, 128 in float64
    static member Bytes = 1024

    /// The calling thread's.
    static member Mine: Scratch =
        if isNull Scratch.own then
            Scratch.own <- Scratch()

        Scratch.own

    /// Bytes that operations work on: whole registers.
    member val Width = 0n with get, set

    /// Every block is free again, for so many bytes of numbers.
    member scratch.Reset<'T>(bytes: nativeint) : unit =
        let register = nativeint sizeof<Vector<'T>>
        used <- 0
        scratch.Width <- (bytes + register - 1n) / register * register

    /// A free block.
    member _.Take() : nativeint =
        if used = Scratch.Blocks then
            invalidOp $"a formula needs more than {Scratch.Blocks} blocks"

        used <- used + 1
        start + nativeint ((used - 1) * Scratch.Bytes)
