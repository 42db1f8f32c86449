namespace Sama

open System
open System.Collections.Generic
open System.IO
open System.Runtime.InteropServices
open Microsoft.Win32.SafeHandles
open TorchSharp
open Sama.Functional

/// Pieces of tensors as bytes: a span ends at 2 GiB, a tensor need not.
module internal Pieces =

    /// bytes in memory beside a tensor that is converted or on another device
    let private piece = 64L * 1024L * 1024L

    /// Calls `body` with consecutive pieces (first element, elements) of `count` elements of so many bytes.
    let iterate (count: int64) (width: int64) (body: int64 -> int64 -> unit) : unit =
        let most = max 1L (piece / width)
        let mutable first = 0L

        while first < count do
            let next = min most (count - first)
            body first next
            first <- first + next

    /// True if the bytes of the tensor are the host's and in order.
    let direct (tensor: Tensor) : bool =
        tensor.device_type = DeviceType.CPU
        && tensor.is_contiguous ()
        && not tensor.is_sparse

/// A safetensors file that is open for reading. Tensors are read when they are asked for; reads may run side by side.
[<Sealed>]
type SafetensorsFile
    private (path: string, handle: SafeFileHandle, metadata: Dictionary<string, string>, entries: SafetensorsEntry[]) =
    let index = Dictionary(entries |> Seq.map (fun e -> KeyValuePair(e.Name, e)))

    let fail (name: string) (why: string) : exn =
        InvalidDataException $"'{path}', tensor '{name}': {why}"

    let fill (entry: SafetensorsEntry) (offset: int64) (target: Span<byte>) =
        let mutable filled = 0

        while filled < target.Length do
            match RandomAccess.Read(handle, target.Slice filled, entry.Offset + offset + int64 filled) with
            | 0 -> raise (fail entry.Name "the file was cut while it was read")
            | more -> filled <- filled + more

        // libtorch computes with a byte of a BOOL as it stands, whatever it is
        if entry.Dtype = "BOOL" && target.IndexOfAnyExceptInRange(0uy, 1uy) >= 0 then
            raise (fail entry.Name "a BOOL is neither 0 nor 1")

    let scalarType (entry: SafetensorsEntry) =
        match SafetensorsTypes.scalarType entry.Dtype with
        | Some kind -> kind
        | None -> raise (fail entry.Name $"libtorch has no tensors of dtype {entry.Dtype}")

    let fillTensor (entry: SafetensorsEntry) (flat: Tensor) =
        let width = flat.ElementSize

        Pieces.iterate (flat.numel ()) width (fun first count ->
            use part = flat.narrow (0L, first, count)
            fill entry (first * width) part.bytes)

    /// Opens a file and checks its whole header against its size. FileNotFoundException if it is not there,
    /// InvalidDataException naming file and tensor if it is damaged. The caller disposes it.
    static member Open(path: string) : SafetensorsFile =
        ArgumentException.ThrowIfNullOrEmpty(path, nameof path)

        let handle =
            try
                File.OpenHandle path
            with
            | :? DirectoryNotFoundException -> raise (FileNotFoundException($"there is no file '{path}'", path))
            | :? UnauthorizedAccessException when Directory.Exists path ->
                raise (InvalidDataException $"'{path}' is a folder, not a safetensors file")

        try
            let metadata, entries = SafetensorsHeader.read path handle
            new SafetensorsFile(path, handle, metadata, entries)
        with e ->
            handle.Dispose()

            match e with
            | :? NotSupportedException -> raise (InvalidDataException($"'{path}' is not a file of a fixed length", e))
            | _ -> reraise ()

    /// Where it lies.
    member _.Path = path

    /// `__metadata__`; null if the file has none.
    member _.Metadata: IReadOnlyDictionary<string, string> = metadata

    /// The tensors in the header's order.
    member _.Entries: IReadOnlyList<SafetensorsEntry> = entries

    /// True if there is a tensor of that name.
    member _.Contains(name: string) : bool = index.ContainsKey name

    /// What the header says of a tensor. InvalidDataException if there is none of that name.
    member _.Entry(name: string) : SafetensorsEntry =
        match index.TryGetValue name with
        | true, entry -> entry
        | _ -> raise (fail name "the file holds no tensor of that name")

    /// A tensor on the CPU, in the type in which it is stored; the caller disposes it. InvalidDataException for a name
    /// that is not there, a dtype that libtorch has not (U16, U32, U64, floats below 16 bits) and a file cut meanwhile.
    member file.Read(name: string) : Tensor =
        let entry = file.Entry name
        let kind = scalarType entry

        Scope.tensor (fun () ->
            let flat = torch.empty ([| Array.fold (*) 1L entry.Shape |], dtype = kind)
            fillTensor entry flat
            flat.reshape entry.Shape)

    /// Copies a tensor into one of its shape, of any floating or integer type and device, which it is converted to, in
    /// pieces: no second copy of the whole. ArgumentException for another shape; else as `Read`.
    member file.ReadInto(name: string, destination: Tensor) : unit =
        let entry = file.Entry name
        let kind = scalarType entry

        if destination.shape <> entry.Shape then
            let shown (shape: int64[]) = String.Join("x", shape)

            invalidArg
                (nameof destination)
                $"'{path}', tensor '{name}' is [{shown entry.Shape}], the destination [{shown destination.shape}]"

        Scope.run (fun _ ->
            let own = destination.detach ()

            if own.dtype = kind && Pieces.direct own then
                fillTensor entry (own.view -1L)
            elif own.is_contiguous () then
                let flat = own.view -1L
                let width = torch.empty([| 0L |], dtype = kind).ElementSize

                Pieces.iterate (flat.numel ()) width (fun first count ->
                    use piece = torch.empty ([| count |], dtype = kind)
                    fill entry (first * width) piece.bytes
                    use part = flat.narrow (0L, first, count)
                    part.copy_ piece |> ignore)
            else
                own.copy_ (file.Read name) |> ignore)

    interface IDisposable with
        /// Closes the file; tensors that were read stay.
        member _.Dispose() = handle.Dispose()

/// A safetensors file that is being written, tensor by tensor, beside its place: it takes it when it is complete.
[<Sealed>]
type SafetensorsWriter private (path: string, file: string * SafeFileHandle, entries: SafetensorsEntry[]) =
    let missing = Dictionary(entries |> Seq.map (fun e -> KeyValuePair(e.Name, e)))

    let mutable ended = false

    let writePieces (entry: SafetensorsEntry) (tensor: Tensor) =
        let flat = tensor.detach().reshape -1L
        let width = flat.ElementSize

        Pieces.iterate (flat.numel ()) width (fun first count ->
            use part = flat.narrow (0L, first, count)

            use host =
                if Pieces.direct part then
                    part.alias ()
                else
                    part.cpu().contiguous ()

            RandomAccess.Write(snd file, Span.op_Implicit host.bytes, entry.Offset + first * width))

    /// Begins a file of the given tensors (name, type, shape), laid out in their order. ArgumentException for a name given
    /// twice or reserved and for a type that the format has not. `metadata` may be null.
    static member Create
        (
            path: string,
            tensors: IEnumerable<struct (string * torch.ScalarType * int64[])>,
            [<Optional; DefaultParameterValue(null: IReadOnlyDictionary<string, string>)>] metadata:
                IReadOnlyDictionary<string, string>
        ) : SafetensorsWriter =
        ArgumentException.ThrowIfNullOrEmpty(path, nameof path)
        let header, entries = SafetensorsHeader.write metadata tensors
        let file = AtomicFile.start path

        try
            RandomAccess.Write(snd file, ReadOnlySpan header, 0L)
            new SafetensorsWriter(path, file, entries)
        with _ ->
            AtomicFile.abandon file
            reraise ()

    /// Writes one tensor, from any device, in any order. ArgumentException for a name that was not announced or is
    /// written already, another shape or another type.
    member _.Write(name: string, tensor: Tensor) : unit =
        match missing.TryGetValue name with
        | true, entry ->
            if
                tensor.shape <> entry.Shape
                || SafetensorsTypes.dtypeOf tensor.dtype <> entry.Dtype
            then
                let shape = String.Join("x", entry.Shape)
                invalidArg (nameof tensor) $"'{path}', tensor '{name}' was announced as {entry.Dtype} [{shape}]"

            Scope.run (fun _ -> writePieces entry tensor)
            missing.Remove name |> ignore
        | _ -> invalidArg (nameof name) $"'{path}': tensor '{name}' was not announced or is written already"

    /// Flushes the file to the disk and puts it in its place, over what was there. InvalidOperationException if a tensor
    /// is missing.
    member _.Complete() : unit =
        if missing.Count > 0 then
            invalidOp $"'{path}': tensor '{Seq.head missing.Keys}' was not written"

        ended <- true
        AtomicFile.finish path file

    interface IDisposable with
        /// Removes what was not completed; what was there before stays.
        member _.Dispose() =
            if not ended then
                ended <- true
                AtomicFile.abandon file

/// Safetensors files in one call.
[<AbstractClass; Sealed>]
type Safetensors =

    /// Writes named tensors in their order: whole, or not at all. `metadata` may be null. Errors as SafetensorsWriter's.
    static member Save
        (
            path: string,
            tensors: IEnumerable<struct (string * Tensor)>,
            [<Optional; DefaultParameterValue(null: IReadOnlyDictionary<string, string>)>] metadata:
                IReadOnlyDictionary<string, string>
        ) : unit =
        let tensors = Array.ofSeq tensors

        use writer =
            SafetensorsWriter.Create(
                path,
                tensors
                |> Array.map (fun struct (name, tensor) -> struct (name, tensor.dtype, tensor.shape)),
                metadata
            )

        for struct (name, tensor) in tensors do
            writer.Write(name, tensor)

        writer.Complete()
