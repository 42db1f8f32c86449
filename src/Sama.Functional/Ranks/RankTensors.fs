namespace Sama.Functional

open System
open System.Threading.Tasks
open TorchSharp
open Sama

/// What ranks do together with tensors. Each works on a handle of its own, since the caller's may be disposed before.
module internal RankTensors =

    /// Posts what is about to happen: its description, what else the rank brings to it, and how it is done.
    type Post = string -> (Ballot -> Ballot) -> (Link -> unit) -> Task<Verdict>

    /// Frees the handle before anybody is told that it is done; what fails is not done, and frees it then.
    let private posted (post: Post) what (own: Tensor) full (act: Link -> unit) : Task<Verdict> =
        let task =
            post what full (fun link ->
                act link
                own.Dispose())

        task.ContinueWith((fun (_: Task<Verdict>) -> own.Dispose()), TaskContinuationOptions.OnlyOnFaulted)
        |> ignore

        task

    /// ArgumentException for a tensor or a range that cannot be summed.
    let require (tensor: Tensor) (first: int64) (count: int64) : unit =
        ArgumentNullException.ThrowIfNull(tensor, nameof tensor)

        if tensor.IsInvalid then
            invalidArg (nameof tensor) "the tensor is disposed"

        if not (torch.is_floating_point tensor && tensor.is_contiguous ()) then
            invalidArg (nameof tensor) $"a contiguous floating-point tensor is needed, not one of {tensor.dtype}"

        if first < 0L || count < 0L || first + count > tensor.numel () then
            invalidArg
                (nameof first)
                $"elements {first} to {first + count} are asked for, the tensor has {tensor.numel ()}"

    /// What the ring adds where it is; the rest is copied.
    let private inPlace (tensor: Tensor) =
        Number.onHost tensor
        && (tensor.dtype = torch.float32 || tensor.dtype = torch.float64)

    let private isCuda (tensor: Tensor) = tensor.device_type = DeviceType.CUDA

    /// What goes over NCCL. DllNotFoundException without the library.
    let onDevice (transport: RankTransport) (tensor: Tensor) : bool =
        match transport with
        | RankTransport.Mpi -> false
        | RankTransport.Auto when not (isCuda tensor) -> false
        | _ ->
            Nccl.load ()
            isCuda tensor || Cuda.owns (Number.address tensor)

    /// InvalidOperationException for a vector that has to go over NCCL and cannot.
    let private requireDevice (transport: RankTransport) (tensor: Tensor) : bool =
        let isDevice = onDevice transport tensor

        if transport = RankTransport.Nccl && not isDevice then
            invalidOp
                $"a tensor on {tensor.device} lies in no device's memory, where NCCL works: move the problem there (Problem.toDevice), or take RankTransport.Auto"

        isDevice

    let private devicePart (tensor: Tensor) (first: int64) (count: int64) : DevicePart =
        let bytes = int tensor.ElementSize

        { Device = max 0 tensor.device_index
          Address = Number.address tensor + nativeint (first * int64 bytes)
          Count = count
          Bytes = bytes
          Type = tensor.dtype }

    let private way isDevice = if isDevice then ", by NCCL" else ""

    let private range (tensor: Tensor) (first: int64) (count: int64) : RankRange =
        { Data = Number.address tensor
          Bytes = int tensor.ElementSize
          Length = tensor.numel ()
          First = first
          Count = count }

    /// scale · Σ over ranks of a part, in its place; scale is 1, or 1/number of ranks. With `looks` the ranks are told whose
    /// part is not finite, for which a device is waited for.
    let reduce
        (post: Post)
        transport
        looks
        what
        (tensor: Tensor)
        (first: int64)
        (count: int64)
        (scale: float)
        : Task<Verdict> =
        let isDevice = requireDevice transport tensor
        let own = Scope.detach (tensor.detach ())

        let part () =
            own.reshape(-1L).narrow (0L, first, count)

        // what a pass has given the device so far, not what it gives it until this has its turn
        let before =
            if isDevice then
                Cuda.mark (devicePart own first count).Device
            else
                0n

        let isFinite () =
            if not looks then
                true
            elif inPlace own then
                let bytes = int own.ElementSize
                RankKernels.isFinite bytes (Number.address own + nativeint (first * int64 bytes)) count
            else
                Scope.run (fun _ -> Number.isFinite (part ()))

        let act (link: Link) =
            if isDevice then
                link.Device.Sum(devicePart own first count, before, scale)
            elif inPlace own then
                link.Ring.Sum(range own first count, scale)
            else
                Scope.run (fun _ ->
                    let wide =
                        if own.ElementSize = 8L then
                            torch.float64
                        else
                            torch.float32

                    let copy = part().to_type(wide).cpu().contiguous ()
                    link.Ring.Sum(range copy 0L count, scale)
                    GC.KeepAlive copy
                    part().copy_ copy |> ignore)

        posted
            post
            $"{what} of elements {first} to {first + count} of {own.numel ()}, {own.dtype}{way isDevice}"
            own
            (fun ballot -> { ballot with IsFinite = isFinite () })
            act

    /// Where the host's memory has to be gone through, a copy there, and back.
    let private throughHost (own: Tensor) (work: nativeint -> unit) =
        if Number.onHost own then
            work (Number.address own)
        else
            Scope.run (fun _ ->
                let copy = own.cpu ()
                work (Number.address copy)
                GC.KeepAlive copy
                own.copy_ copy |> ignore)

    /// A contiguous tensor of one rank on all.
    let broadcast (post: Post) transport (tensor: Tensor) (root: int) : Task<Verdict> =
        // what the host has in its own memory (counts, buffers) is no work for NCCL
        let isDevice = onDevice transport tensor
        let own = Scope.detach (tensor.detach ())
        let count = own.numel ()

        let act (link: Link) =
            if isDevice then
                link.Device.Broadcast(devicePart own 0L count, root)
            else
                throughHost own (fun at -> link.Ring.Broadcast(at, count * own.ElementSize, root))

        let shape = String.Join("x", own.shape)

        posted post $"broadcast of [{shape}], {own.dtype}, from rank {root}{way isDevice}" own id act

    /// Of rank r, elements `bounds[r]` to `bounds[r + 1]` of a flat tensor, on all.
    let gather (post: Post) transport what (tensor: Tensor) (bounds: int64[]) : Task<Verdict> =
        let isDevice = requireDevice transport tensor
        let own = Scope.detach (tensor.detach ())

        let act (link: Link) =
            if isDevice then
                link.Device.Gather(devicePart own 0L (own.numel ()), bounds)
            else
                throughHost own (fun at -> link.Ring.Gather(at, [| for b in bounds -> b * own.ElementSize |]))

        posted post $"{what} of {own.numel ()} elements, {own.dtype}, in parts{way isDevice}" own id act
