namespace Sama.Functional

open System.Buffers
open System.IO.Hashing
open System.Text
open TorchSharp
open Sama

/// Checksums that tell damage, not malice: XXH3 of 64 bits (Collet), as 16 hexadecimal digits.
module internal Checksum =

    let private add (hash: XxHash3) (tensor: Tensor) : unit =
        let flat = tensor.detach().reshape -1L

        Pieces.iterate (flat.numel ()) flat.ElementSize (fun first count ->
            use part = flat.narrow (0L, first, count)

            use host =
                if Pieces.direct part then
                    part.alias ()
                else
                    part.cpu().contiguous ()

            hash.Append(System.Span.op_Implicit host.bytes: System.ReadOnlySpan<byte>))

    let private shown (hash: XxHash3) =
        hash.GetCurrentHashAsUInt64().ToString "x16"

    let private hashOf (tensors: Tensor seq) : XxHash3 =
        Scope.run (fun _ ->
            let hash = XxHash3()

            for tensor in tensors do
                add hash tensor

            hash)

    /// Of the bytes of tensors, one behind the other, on any device.
    let ofTensors (tensors: Tensor seq) : string = shown (hashOf tensors)

    /// The same as a number.
    let numberOf (tensors: Tensor seq) : int64 =
        int64 ((hashOf tensors).GetCurrentHashAsUInt64())

    /// Of a text's UTF-8.
    let ofText (text: string) : string =
        let hash = XxHash3()
        hash.Append(Encoding.UTF8.GetBytes text)
        shown hash
