namespace Sama.Functional

open System
open System.Runtime.InteropServices
open TorchSharp
open Sama

/// Numbers in and out of tensors of any floating type.
module internal Number =

    [<DllImport("LibTorchSharp", EntryPoint = "THSTensor_data")>]
    extern nativeint private storage(nativeint tensor)

    /// Where a tensor's first element lies, on its own device: two tensors of one address share storage. Spans end at
    /// 2 GiB, addresses do not. The tensor must be kept alive by the caller.
    let address (tensor: Tensor) : nativeint = storage tensor.Handle

    /// What tells a tensor's storage from others: its address and device, its own handle where it has no data ("meta").
    let place (tensor: Tensor) : struct (nativeint * string) =
        let at = address tensor
        struct ((if at = 0n then tensor.Handle else at), string tensor.device)

    /// True for storage that the host's own kernels may touch.
    let onHost (tensor: Tensor) : bool = tensor.device_type = DeviceType.CPU

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

    /// Its type and shape, for messages.
    let told (tensor: Tensor) : string =
        let shape = String.Join("x", tensor.shape)
        $"{tensor.dtype} [{shape}]"

    /// The smallest normal number of a tensor's type.
    let tiny (tensor: Tensor) : float = torch.finfo(tensor.dtype).tiny

    /// A floor that keeps 0/0 and √0 out of derivatives.
    let floor (tensor: Tensor) : Tensor = tensor.clamp_min (scalar (tiny tensor))

    /// False if any entry is NaN or infinite: both survive a sum.
    let isFinite (x: Tensor) : bool =
        Scope.run (fun _ -> Double.IsFinite(read (x.detach().sum ())))
        || Scope.run (fun _ -> x.detach().isfinite().all().item<bool> ())
