namespace Sama.DataPruning

open System
open TorchSharp
open Sama

/// A convolutional net as functions of its parameters; the last layer, `head.weight` and `head.bias`, is linear.
[<NoComparison; NoEquality>]
type internal ImageNet =
    {
        Rate: float
        /// shapes of the parameters
        Shapes: (string * int64[]) list
        /// the last layer's inputs
        Features: Params -> Tensor -> Tensor
    }

module internal ImageNets =

    let private relu (x: Tensor) = torch.nn.functional.relu x
    let private halved (x: Tensor) = torch.nn.functional.max_pool2d (x, 2L)

    let private convolved (theta: Params) (name: string) stride (padding: int64) (x: Tensor) : Tensor =
        torch.nn.functional.conv2d (
            x,
            theta[name + ".weight"],
            null,
            strides = [| stride; stride |],
            padding = [| padding; padding |]
        )

    let private biased (theta: Params) (name: string) (x: Tensor) : Tensor =
        x + theta[name + ".bias"].view (1L, -1L, 1L, 1L)

    let private head (width: int64) (classes: int) =
        [ "head.weight", [| int64 classes; width |]; "head.bias", [| int64 classes |] ]

    /// LeNet-5 with rectifiers and maxima (LeCun et al., 1998); its convolutions are padded.
    let lenet (channels: int) (height: int) (width: int) (classes: int) : ImageNet =
        let flat = 16L * int64 (height / 4) * int64 (width / 4)

        { Rate = 1e-3
          Shapes =
            [ "conv1.weight", [| 6L; int64 channels; 5L; 5L |]
              "conv1.bias", [| 6L |]
              "conv2.weight", [| 16L; 6L; 5L; 5L |]
              "conv2.bias", [| 16L |]
              "fc1.weight", [| 120L; flat |]
              "fc1.bias", [| 120L |]
              "fc2.weight", [| 84L; 120L |]
              "fc2.bias", [| 84L |] ]
            @ head 84L classes
          Features =
            fun theta x ->
                let convolution name x =
                    x |> convolved theta name 1L 2L |> biased theta name |> relu |> halved

                let dense (name: string) (x: Tensor) =
                    torch.nn.functional.linear (x, theta[name + ".weight"], theta[name + ".bias"])
                    |> relu

                (x |> convolution "conv1" |> convolution "conv2").reshape (x.shape[0], flat)
                |> dense "fc1"
                |> dense "fc2" }

    /// A residual net of three blocks (He et al., 2016) over 12, 24 and 48 channels, with group normalisation, which has no
    /// state, in place of batch normalisation.
    let resnet (channels: int) (_: int) (_: int) (classes: int) : ImageNet =
        let widths = [ 12L; 24L; 48L ]

        let normed (name: string) width =
            [ name + ".scale", [| width |]; name + ".shift", [| width |] ]

        let block i (before, width) =
            [ $"block{i}.conv1.weight", [| width; before; 3L; 3L |]
              yield! normed $"block{i}.norm1" width
              $"block{i}.conv2.weight", [| width; width; 3L; 3L |]
              yield! normed $"block{i}.norm2" width
              if before <> width then
                  $"block{i}.short.weight", [| width; before; 1L; 1L |] ]

        let pairs = List.pairwise (widths.Head :: widths)

        let normalise (theta: Params) (name: string) (x: Tensor) =
            torch.nn.functional.group_norm (x, 4L, theta[name + ".scale"], theta[name + ".shift"])

        let run (theta: Params) (x: Tensor) i (before, width) =
            let name = $"block{i}"
            let stride = if before = width then 1L else 2L

            let inner =
                x
                |> convolved theta $"{name}.conv1" stride 1L
                |> normalise theta $"{name}.norm1"
                |> relu
                |> convolved theta $"{name}.conv2" 1L 1L
                |> normalise theta $"{name}.norm2"

            let short =
                if before = width then
                    x
                else
                    convolved theta $"{name}.short" stride 0L x

            relu (inner + short)

        { Rate = 3e-3
          Shapes =
            [ "stem.weight", [| widths.Head; int64 channels; 3L; 3L |]
              yield! normed "stem.norm" widths.Head
              yield! pairs |> List.mapi block |> List.concat ]
            @ head (List.last widths) classes
          Features =
            fun theta x ->
                let stem = x |> convolved theta "stem" 1L 1L |> normalise theta "stem.norm" |> relu

                let last =
                    pairs |> List.indexed |> List.fold (fun x (i, pair) -> run theta x i pair) stem

                last.mean [| 2L; 3L |] }

    let names = [ "lenet"; "resnet" ]

    /// ArgumentException for another name, or pictures smaller than 8 x 8.
    let make (name: string) (channels: int) (height: int) (width: int) (classes: int) : ImageNet =
        if height < 8 || width < 8 then
            invalidArg "images" $"images of {height} x {width} pixels: at least 8 x 8 are needed"

        match name with
        | "lenet" -> lenet channels height width classes
        | "resnet" -> resnet channels height width classes
        | other ->
            let known = String.Join(", ", names)
            invalidArg "model" $"'{other}' is no model of images; there are: {known}"

    /// Normal weights of variance 2 / inputs (He et al., 2015), of the head 1 / inputs; scales 1, the rest 0.
    let start (net: ImageNet) (seed: int64) : (string * Tensor) list =
        use generator = new torch.Generator(uint64 seed)

        [ for name, shape in net.Shapes ->
              name,
              (if name.EndsWith ".weight" then
                   let inputs = shape[1..] |> Array.fold (*) 1L
                   let gain = if name.StartsWith "head" then 1.0 else 2.0
                   torch.randn (shape, generator = generator) * sqrt (gain / float inputs)
               elif name.EndsWith ".scale" then
                   torch.ones shape
               else
                   torch.zeros shape) ]
