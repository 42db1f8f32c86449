/// Folders of made-up images.
module Sama.DataPruning.Tests.Files

open System
open System.Buffers.Binary
open System.IO
open System.IO.Compression
open Expecto
open SkiaSharp

let withFolder (action: string -> unit) : unit =
    let folder = Directory.CreateTempSubdirectory().FullName

    try
        action folder
    finally
        Directory.Delete(folder, true)

/// That a call is refused by an exception whose message has all the words.
let refused<'E when 'E :> exn> (parts: string list) (call: unit -> unit) : unit =
    Expect.throwsC call (fun e ->
        Expect.isTrue (e :? 'E) $"{e.GetType().Name}: {e.Message}"

        for part in parts do
            Expect.stringContains e.Message part "message")

let write (path: string) (bytes: byte[]) : unit =
    Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore

    if path.EndsWith ".gz" then
        use file = File.Create path
        use stream = new GZipStream(file, CompressionLevel.Fastest)
        stream.Write bytes
    else
        File.WriteAllBytes(path, bytes)

/// A CIFAR-10 file of records with these labels; the pixels are drawn, and given back.
let cifar (path: string) (seed: int) (labels: int[]) : byte[][] =
    let random = Random seed

    let images =
        labels
        |> Array.map (fun _ ->
            let pixels = Array.zeroCreate<byte> 3072
            random.NextBytes pixels
            pixels)

    write
        path
        (Array.map2 (fun (label: int) pixels -> Array.append [| byte label |] pixels) labels images
         |> Array.concat)

    images

let private big (numbers: int list) : byte[] =
    [| for number in numbers do
           let bytes = Array.zeroCreate<byte> 4
           BinaryPrimitives.WriteInt32BigEndian(Span bytes, number)
           yield! bytes |]

let idxImages (high: int) (wide: int) (images: byte[][]) : byte[] =
    Array.append (big [ 0x803; images.Length; high; wide ]) (Array.concat images)

let idxLabels (labels: int[]) : byte[] =
    Array.append (big [ 0x801; labels.Length ]) (Array.map byte labels)

/// Images of two classes, bars across and down, 12 x 12, the position drawn.
let bars (seed: int) (count: int) : int[] * byte[][] =
    let random = Random seed

    Array.init count (fun i ->
        let label = i % 2
        let at = random.Next(2, 10)

        label,
        Array.init 144 (fun p ->
            let place = if label = 0 then p / 12 else p % 12
            byte (random.Next 60 + (if abs (place - at) < 2 then 160 else 0))))
    |> Array.unzip

/// Such bars as MNIST's files.
let mnist (folder: string) (prefix: string) (seed: int) (count: int) : int[] * byte[][] =
    let labels, images = bars seed count
    write (Path.Combine(folder, $"{prefix}-images-idx3-ubyte.gz")) (idxImages 12 12 images)
    write (Path.Combine(folder, $"{prefix}-labels-idx1-ubyte.gz")) (idxLabels labels)
    labels, images

/// A picture, each pixel by a function of row and column, PNG or JPEG by the name.
let picture (path: string) (high: int) (wide: int) (colour: int -> int -> byte * byte * byte) : unit =
    use bitmap =
        new SKBitmap(SKImageInfo(wide, high, SKColorType.Rgba8888, SKAlphaType.Opaque))

    for y in 0 .. high - 1 do
        for x in 0 .. wide - 1 do
            let r, g, b = colour y x
            bitmap.SetPixel(x, y, SKColor(r, g, b))

    let kind =
        if path.EndsWith ".png" then
            SKEncodedImageFormat.Png
        else
            SKEncodedImageFormat.Jpeg

    use data = bitmap.Encode(kind, 95)
    write path (data.ToArray())
