namespace Sama.DataPruning

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open TorchSharp
open Sama
open Sama.DataOptimization

/// A small convolutional classifier of images: `lenet`, or `resnet` of three blocks. Pixels stay bytes until they are read;
/// each channel is brought to mean 0 and variance 1 over all images. ArgumentException for another model or images below
/// 8 x 8 pixels.
[<Sealed>]
type ImageClassifier
    (
        images: ImageSet,
        [<Optional; DefaultParameterValue("lenet")>] model: string,
        [<Optional; DefaultParameterValue(null: torch.Device)>] device: torch.Device
    ) =
    let device = if isNull device then torch.CPU else device

    let net =
        ImageNets.make model images.Channels images.Height images.Width images.Classes.Length

    let pixels =
        use _ = torch.NewDisposeScope()

        torch
            .tensor(images.Pixels, dtype = torch.uint8)
            .reshape(int64 images.Count, int64 images.Channels, int64 images.Height, int64 images.Width)
            .``to``(device)
            .DetachFromDisposeScope()

    /// Mean and spread of each channel, [1, channels, 1, 1].
    let means, spreads =
        let plane = images.Height * images.Width

        let moments =
            Array.init images.Channels (fun c ->
                let mutable sum, squares = 0.0, 0.0

                for i in 0 .. images.Count - 1 do
                    for at in i * images.Size + c * plane .. i * images.Size + (c + 1) * plane - 1 do
                        let value = float images.Pixels[at]
                        sum <- sum + value
                        squares <- squares + value * value

                let count = float images.Count * float plane
                let mean = sum / count
                mean, sqrt (max 1.0 (squares / count - mean * mean)))

        let hold (values: (float * float)[]) part =
            (torch.tensor (values |> Array.map (part >> float32), device = device))
                .view(1L, -1L, 1L, 1L)
                .DetachFromDisposeScope()

        use _ = torch.NewDisposeScope()
        hold moments fst, hold moments snd

    /// What `model` may be.
    static member Models: IReadOnlyList<string> = Array.ofList ImageNets.names

    interface IRowClassifier with
        member _.Classes = images.Classes.Length
        member _.Rows = images.Count
        member _.Rate = net.Rate

        member _.Start(seed: int64) : IReadOnlyList<struct (string * Tensor)> =
            use _ = torch.NewDisposeScope()

            [| for name, value in ImageNets.start net seed ->
                   struct (name, value.``to``(device).DetachFromDisposeScope()) |]

        member _.Read(rows: int[]) : Tensor[] =
            Rows.Require(rows, images.Count)
            use index = torch.tensor (Array.map int64 rows, device = device)
            use bytes = pixels.index_select (0L, index)
            use numbers = bytes.to_type torch.float32
            [| numbers.sub_(means).div_(spreads).alias () |]

        member _.LogProbabilities(theta: Params, inputs: Tensor[], _: bool) : Tensor =
            torch.nn.functional.log_softmax (
                torch.nn.functional.linear (net.Features theta inputs[0], theta["head.weight"], theta["head.bias"]),
                1L
            )

        member _.Dispose() =
            pixels.Dispose()
            means.Dispose()
            spreads.Dispose()

    interface ILinearHead with
        member _.Features(theta: Params, inputs: Tensor[]) : Tensor = net.Features theta inputs[0]
        member _.HeadWeight = "head.weight"
        member _.HeadBias = true
