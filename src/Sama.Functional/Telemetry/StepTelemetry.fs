namespace Sama

open System

/// What one step of a watched run took, beside what its report says of it: time, work, memory.
[<NoComparison; AllowNullLiteral; Sealed>]
type StepTelemetry
    internal
    (
        duration: TimeSpan,
        phases: PhaseTimes,
        examples: int64,
        passes: int,
        products: int,
        tensors: int64,
        nativeBytes: Nullable<int64>,
        residentBytes: int64
    ) =
    /// Time of the whole step.
    member _.Duration = duration
    /// The same time by phase.
    member _.Phases = phases
    /// Rows of the batches of the lowest levels; 0 where batches hold neither a tensor with an axis nor a collection.
    member _.Examples = examples
    /// Rows of the lowest levels a second of the step.
    member _.ExamplesPerSecond = float examples / max duration.TotalSeconds 1e-9
    /// Passes over losses that responses asked for (the base and meta passes themselves are not among them).
    member _.Passes = passes
    /// Products with second derivatives.
    member _.Products = products
    /// Tensors alive in the process, of .NET's.
    member _.Tensors = tensors
    /// Bytes that the native allocator has handed out and not got back: tensors of the CPU, and what else is native. Null
    /// where the C library does not tell.
    member _.NativeBytes = nativeBytes
    /// Bytes of the process in memory.
    member _.ResidentBytes = residentBytes

    /// Its numbers in one line.
    override t.ToString() =
        let native =
            if nativeBytes.HasValue then
                $", native {float nativeBytes.Value / 1e6:F0} MB"
            else
                ""

        $"{duration.TotalMilliseconds:F1} ms ({phases}), {t.ExamplesPerSecond:F0} examples/s, {tensors} tensors{native}, resident {float residentBytes / 1e6:F0} MB"

namespace Sama.Functional

open System
open System.IO
open System.Runtime.InteropServices

/// Memory of this process.
module internal ProcessMemory =

    [<Struct; StructLayout(LayoutKind.Sequential)>]
    type private MallocInfo =
        { Arena: unativeint
          OrdBlocks: unativeint
          SmallBlocks: unativeint
          HugeBlocks: unativeint
          Mapped: unativeint
          MaxUsed: unativeint
          FreeSmall: unativeint
          Used: unativeint
          Free: unativeint
          Keep: unativeint }

    [<DllImport("libc", EntryPoint = "mallinfo2")>]
    extern MallocInfo private mallinfo2()

    let private told =
        lazy
            (try
                mallinfo2 () |> ignore
                true
             with
             | :? EntryPointNotFoundException
             | :? DllNotFoundException -> false)

    /// Bytes that glibc has handed out and not got back; null for another C library.
    let native () : Nullable<int64> =
        if told.Value then
            let info = mallinfo2 ()
            Nullable(int64 info.Used + int64 info.Mapped)
        else
            Nullable()

    // kept open: it is read at every step
    let private pages =
        lazy
            (try
                File.OpenHandle "/proc/self/statm"
             with _ ->
                 null)

    /// Bytes of the process in memory.
    let resident () : int64 =
        match pages.Value with
        | null -> Environment.WorkingSet
        | file ->
            let buffer = Array.zeroCreate<byte> 128
            let length = RandomAccess.Read(file, Span buffer, 0L)
            let words = (Text.Encoding.ASCII.GetString(buffer, 0, length)).Split ' '
            int64 words[1] * int64 Environment.SystemPageSize
