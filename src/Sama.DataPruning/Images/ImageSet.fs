namespace Sama.DataPruning

open System
open System.Collections.Generic

/// Labelled images of one size.
[<NoComparison; NoEquality>]
type ImageSet =
    {
        /// the file or folder
        Name: string
        /// names of the classes, by number
        Classes: string[]
        /// 1 for grey, 3 for red, green and blue
        Channels: int
        /// rows of pixels
        Height: int
        /// pixels of a row
        Width: int
        /// where each image is: its file, and its number in it where a file holds several
        Ids: string[]
        /// each image's class
        Labels: int[]
        /// bytes by image, channel, row and column
        Pixels: byte[]
    }

    /// How many images there are.
    member set.Count = set.Labels.Length

    /// Bytes of one image.
    member set.Size = set.Channels * set.Height * set.Width

    /// The bytes of one image, by channel, row and column.
    member set.Image(number: int) : ReadOnlySpan<byte> =
        ReadOnlySpan(set.Pixels, number * set.Size, set.Size)

    /// Images by number, in the order asked for. ArgumentException for a number that is not there.
    member set.At(numbers: IReadOnlyList<int>) : ImageSet =
        ArgumentNullException.ThrowIfNull(numbers, nameof numbers)
        let pixels = Array.zeroCreate<byte> (numbers.Count * set.Size)

        for i in 0 .. numbers.Count - 1 do
            if numbers[i] < 0 || numbers[i] >= set.Count then
                invalidArg (nameof numbers) $"image {numbers[i]} is not one of the {set.Count} images"

            Buffer.BlockCopy(set.Pixels, numbers[i] * set.Size, pixels, i * set.Size, set.Size)

        { set with
            Ids = [| for number in numbers -> set.Ids[number] |]
            Labels = [| for number in numbers -> set.Labels[number] |]
            Pixels = pixels }

    /// Two sets as one, this one's images first. ArgumentException for another size or other classes.
    member set.Append(other: ImageSet) : ImageSet =
        let shape (set: ImageSet) =
            $"{set.Channels} x {set.Height} x {set.Width}"

        if shape set <> shape other then
            invalidArg (nameof other) $"{other.Name} has images of {shape other}, {set.Name} of {shape set}"

        if set.Classes <> other.Classes then
            let names (set: ImageSet) = String.Join(", ", set.Classes)
            invalidArg (nameof other) $"{other.Name} has the classes {names other}, {set.Name} {names set}"

        { set with
            Ids = Array.append set.Ids other.Ids
            Labels = Array.append set.Labels other.Labels
            Pixels = Array.append set.Pixels other.Pixels }
