namespace Sama.DataPruning

open System
open SkiaSharp
open Sama.DataOptimization

/// PNG and JPEG to bytes, and bytes to sheets of pictures.
module internal Pictures =

    let private bad (name: string) (reason: string) : 'a =
        raise (DataException(name, Nullable(), null, reason, null))

    /// Red, green and blue planes of a picture of any size, or of one size; its height and width. DataException, naming the
    /// file, for what is no picture, or is cut off.
    let private decoded (name: string) (bytes: byte[]) (size: int option) : struct (byte[] * int * int) =
        use data = SKData.CreateCopy bytes
        use codec = SKCodec.Create data

        if isNull codec then
            bad name "no image that can be read: PNG and JPEG are"

        let info =
            SKImageInfo(codec.Info.Width, codec.Info.Height, SKColorType.Rgba8888, SKAlphaType.Unpremul)

        use read = new SKBitmap(info)
        let result = codec.GetPixels(info, read.GetPixels())

        if result <> SKCodecResult.Success then
            bad name $"the image is damaged or cut off ({result})"

        use bitmap =
            match size with
            | Some side when side <> info.Width || side <> info.Height ->
                read.Resize(
                    SKImageInfo(side, side, SKColorType.Rgba8888, SKAlphaType.Unpremul),
                    SKSamplingOptions(SKFilterMode.Linear, SKMipmapMode.Linear)
                )
            | _ -> read.Copy()

        let pixels = bitmap.Bytes
        let plane = bitmap.Width * bitmap.Height

        struct (Array.init (3 * plane) (fun i -> pixels[4 * (i % plane) + i / plane]), bitmap.Height, bitmap.Width)

    /// The same, or a DataException where SkiaSharp's native library is not beside the program.
    let decode (name: string) (bytes: byte[]) (size: int option) : struct (byte[] * int * int) =
        try
            decoded name bytes size
        with
        | :? TypeInitializationException
        | :? DllNotFoundException ->
            bad
                name
                "PNG and JPEG need libSkiaSharp.so, which is not beside this program: copy it from the package SkiaSharp.NativeAssets.Linux.NoDependencies, or run ./build.sh sama"

    /// Images side by side, so many in a line, as one PNG; small ones are enlarged.
    let sheet (set: ImageSet) (numbers: int[]) (columns: int) : byte[] =
        let scale = max 1 (64 / max set.Height set.Width)
        let high, wide = scale * set.Height + 4, scale * set.Width + 4
        let lines = (numbers.Length + columns - 1) / columns
        let height, width = high * lines, wide * columns
        let plane = set.Height * set.Width
        let pixels = Array.create (3 * height * width) 255uy

        numbers
        |> Array.iteri (fun i number ->
            let image = set.Image(number).ToArray()
            let top, left = i / columns * high, i % columns * wide

            for y in 0 .. scale * set.Height - 1 do
                for x in 0 .. scale * set.Width - 1 do
                    let from = y / scale * set.Width + x / scale

                    for c in 0..2 do
                        let channel = if set.Channels = 1 then 0 else c
                        pixels[3 * ((top + y) * width + left + x) + c] <- image[channel * plane + from])

        Png.write height width pixels
