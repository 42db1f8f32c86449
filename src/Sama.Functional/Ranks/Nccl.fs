namespace Sama.Functional

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// What NCCL's ranks find each other by: 128 bytes, passed by value.
[<Struct; StructLayout(LayoutKind.Sequential, Size = 128)>]
type internal NcclId =
    val mutable First: int64

/// The few functions of NCCL that ranks need.
module internal Nccl =

    [<Literal>]
    let private library = "sama-nccl"

    [<DllImport(library)>]
    extern int private ncclGetUniqueId(nativeint id)

    [<DllImport(library)>]
    extern int private ncclCommInitRank(nativeint& communicator, int size, NcclId id, int rank)

    [<DllImport(library)>]
    extern int private ncclAllReduce(
        nativeint from,
        nativeint into,
        unativeint count,
        int kind,
        int operation,
        nativeint communicator,
        nativeint stream
    )

    [<DllImport(library)>]
    extern int private ncclBroadcast(
        nativeint from,
        nativeint into,
        unativeint count,
        int kind,
        int root,
        nativeint communicator,
        nativeint stream
    )

    [<DllImport(library)>]
    extern int private ncclGroupStart()

    [<DllImport(library)>]
    extern int private ncclGroupEnd()

    [<DllImport(library)>]
    extern int private ncclCommGetAsyncError(nativeint communicator, int& code)

    [<DllImport(library)>]
    extern int private ncclCommAbort(nativeint communicator)

    [<DllImport(library)>]
    extern int private ncclCommDestroy(nativeint communicator)

    [<DllImport(library)>]
    extern nativeint private ncclGetErrorString(int code)

    [<DllImport(library)>]
    extern nativeint private ncclGetLastError(nativeint communicator)

    let private inProgress = 7

    let private loaded =
        lazy
            (Cuda.load ()

             RankLibraries.load
                 library
                 (RankLibraries.named "SAMA_NCCL" [ "libnccl.so.2"; "libnccl.so" ])
                 (fun reasons ->
                     $"NCCL, which sums what lies on CUDA devices, does not load: {reasons}. Install libnccl2 (NVIDIA's packages for Debian and Ubuntu), or name the file by SAMA_NCCL (of an installed PyTorch: site-packages/nvidia/nccl/lib/libnccl.so.2); RankTransport.Mpi goes through the host's memory without it"))

    /// DllNotFoundException with the package to install; FileNotFoundException for a file of SAMA_NCCL that is not there.
    let load () : unit = loaded.Force() |> ignore

    let private text (at: nativeint) : string =
        if at = 0n then "" else Marshal.PtrToStringUTF8 at

    let private check (what: string) (communicator: nativeint) (code: int) : unit =
        if code <> 0 then
            let more = text (ncclGetLastError communicator)
            let more = if more = "" then "" else $": {more}"
            invalidOp $"NCCL failed in {what}: {text (ncclGetErrorString code)} (error {code}){more}"

    /// NCCL's own number of a type, or none that it sums.
    let kind (dtype: torch.ScalarType) : int option =
        match dtype with
        | torch.ScalarType.Float16 -> Some 6
        | torch.ScalarType.Float32 -> Some 7
        | torch.ScalarType.Float64 -> Some 8
        | torch.ScalarType.BFloat16 -> Some 9
        | _ -> None

    let private bytes = 1
    let private sum, mean = 0, 4

    /// Writes what one rank makes and all need: 128 bytes.
    let newId (place: nativeint) : unit =
        check "ncclGetUniqueId" 0n (ncclGetUniqueId place)

    /// All ranks come to it, each with a device of its own.
    let join (size: int) (rank: int) (id: nativeint) : nativeint =
        let mutable communicator = 0n

        check
            "ncclCommInitRank (every rank needs a device of its own: cuda:0, cuda:1, … on one host)"
            0n
            (ncclCommInitRank (&communicator, size, Marshal.PtrToStructure<NcclId> id, rank))

        communicator

    /// Calls that start together.
    let together (communicator: nativeint) (body: unit -> unit) : unit =
        check "ncclGroupStart" communicator (ncclGroupStart ())

        try
            body ()
        with _ ->
            ncclGroupEnd () |> ignore
            reraise ()

        check "ncclGroupEnd" communicator (ncclGroupEnd ())

    /// Sum or mean over the ranks, where it lies.
    let reduce communicator stream (isMean: bool) (address: nativeint) (count: int64) (kind: int) : unit =
        let operation = if isMean then mean else sum

        check
            "ncclAllReduce"
            communicator
            (ncclAllReduce (address, address, unativeint count, kind, operation, communicator, stream))

    /// The bytes of one rank on all, where they lie.
    let broadcast communicator stream (root: int) (address: nativeint) (count: int64) : unit =
        check
            "ncclBroadcast"
            communicator
            (ncclBroadcast (address, address, unativeint count, bytes, root, communicator, stream))

    /// InvalidOperationException for what failed behind a call: a rank that is gone, a network that is down.
    let requireSound (communicator: nativeint) : unit =
        let mutable code = 0
        check "ncclCommGetAsyncError" communicator (ncclCommGetAsyncError (communicator, &code))

        if code <> inProgress then
            check "a call that was under way" communicator code

    let abort (communicator: nativeint) : unit = ncclCommAbort communicator |> ignore

    let destroy (communicator: nativeint) : unit = ncclCommDestroy communicator |> ignore
