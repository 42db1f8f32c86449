/// The space of networks: a cell of three nodes and three edges, each edge one of four operations, 64 networks.
module ArchitectureSearch.Space

open TorchSharp
open Sama

let operations = [| "none"; "skip"; "conv3x3"; "pool3x3" |]

/// From node to node; node 0 is the cell's input, node 2 its output.
let edges = [| 0, 1; 0, 2; 1, 2 |]

/// The operation of each edge.
type Network = int[]

let networks: Network[] =
    [| for a in 0..3 do
           for b in 0..3 do
               for c in 0..3 -> [| a; b; c |] |]

let name (network: Network) : string =
    network |> Array.map (fun op -> operations[op]) |> String.concat "|"

let private cells = 2

// libtorch 2.10's float32 convolutions on AVX-512 have right gradients for multiples of 16 alone (docs/gpu.md)
let private channels = 16L

/// Parameters by name, drawn by the seed: of the mixture of all operations, or of one network.
let parameters (seed: int) (network: Network option) : (string * Tensor) list =
    use generator = new torch.Generator(uint64 seed)

    let kernel (inputs: int64) =
        torch.randn ([| channels; inputs; 3L; 3L |], generator = generator)
        * sqrt (2.0 / float (9L * inputs))

    let has edge =
        network |> Option.forall (fun own -> own[edge] = 2)

    [ "stem", kernel 1L
      for cell in 1..cells do
          for edge in 0 .. edges.Length - 1 do
              if has edge then
                  $"{cell}.{edge}", kernel channels
      "head", torch.randn ([| 10L; channels |], generator = generator) * 0.1
      "bias", torch.zeros 10L ]

let private convolve (stride: int64) (kernel: Tensor) (x: Tensor) =
    let y =
        torch.nn.functional.conv2d (x, kernel, null, [| stride; stride |], [| 1L; 1L |])

    torch.nn.functional.group_norm (y, 4L)

/// What an operation makes of a node; `none` makes nothing.
let private apply (theta: Params) (cell: int) (edge: int) (operation: int) (x: Tensor) : Tensor =
    match operation with
    | 0 -> torch.zeros_like x
    | 1 -> x
    | 2 -> convolve 1L theta[$"{cell}.{edge}"] (x.relu ())
    | _ -> torch.nn.functional.avg_pool2d (x, 3L, 1L, 1L, count_include_pad = false)

/// Logits for images (rows, 784), pooled to 14x14, of the network whose edges are what `edge` makes of a node.
let private logits (theta: Params) (edge: int -> int -> Tensor -> Tensor) (x: Tensor) : Tensor =
    let small = torch.nn.functional.avg_pool2d (x.view (-1L, 1L, 28L, 28L), 2L)

    let cell input number =
        let first = edge number 0 input
        edge number 1 input + edge number 2 first

    let last = List.fold cell (convolve 2L theta["stem"] small) [ 1..cells ]
    torch.nn.functional.linear (last.relu().mean [| 2L; 3L |], theta["head"], theta["bias"])

/// Logits of one network.
let ofNetwork (network: Network) (theta: Params) (x: Tensor) : Tensor =
    logits theta (fun cell edge -> apply theta cell edge network[edge]) x

/// Logits of the mixture: on each edge all operations, weighted by the softmax of its row of alpha (3, 4).
let ofMixture (alpha: Tensor) (theta: Params) (x: Tensor) : Tensor =
    let weights = alpha.softmax 1L

    logits
        theta
        (fun cell edge x ->
            [ for operation in 1..3 -> apply theta cell edge operation x * weights[edge, operation] ]
            |> List.reduce (+))
        x
