/// Models of the measurements, as functions of Params, with re-weighting problems over them.
module Sama.Benchmarks.Models

open TorchSharp
open Sama
open Sama.Functional

/// A classifier: its parameters, a batch of its inputs, its logits.
[<NoComparison; NoEquality>]
type Model =
    {
        Name: string
        Parameters: unit -> (string * Tensor) list
        /// generator, rows ↦ inputs
        Inputs: torch.Generator -> int64 -> Tensor
        /// generator, inputs ↦ labels
        Labels: torch.Generator -> Tensor -> Tensor
        Logits: Params -> Tensor -> Tensor
    }

let classes = 10L

let private normal (generator: torch.Generator) scale (shape: int64[]) : Tensor =
    torch.randn (shape, generator = generator) * (scale: float)

let private seeded () = new torch.Generator(1UL)

let private anyLabels (generator: torch.Generator) (x: Tensor) : Tensor =
    torch.randint (classes, [| x.shape[0] |], dtype = torch.int64, generator = generator)

/// The same model with labels that can be learned: the residue class of most tokens, or the largest of the first
/// numbers; three in ten are random.
let learnable (model: Model) : Model =
    let labels generator (x: Tensor) =
        let flat = x.reshape (x.shape[0], -1L)

        let right =
            if flat.is_integral () then
                torch.nn.functional.one_hot(flat.remainder (Scalar.op_Implicit classes), classes).sum(1L).argmax 1L
            else
                flat.narrow(1L, 0L, classes).argmax 1L

        let wrong =
            torch.rand(x.shape[0], generator = generator).lt (Scalar.op_Implicit 0.3)

        torch.where (wrong, anyLabels generator x, right)

    { model with Labels = labels }

/// Post-norm encoder blocks, mean-pooled. Attention by the fused kernel, which has no second derivative on the CPU, or by
/// plain products.
let encoder (embeddings: bool) (fused: bool) (tokens: int64) (width: int64) (layers: int) (vocabulary: int64) : Model =
    let heads, inner = 4L, 4L * width

    let block i =
        [ "query", [| width; width |]
          "key", [| width; width |]
          "value", [| width; width |]
          "out", [| width; width |]
          "up", [| inner; width |]
          "down", [| width; inner |] ]
        |> List.map (fun (name, shape) -> $"{i}.{name}", shape)

    let parameters () =
        use generator = seeded ()

        let weight (name, shape: int64[]) =
            name, normal generator (1.0 / sqrt (float shape[1])) shape

        [ if embeddings then
              "words", normal generator 0.5 [| vocabulary; width |]
          for i in 0 .. layers - 1 do
              for named in block i do
                  weight named

              for norm in [ "norm1"; "norm2" ] do
                  $"{i}.{norm}.weight", torch.ones width
                  $"{i}.{norm}.bias", torch.zeros width

              $"{i}.up.bias", torch.zeros inner
              $"{i}.down.bias", torch.zeros width
          weight ("head", [| classes; width |])
          "head.bias", torch.zeros classes ]

    let inputs generator (rows: int64) =
        if embeddings then
            torch.randint (vocabulary, [| rows; tokens |], dtype = torch.int64, generator = generator)
        else
            torch.randn ([| rows; tokens; width |], generator = generator)

    let logits (p: Params) (x: Tensor) =
        let rows = x.shape[0]

        let attend (q: Tensor) (k: Tensor) (v: Tensor) =
            if fused then
                torch.nn.functional.scaled_dot_product_attention (q, k, v)
            else
                let flat (t: Tensor) =
                    t.reshape (rows * heads, tokens, width / heads)

                let scores =
                    (flat q).bmm ((flat k).transpose (1L, 2L))
                    / Scalar.op_Implicit (sqrt (float (width / heads)))

                (torch.nn.functional.softmax(scores, 2L).bmm (flat v)).reshape (rows, heads, tokens, width / heads)

        let start =
            if embeddings then
                p["words"].index_select(0L, x.reshape -1L).view (rows, tokens, width)
            else
                x.to_type p["head"].dtype

        let layer (h: Tensor) i =
            let linear name (x: Tensor) =
                torch.nn.functional.linear (x, p[$"{i}.{name}"])

            let split (t: Tensor) =
                t.view(rows, tokens, heads, width / heads).transpose (1L, 2L)

            let norm name (t: Tensor) =
                torch.nn.functional.layer_norm (t, [| width |], p[$"{i}.{name}.weight"], p[$"{i}.{name}.bias"])

            let attended =
                attend (split (linear "query" h)) (split (linear "key" h)) (split (linear "value" h))

            let mixed = attended.transpose(1L, 2L).reshape (rows, tokens, width)
            let h = norm "norm1" (linear "out" mixed + h)

            let raised =
                torch.nn.functional.gelu (torch.nn.functional.linear (h, p[$"{i}.up"], p[$"{i}.up.bias"]))

            norm "norm2" (torch.nn.functional.linear (raised, p[$"{i}.down"], p[$"{i}.down.bias"]) + h)

        let last = List.fold layer start [ 0 .. layers - 1 ]
        torch.nn.functional.linear (last.mean [| 1L |], p["head"], p["head.bias"])

    { Name = "encoder"
      Parameters = parameters
      Inputs = inputs
      Labels = anyLabels
      Logits = logits }

/// 5.2 M parameters: 4 layers of 256, 8,000 words of 64 tokens.
let encoder5M fused tokens = encoder true fused tokens 256L 4 8000L

/// ReLU layers of one width.
let mlp (name: string) (width: int64) (hidden: int) : Model =
    let parameters () =
        use generator = seeded ()

        [ for i in 0..hidden do
              let rows = if i = hidden then classes else width
              $"{i}.weight", normal generator (sqrt (2.0 / float width)) [| rows; width |]
              $"{i}.bias", torch.zeros rows ]

    let logits (p: Params) (x: Tensor) =
        let layer (h: Tensor) i =
            let out = torch.nn.functional.linear (h, p[$"{i}.weight"], p[$"{i}.bias"])
            if i = hidden then out else out.relu ()

        List.fold layer (x.to_type p["0.weight"].dtype) [ 0..hidden ]

    { Name = name
      Parameters = parameters
      Inputs = fun generator rows -> torch.randn ([| rows; width |], generator = generator)
      Labels = anyLabels
      Logits = logits }

/// A residual network on 32 x 32 images: four stages of two blocks, from 16 channels up, group norms.
let cnn: Model =
    let stages = [ 16L; 32L; 64L; 128L ]

    let blocks =
        [ for stage, channels in List.indexed stages do
              for block in 0..1 -> stage, block, (if stage > 0 && block = 0 then channels / 2L else channels), channels ]

    let parameters () =
        use generator = seeded ()

        let kernel name out inputs size =
            name, normal generator (sqrt (2.0 / float (inputs * size * size))) [| out; inputs; size; size |]

        [ kernel "stem" 16L 3L 3L
          for stage, block, inputs, channels in blocks do
              kernel $"{stage}.{block}.a" channels inputs 3L
              kernel $"{stage}.{block}.b" channels channels 3L

              if inputs <> channels then
                  kernel $"{stage}.{block}.skip" channels inputs 1L

              for norm in [ "norm1"; "norm2" ] do
                  $"{stage}.{block}.{norm}.weight", torch.ones channels
                  $"{stage}.{block}.{norm}.bias", torch.zeros channels
          "head", normal generator 0.1 [| classes; 128L |]
          "head.bias", torch.zeros classes ]

    let logits (p: Params) (x: Tensor) =
        let convolve name (stride: int64) (h: Tensor) =
            let padding = p[name].shape[2] / 2L
            torch.nn.functional.conv2d (h, p[name], null, [| stride; stride |], [| padding; padding |])

        let norm name (h: Tensor) =
            torch.nn.functional.group_norm (h, 8L, p[$"{name}.weight"], p[$"{name}.bias"])

        let block (h: Tensor) (stage, block, inputs, channels) =
            let stride = if inputs <> channels then 2L else 1L
            let at name = $"{stage}.{block}.{name}"
            let inner = h |> convolve (at "a") stride |> norm (at "norm1")
            let inner = inner.relu () |> convolve (at "b") 1L |> norm (at "norm2")

            let skip =
                if inputs <> channels then
                    convolve (at "skip") stride h
                else
                    h

            (inner + skip).relu ()

        let last = List.fold block (convolve "stem" 1L (x.to_type p["stem"].dtype)) blocks
        torch.nn.functional.linear (last.mean [| 2L; 3L |], p["head"], p["head.bias"])

    { Name = "cnn"
      Parameters = parameters
      Inputs = fun generator rows -> torch.randn ([| rows; 3L; 32L; 32L |], generator = generator)
      Labels = anyLabels
      Logits = logits }

let private moved (device: torch.Device) (tensor: Tensor) = tensor.``to`` device

/// Inputs and labels of a draw.
let batch (device: torch.Device) (rows: int64) (model: Model) (draw: Draw) : Tensor * Tensor =
    use generator = new torch.Generator(uint64 draw.RandomSeed)
    let x = model.Inputs generator rows
    moved device x, moved device (model.Labels generator x)

/// Cross entropies: [rows].
let losses (model: Model) (theta: Params) (x: Tensor, y: Tensor) : Tensor =
    torch.nn.functional.cross_entropy (model.Logits theta x, y, reduction = torch.nn.Reduction.None)

/// Weights of losses, by a net on the losses themselves, which are not differentiated: [rows].
let weights (lambda: Params) (stopped: Tensor) : Tensor =
    let hidden =
        torch.tanh (torch.nn.functional.linear (stopped.unsqueeze 1L, lambda["hidden"], lambda["hiddenBias"]))

    (torch.sigmoid (torch.nn.functional.linear (hidden, lambda["out"]))).squeeze 1L

/// Losses re-weighted by λ, which enters after the model. A base step sees `rows` rows, in micro-batches if there are any.
let problem (device: torch.Device) (options: BilevelOptions) rule method (rows: int64) (model: Model) : BilevelProblem =
    let lambda =
        use generator = seeded ()

        [ "hidden", normal generator 1.0 [| 32L; 1L |]
          "hiddenBias", torch.zeros 32L
          "out", normal generator 0.2 [| 1L; 32L |] ]

    let named tensors =
        [ for name, tensor in tensors -> name, moved device tensor ]

    let baseLoss (pass: Pass) theta lambda rows =
        let losses = losses model theta rows
        (weights lambda (pass.Stop("losses", losses)) * losses).mean ()

    let micro = rows / int64 options.Accumulate

    Problem.create
        options
        method
        [ Level.create model.Name (named (model.Parameters())) rule (batch device micro model) baseLoss
          Level.create "weights" (named lambda) (adam 1e-3) (batch device rows model) (fun _ theta _ rows ->
              (losses model theta rows).mean ()) ]
