namespace Sama.Functional

open System
open System.Threading.Tasks
open TorchSharp
open Sama

/// What ranks do together with tensors. Each works on a handle of its own, since the caller's may be disposed before.
module internal RankTensors =

    /// Posts what is about to happen: its description, what else the rank brings to it, and how it is done.
    type Post = string -> (Ballot -> Ballot) -> (Link -> unit) -> Task<Verdict>

    let private freeing (own: Tensor) (task: Task<Verdict>) : Task<Verdict> =
        task.ContinueWith((fun (_: Task<Verdict>) -> own.Dispose()), TaskContinuationOptions.ExecuteSynchronously)
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

    let private range (tensor: Tensor) (first: int64) (count: int64) : RankRange =
        { Data = Number.address tensor
          Bytes = int tensor.ElementSize
          Length = tensor.numel ()
          First = first
          Count = count }

    /// scale · Σ over ranks of a part, in its place.
    let reduce (post: Post) what (tensor: Tensor) (first: int64) (count: int64) (scale: float) : Task<Verdict> =
        let own = Scope.detach (tensor.detach ())

        let part () =
            own.reshape(-1L).narrow (0L, first, count)

        let isFinite () =
            if inPlace own then
                let bytes = int own.ElementSize
                RankKernels.isFinite bytes (Number.address own + nativeint (first * int64 bytes)) count
            else
                Scope.run (fun _ -> Number.isFinite (part ()))

        let act (link: Link) =
            if inPlace own then
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

        post
            $"{what} of elements {first} to {first + count} of {own.numel ()}, {own.dtype}"
            (fun ballot -> { ballot with IsFinite = isFinite () })
            act
        |> freeing own

    /// A contiguous tensor of one rank on all.
    let broadcast (post: Post) (tensor: Tensor) (root: int) : Task<Verdict> =
        let own = Scope.detach (tensor.detach ())
        let bytes = own.numel () * own.ElementSize

        let act (link: Link) =
            if Number.onHost own then
                link.Ring.Broadcast(Number.address own, bytes, root)
            else
                Scope.run (fun _ ->
                    let copy = own.cpu ()
                    link.Ring.Broadcast(Number.address copy, bytes, root)
                    GC.KeepAlive copy
                    own.copy_ copy |> ignore)

        let shape = String.Join("x", own.shape)

        post $"broadcast of [{shape}], {own.dtype}, from rank {root}" id act
        |> freeing own
