namespace Sama.Functional

open System
open System.Collections.Concurrent
open System.Runtime.InteropServices

/// The few functions of CUDA's driver that reductions beside libtorch's work need: streams, which TorchSharp does not have,
/// and events between them. libtorch works on stream 0.
module internal Cuda =

    [<Literal>]
    let private library = "sama-cuda"

    [<DllImport(library)>]
    extern int private cuInit(uint32 flags)

    [<DllImport(library)>]
    extern int private cuDeviceGet(int& device, int ordinal)

    [<DllImport(library)>]
    extern int private cuDevicePrimaryCtxRetain(nativeint& context, int device)

    [<DllImport(library)>]
    extern int private cuCtxSetCurrent(nativeint context)

    [<DllImport(library)>]
    extern int private cuCtxPushCurrent_v2(nativeint context)

    [<DllImport(library)>]
    extern int private cuCtxPopCurrent_v2(nativeint& context)

    [<DllImport(library)>]
    extern int private cuStreamCreate(nativeint& stream, uint32 flags)

    [<DllImport(library)>]
    extern int private cuStreamDestroy_v2(nativeint stream)

    [<DllImport(library)>]
    extern int private cuStreamWaitEvent(nativeint stream, nativeint event, uint32 flags)

    [<DllImport(library)>]
    extern int private cuEventCreate(nativeint& event, uint32 flags)

    [<DllImport(library)>]
    extern int private cuEventDestroy_v2(nativeint event)

    [<DllImport(library)>]
    extern int private cuEventRecord(nativeint event, nativeint stream)

    [<DllImport(library)>]
    extern int private cuEventQuery(nativeint event)

    [<DllImport(library)>]
    extern int private cuPointerGetAttribute(int& data, int attribute, nativeint address)

    [<DllImport(library)>]
    extern int private cuGetErrorString(int code, nativeint& text)

    let private notReady = 600

    let private loaded =
        lazy
            (RankLibraries.load library (RankLibraries.named "SAMA_CUDA" [ "libcuda.so.1" ]) (fun reasons ->
                $"CUDA's driver does not load: {reasons}. It comes with NVIDIA's driver of the machine; SAMA_CUDA names another libcuda.so.1"))

    /// DllNotFoundException where the driver is not there.
    let load () : unit = loaded.Force() |> ignore

    let private check (what: string) (code: int) : unit =
        if code <> 0 then
            let mutable text = 0n
            cuGetErrorString (code, &text) |> ignore

            let reason =
                if text = 0n then
                    "an error without a text"
                else
                    Marshal.PtrToStringUTF8 text

            invalidOp $"CUDA failed in {what}: {reason} (error {code})"

    /// The context that libtorch has on a device.
    let private contextOf =
        let known = ConcurrentDictionary<int, nativeint>()

        let retain ordinal =
            let mutable device = 0
            let mutable context = 0n
            check "cuInit" (cuInit 0u)
            check $"cuDeviceGet of device {ordinal}" (cuDeviceGet (&device, ordinal))
            check "cuDevicePrimaryCtxRetain" (cuDevicePrimaryCtxRetain (&context, device))
            context

        fun (ordinal: int) -> known.GetOrAdd(ordinal, retain)

    /// Work of this thread is on that device from now on.
    let enter (ordinal: int) : unit =
        check "cuCtxSetCurrent" (cuCtxSetCurrent (contextOf ordinal))

    /// A stream beside stream 0: a blocking one would wait for it, and it for that.
    let stream () : nativeint =
        let mutable stream = 0n
        check "cuStreamCreate" (cuStreamCreate (&stream, 1u))
        stream

    /// An event without a clock.
    let event () : nativeint =
        let mutable event = 0n
        check "cuEventCreate" (cuEventCreate (&event, 2u))
        event

    let destroyStream (stream: nativeint) : unit = cuStreamDestroy_v2 stream |> ignore
    let destroyEvent (event: nativeint) : unit = cuEventDestroy_v2 event |> ignore

    /// The event comes behind what the stream has been given so far.
    let record (event: nativeint) (stream: nativeint) : unit =
        check "cuEventRecord" (cuEventRecord (event, stream))

    /// An event behind what libtorch has given a device so far, whatever this thread's device is.
    let mark (ordinal: int) : nativeint =
        check "cuCtxPushCurrent" (cuCtxPushCurrent_v2 (contextOf ordinal))

        try
            let event = event ()
            record event 0n
            event
        finally
            let mutable own = 0n
            cuCtxPopCurrent_v2 &own |> ignore

    /// What the stream is given from now on comes behind the event.
    let wait (stream: nativeint) (event: nativeint) : unit =
        check "cuStreamWaitEvent" (cuStreamWaitEvent (stream, event, 0u))

    /// Whether the event has come.
    let hasCome (event: nativeint) : bool =
        let code = cuEventQuery event

        if code <> notReady then
            check "cuEventQuery" code

        code = 0

    /// Whether an address lies in a device's memory.
    let owns (address: nativeint) : bool =
        let mutable kind = 0
        // an error for what the driver does not know: the host's
        cuPointerGetAttribute (&kind, 2, address) = 0 && kind = 2
