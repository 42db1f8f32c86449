namespace Sama

open TorchSharp

type Tensor = torch.Tensor

namespace Sama.Functional

open System
open TorchSharp
open Sama

/// Tensor lifetime. What a body makes is freed when it ends, except what it keeps.
module Scope =

    /// `keep` hands a tensor to the caller. A borrowed tensor is kept as a fresh handle on the same storage:
    /// TorchSharp's own MoveToOuterDisposeScope would move it out of its owner's scope and leak it.
    let run (body: (Tensor -> Tensor) -> 'result) : 'result =
        use scope = torch.NewDisposeScope()

        body (fun tensor -> (if scope.Contains tensor then tensor else tensor.alias ()).MoveToOuterDisposeScope())

    /// The one tensor that `body` returns; everything else it made is freed.
    let tensor (body: unit -> Tensor) : Tensor = run (fun keep -> keep (body ()))

    /// A tensor that outlives every scope of its caller; whoever asked for it disposes it.
    let detach (tensor: Tensor) : Tensor = tensor.DetachFromDisposeScope()

    /// A collection of the youngest objects, after every step on long vectors, every 16th on short ones. TorchSharp's
    /// scalars (each `x * 0.5` makes one) have native memory that finalizers alone free, and make too little garbage to
    /// be collected; left between the blocks of dead tensors they keep glibc from using these again. Measured on chains
    /// of operators over 1e6 floats: 100 ms and 15 MB more memory a chain without, 3 ms and none with.
    let internal sweep (step: int64) (length: int64) : unit =
        if length > 100_000L || step % 16L = 0L then
            GC.Collect(0, GCCollectionMode.Forced, false)

/// Storage that the host's own kernels may touch, and values that it need not wait for.
module internal Host =

    /// Off in tests of what other devices do: the CPU is then driven as one of them.
    let mutable direct = true

    /// True on the CPU.
    let holds (x: Tensor) : bool =
        direct && x.device_type = DeviceType.CPU

/// Numbers in and out of tensors of any floating type.
module internal Number =

    /// `item<float>` throws on float32. Waits for the device.
    let read (tensor: Tensor) : float =
        use wide = tensor.detach().to_type torch.float64
        wide.item<float> ()

    /// The values of 0-D tensors, brought over together.
    let readAll (tensors: Tensor list) : float[] =
        Scope.run (fun _ ->
            let wide = [| for t in tensors -> t.detach().to_type torch.float64 |]
            (torch.stack wide).cpu().data<float>().ToArray())

    let scalar (x: float) : Scalar = Scalar.op_Implicit x

    /// The smallest normal number of a tensor's type.
    let tiny (tensor: Tensor) : float = torch.finfo(tensor.dtype).tiny

    /// A floor that keeps 0/0 and √0 out of derivatives.
    let floor (tensor: Tensor) : Tensor = tensor.clamp_min (scalar (tiny tensor))

    /// False if any entry is NaN or infinite: both survive a sum.
    let isFinite (x: Tensor) : bool =
        Scope.run (fun _ -> Double.IsFinite(read (x.detach().sum ())))
        || Scope.run (fun _ -> x.detach().isfinite().all().item<bool> ())
