namespace Sama.DataPruning

open System
open System.Runtime.InteropServices
open SkiaSharp
open Sama.DataOptimization

/// PNG and JPEG to bytes, and bytes to PNG.
module internal Pictures =

    let private bad (name: string) (reason: string) : 'a =
        raise (DataException(name, Nullable(), null, reason, null))

    /// Red, green and blue planes of a picture of any size, or of one size; its height and width. DataException, naming the
    /// file, for what is no picture, or is cut off.
    let decode (name: string) (bytes: byte[]) (size: int option) : struct (byte[] * int * int) =
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

    let private drawn (set: ImageSet) (number: int) : SKBitmap =
        let plane = set.Height * set.Width
        let first = number * set.Size
        let channel c = if set.Channels = 1 then 0 else c

        let pixels =
            Array.init (4 * plane) (fun i ->
                if i % 4 = 3 then
                    255uy
                else
                    set.Pixels[first + channel (i % 4) * plane + i / 4])

        let bitmap =
            new SKBitmap(SKImageInfo(set.Width, set.Height, SKColorType.Rgba8888, SKAlphaType.Opaque))

        Marshal.Copy(pixels, 0, bitmap.GetPixels(), pixels.Length)
        bitmap

    /// Images side by side, so many in a line, as one PNG; small ones are enlarged.
    let sheet (set: ImageSet) (numbers: int[]) (columns: int) : byte[] =
        let scale = max 1 (64 / max set.Height set.Width)
        let wide, high = scale * set.Width + 4, scale * set.Height + 4
        let lines = (numbers.Length + columns - 1) / columns

        use canvas =
            new SKBitmap(SKImageInfo(wide * columns, high * max 1 lines, SKColorType.Rgba8888, SKAlphaType.Opaque))

        use on = new SKCanvas(canvas)
        on.Clear SKColors.White

        numbers
        |> Array.iteri (fun i number ->
            use bitmap = drawn set number
            use image = SKImage.FromBitmap bitmap
            let x, y = float32 (i % columns * wide), float32 (i / columns * high)

            on.DrawImage(
                image,
                SKRect(x, y, x + float32 (wide - 4), y + float32 (high - 4)),
                SKSamplingOptions SKFilterMode.Nearest
            ))

        use encoded = canvas.Encode(SKEncodedImageFormat.Png, 100)
        encoded.ToArray()
