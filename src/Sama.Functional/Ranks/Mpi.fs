namespace Sama.Functional

open System
open System.Runtime.InteropServices
open System.Text

/// The few functions of MPI that ranks need. Open MPI's handles are addresses of exported symbols, MPICH's are 32-bit
/// numbers, which pass in the low half of a register; a request is written into 8 bytes of the caller's.
module internal Mpi =

    [<Literal>]
    let private library = "sama-mpi"

    [<DllImport(library)>]
    extern int private MPI_Init_thread(nativeint count, nativeint arguments, int wanted, nativeint provided)

    [<DllImport(library)>]
    extern int private MPI_Comm_rank(nativeint communicator, nativeint rank)

    [<DllImport(library)>]
    extern int private MPI_Comm_size(nativeint communicator, nativeint size)

    [<DllImport(library)>]
    extern int private MPI_Comm_set_errhandler(nativeint communicator, nativeint handler)

    [<DllImport(library)>]
    extern int private MPI_Isend(
        nativeint data,
        int count,
        nativeint kind,
        int peer,
        int tag,
        nativeint communicator,
        nativeint request
    )

    [<DllImport(library)>]
    extern int private MPI_Irecv(
        nativeint data,
        int count,
        nativeint kind,
        int peer,
        int tag,
        nativeint communicator,
        nativeint request
    )

    [<DllImport(library)>]
    extern int private MPI_Test(nativeint request, nativeint flag, nativeint status)

    [<DllImport(library)>]
    extern int private MPI_Iprobe(int peer, int tag, nativeint communicator, nativeint flag, nativeint status)

    [<DllImport(library)>]
    extern int private MPI_Abort(nativeint communicator, int code)

    [<DllImport(library)>]
    extern int private MPI_Finalize()

    [<DllImport(library)>]
    extern int private MPI_Error_string(int code, nativeint text, nativeint length)

    [<DllImport(library)>]
    extern int private MPI_Get_library_version(nativeint text, nativeint length)

    let private files kind =
        match kind with
        | OpenMpi -> [ "libmpi.so.40" ]
        // Intel's and Cray's have MPICH's interface
        | Mpich -> [ "libmpich.so.12"; "libmpi.so.12"; "libmpi_cray.so.12" ]

    let private package kind =
        match kind with
        | OpenMpi -> "openmpi-bin"
        | Mpich -> "mpich"

    let mutable private handle = 0n
    let mutable private world = 0n
    let mutable private bytes = 0n
    let mutable private noStatus = 0n

    /// DllNotFoundException with the loader's words and the package to install.
    let private load (kind: MpiKind) : unit =
        handle <-
            RankLibraries.load library (files kind) (fun reasons ->
                $"the launcher is that of {Launch.nameOf kind}, whose library does not load: {reasons}. On Debian: apt-get install {package kind}")

    let private number (ask: nativeint -> int) : int =
        let place = Marshal.AllocHGlobal 8

        try
            Marshal.WriteInt64(place, 0L)
            ask place |> ignore
            Marshal.ReadInt32 place
        finally
            Marshal.FreeHGlobal place

    let private text (size: int) (ask: nativeint -> nativeint -> int) : string =
        let place = Marshal.AllocHGlobal(size + 8)

        try
            Marshal.WriteInt64(place, 0L)
            ask (place + 8n) place |> ignore
            let length = Marshal.ReadInt32 place
            let read = Array.zeroCreate<byte> (max 0 (min length size))
            Marshal.Copy(place + 8n, read, 0, read.Length)
            Encoding.UTF8.GetString(read).Trim('\000', '\n', ' ')
        finally
            Marshal.FreeHGlobal place

    let private check (code: int) : unit =
        if code <> 0 then
            let reason = text 4096 (fun at length -> MPI_Error_string(code, at, length))
            invalidOp $"MPI failed: {reason} (error {code})"

    /// Loads and starts MPI, for calls of this thread alone.
    let start (kind: MpiKind) : unit =
        load kind

        let symbol name = NativeLibrary.GetExport(handle, name)

        let errorsReturn =
            match kind with
            | OpenMpi ->
                world <- symbol "ompi_mpi_comm_world"
                bytes <- symbol "ompi_mpi_byte"
                noStatus <- 0n
                symbol "ompi_mpi_errors_return"
            | Mpich ->
                world <- 0x44000000n
                bytes <- 0x4c00010dn
                noStatus <- 1n
                0x54000001n

        // MPI_THREAD_FUNNELED
        number (fun place -> MPI_Init_thread(0n, 0n, 1, place)) |> ignore
        check (MPI_Comm_set_errhandler(world, errorsReturn))

    let rank () : int =
        number (fun place -> MPI_Comm_rank(world, place))

    let size () : int =
        number (fun place -> MPI_Comm_size(world, place))

    /// The library's own name of itself, one line.
    let version () : string =
        (text 8192 (fun at length -> MPI_Get_library_version(at, length))).Split('\n')[0]

    let send (data: nativeint) (count: int) (peer: int) (tag: int) (request: nativeint) : unit =
        check (MPI_Isend(data, count, bytes, peer, tag, world, request))

    let receive (data: nativeint) (count: int) (peer: int) (tag: int) (request: nativeint) : unit =
        check (MPI_Irecv(data, count, bytes, peer, tag, world, request))

    /// True once the request is done; `flag` is 4 bytes of the caller's.
    let test (request: nativeint) (flag: nativeint) : bool =
        check (MPI_Test(request, flag, noStatus))
        Marshal.ReadInt32 flag <> 0

    /// Lets what is under way go on.
    let poke (self: int) (flag: nativeint) : unit =
        MPI_Iprobe(self, 0, world, flag, noStatus) |> ignore

    let abort (code: int) : unit = MPI_Abort(world, code) |> ignore
    let finish () : unit = MPI_Finalize() |> ignore
