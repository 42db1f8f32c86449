namespace Sama.DataPruning

open System
open System.Buffers.Binary
open System.IO
open Sama.DataOptimization

/// IDX files as MNIST has them: images (magic 0x803) and labels (0x801), sizes as big-endian numbers of 32 bits.
module internal IdxFiles =

    let is (name: string) =
        name.Contains "-images-idx3-ubyte" || name.Contains "-images.idx3-ubyte"

    /// Magic, sizes and content. DataException naming the file.
    let private content (path: string) (magic: int) (sizes: int) (what: string) : int[] * byte[] =
        let bytes = DataReader.ReadBytes path

        let number i =
            BinaryPrimitives.ReadInt32BigEndian(ReadOnlySpan(bytes, 4 * i, 4))

        let head = 4 * (sizes + 1)

        if bytes.Length < head || number 0 <> magic then
            Bytes.bad path $"no IDX file of {what}: its first bytes are not 0x{magic:x8}"

        let found = Array.init sizes (fun i -> number (i + 1))
        let expected = found |> Array.fold (fun product size -> product * int64 size) 1L

        if
            Array.exists (fun size -> size <= 0) found
            || expected <> int64 (bytes.Length - head)
        then
            let told = String.Join(" x ", found)
            Bytes.bad path $"{bytes.Length - head} bytes of {what} where {told} are announced"

        found, bytes[head..]

    let private labelsOf (images: string) : string =
        let name = Path.GetFileName images

        let labels =
            Path.Combine(
                Path.GetDirectoryName images,
                name.Replace("images-idx3", "labels-idx1").Replace("images.idx3", "labels.idx1")
            )

        let other =
            if labels.EndsWith ".gz" then
                labels[.. labels.Length - 4]
            else
                labels + ".gz"

        if File.Exists labels then
            labels
        elif File.Exists other then
            other
        else
            Bytes.bad images $"its labels, {Path.GetFileName labels}, are not beside it"

    let private one (path: string) : ImageSet =
        let sizes, pixels = content path 0x803 3 "images"
        let labelFile = labelsOf path
        let counts, labels = content labelFile 0x801 1 "labels"

        if counts[0] <> sizes[0] then
            Bytes.bad labelFile $"{counts[0]} labels for {sizes[0]} images"

        { Name = path
          Classes = Array.init (int (Array.max labels) + 1) string
          Channels = 1
          Height = sizes[1]
          Width = sizes[2]
          Ids = Array.init sizes[0] (fun i -> $"{Path.GetFileName path}:{i}")
          Labels = Array.map int labels
          Pixels = pixels }

    /// Files as one set, whose classes are those of the file that has most.
    let read (folder: string) (paths: string[]) : ImageSet =
        let sets = paths |> Array.map one
        let classes = sets |> Array.map _.Classes |> Array.maxBy _.Length

        let whole =
            sets
            |> Array.map (fun set -> { set with Classes = classes })
            |> Array.reduce _.Append

        { whole with Name = folder }
