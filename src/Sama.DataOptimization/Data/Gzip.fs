namespace Sama.DataOptimization

open System
open System.IO
open System.IO.Compression

/// Gzipped bytes, whole or not at all: the framework reads a file that is cut short as far as it goes, and says nothing.
module internal Gzip =

    let private inflate (packed: byte[]) (first: int) : byte[] =
        use source = new MemoryStream(packed, first, packed.Length - first)
        use stream = new GZipStream(source, CompressionMode.Decompress)
        use whole = new MemoryStream()
        stream.CopyTo whole
        whole.ToArray()

    /// Whether the last four bytes are what they are of a whole file, the length of its last member modulo 2³².
    let private isWhole (packed: byte[]) (unpacked: byte[]) : bool =
        let ends (length: int) =
            packed.Length >= 18
            && BitConverter.ToUInt32(packed, packed.Length - 4) = uint32 length

        let begins (at: int) =
            packed[at] = 0x1Fuy && packed[at + 1] = 0x8Buy && packed[at + 2] = 8uy

        let isLast (at: int) =
            try
                ends (inflate packed at).Length
            with :? InvalidDataException ->
                false

        ends unpacked.Length
        || seq { packed.Length - 18 .. -1 .. 1 }
           |> Seq.exists (fun at -> begins at && isLast at)

    /// What gzipped bytes unpack to. InvalidDataException for bytes that are no gzip, or not all of one.
    let unpack (packed: byte[]) : byte[] =
        let unpacked = inflate packed 0

        if not (isWhole packed unpacked) then
            raise (InvalidDataException "it is cut short, or followed by something else")

        unpacked
