namespace Sama.DataPruning

open System
open System.Buffers.Binary
open System.IO
open System.IO.Compression
open System.IO.Hashing
open System.Text

/// Red, green and blue bytes as a PNG file (ISO/IEC 15948): eight bits a channel, no filter. It needs no native library, so that
/// reports have pictures wherever the tool runs.
module internal Png =

    let private number (value: uint32) : byte[] =
        let bytes = Array.zeroCreate<byte> 4
        BinaryPrimitives.WriteUInt32BigEndian(Span bytes, value)
        bytes

    let private chunk (kind: string) (content: byte[]) : byte[] =
        let named = Array.append (Encoding.ASCII.GetBytes kind) content

        Array.concat
            [ number (uint32 content.Length)
              named
              number (Crc32.HashToUInt32(ReadOnlySpan named)) ]

    /// `pixels` by row, column and channel.
    let write (height: int) (width: int) (pixels: byte[]) : byte[] =
        use packed = new MemoryStream()

        do
            use stream = new ZLibStream(packed, CompressionLevel.Optimal, true)

            for row in 0 .. height - 1 do
                stream.WriteByte 0uy
                stream.Write(pixels, row * width * 3, width * 3)

        // eight bits, red, green and blue
        let head =
            Array.concat [ number (uint32 width); number (uint32 height); [| 8uy; 2uy; 0uy; 0uy; 0uy |] ]

        Array.concat
            [ [| 0x89uy; 0x50uy; 0x4Euy; 0x47uy; 0x0Duy; 0x0Auy; 0x1Auy; 0x0Auy |]
              chunk "IHDR" head
              chunk "IDAT" (packed.ToArray())
              chunk "IEND" [||] ]
