/// Digits for examples and benchmarks: MNIST's gzipped IDX files, or drawn ones in their place.
module Digits

open System
open System.IO
open System.IO.Compression
open TorchSharp

/// Images as bytes (rows, 784), and their labels (int64).
type Rows = torch.Tensor * torch.Tensor

/// A gzipped IDX file of bytes: its sizes, and what stands behind the header. InvalidDataException for another file.
let private idx (path: string) (dimensions: int) : int[] * byte[] =
    use file = File.OpenRead path
    use stream = new GZipStream(file, CompressionMode.Decompress)
    use memory = new MemoryStream()
    stream.CopyTo memory
    let bytes = memory.ToArray()
    let header = 4 + 4 * dimensions

    // 8 is IDX's mark of unsigned bytes
    if bytes.Length < header || bytes[0..3] <> [| 0uy; 0uy; 8uy; byte dimensions |] then
        raise (InvalidDataException $"{path} is no gzipped IDX file of bytes in {dimensions} dimensions")

    let sizes =
        [| for i in 1..dimensions -> Buffers.Binary.BinaryPrimitives.ReadInt32BigEndian(ReadOnlySpan(bytes, 4 * i, 4)) |]

    if
        bytes.LongLength - int64 header
        <> (sizes |> Array.fold (fun n s -> n * int64 s) 1L)
    then
        raise (
            InvalidDataException
                $"{path} has {bytes.Length} bytes; its header says {sizes} and {header} bytes of header"
        )

    sizes, bytes[header..]

/// All rows of a split, "train" or "t10k". FileNotFoundException, or InvalidDataException for other files.
let read (folder: string) (split: string) : Rows =
    let images = Path.Combine(folder, $"{split}-images-idx3-ubyte.gz")
    let labels = Path.Combine(folder, $"{split}-labels-idx1-ubyte.gz")

    for path in [ images; labels ] do
        if not (File.Exists path) then
            raise (FileNotFoundException $"{path} does not exist: a folder with MNIST's four files is expected")

    let sizes, x = idx images 3
    let _, y = idx labels 1

    if sizes[1..] <> [| 28; 28 |] || sizes[0] <> y.Length then
        raise (
            InvalidDataException $"{images} has {sizes[0]} images of {sizes[1]}x{sizes[2]}, {labels} {y.Length} labels"
        )

    torch.tensor(x).view (int64 y.Length, 784L), torch.tensor (y |> Array.map int64)

// top, upper left, upper right, middle, lower left, lower right, bottom: row, column, height, width
let private segments =
    [| 0, 0, 2, 12
       0, 0, 11, 2
       0, 10, 11, 2
       9, 0, 2, 12
       9, 0, 11, 2
       9, 10, 11, 2
       18, 0, 2, 12 |]

let private lit = [| 0x77; 0x24; 0x5D; 0x6D; 0x2E; 0x6B; 0x7B; 0x25; 0x7F; 0x6F |]

/// Digits of seven segments, moved, of unlike brightness, in noise, with segments that fail one time in 16.
let drawn (seed: int) (count: int) : Rows =
    let random = Random seed
    let bytes = Array.init (count * 784) (fun _ -> byte (random.Next 60))

    let labels =
        [| for image in 0 .. count - 1 ->
               let label = random.Next 10
               let top, left, bright = random.Next(2, 7), random.Next(5, 12), random.Next(90, 195)

               for s in 0..6 do
                   if (lit[label] >>> s) &&& 1 = 1 && random.Next 16 > 0 then
                       let row, column, height, width = segments[s]

                       for i in row .. row + height - 1 do
                           for j in column .. column + width - 1 do
                               let at = image * 784 + (top + i) * 28 + left + j
                               bytes[at] <- byte (min 255 (int bytes[at] % 60 + bright))

               int64 label |]

    torch.tensor(bytes).view (int64 count, 784L), torch.tensor labels

/// Some of the rows, by number: images as float32 from 0 to 1.
let take (numbers: int64 seq) (x: torch.Tensor, y: torch.Tensor) : Rows =
    use index = torch.tensor (Array.ofSeq numbers)
    x.index_select(0L, index).to_type torch.float32 / 255.0, y.index_select (0L, index)
