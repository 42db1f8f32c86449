/// The operations that the library and its models use, on the device against the CPU's float64: values, and
/// gradients where the result is differentiable.
module Sama.Tool.Operations

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tool.Outcome

type private Operation =
    {
        Name: string
        /// shapes of the inputs
        Shapes: int64[] list
        Apply: Tensor list -> Tensor
    }

let private v, m, square = [| 12L |], [| 4L; 3L |], [| 5L; 5L |]

let private unary name shape apply =
    { Name = name
      Shapes = [ shape ]
      Apply = fun inputs -> apply (List.head inputs) }

let private binary name shapes apply =
    { Name = name
      Shapes = shapes
      Apply = fun inputs -> apply (List.head inputs) (List.item 1 inputs) }

let private integers (like: Tensor) (values: int64[]) =
    torch.tensor(values, dtype = torch.int64).``to`` like.device

/// Away from 0, where roots and quotients are conditioned well.
let private positive (x: Tensor) = x * x + 0.5

let private positiveDefinite (x: Tensor) =
    x.mm (x.t ()) + torch.eye (x.shape[0], dtype = x.dtype, device = x.device)

let private elementwise =
    [ binary "a + b" [ v; v ] (fun a b -> a + b)
      binary "a − b" [ v; v ] (fun a b -> a - b)
      binary "a · b" [ v; v ] (fun a b -> a * b)
      binary "a / b" [ v; v ] (fun a b -> a / positive b)
      binary "broadcast" [ m; [| 3L |] ] (fun a b -> a * b + b)
      unary "scalar" v (fun a -> (a * 0.3 + 1.7) / 2.0)
      unary "−a" v (fun a -> -a)
      unary "abs" v _.abs()
      unary "sqrt" v (fun a -> (positive a).sqrt ())
      unary "pow" v (fun a -> (positive a).pow (scalar 1.5))
      unary "exp" v _.exp()
      unary "log" v (fun a -> (positive a).log ())
      unary "tanh" v (fun a -> torch.tanh a)
      unary "sigmoid" v (fun a -> torch.sigmoid a)
      unary "relu" v (fun a -> torch.nn.functional.relu a)
      unary "gelu" v (fun a -> torch.nn.functional.gelu a)
      unary "softplus" v (fun a -> torch.nn.functional.softplus a)
      unary "sign" v _.sign()
      unary "clamp" v _.clamp(scalar -0.5, scalar 0.5)
      unary "clamp_min" v _.clamp_min(scalar 0.1)
      unary "clamp_max" v _.clamp_max(scalar 0.1)
      binary "where" [ v; v ] (fun a b -> torch.where (a.gt (scalar 0.0), a, b))
      binary "a ≠ b" [ v; v ] (fun a b -> a.ne(b).to_type a.dtype)
      unary "isfinite" v (fun a -> a.isfinite().all().to_type a.dtype) ]

let private reductions =
    [ unary "sum" v _.sum()
      unary "sum in float64" v _.sum(torch.float64)
      unary "mean" m _.mean()
      unary "sum of rows" m _.sum(1L)
      unary "max |a|" v (fun a -> a.abs().max ())
      unary "norm" v _.norm()
      unary "argmax" m _.argmax(1L)
      unary "cumsum" v _.cumsum(0L)
      binary "dot" [ v; v ] (fun a b -> a.dot b) ]

let private shapes =
    [ unary "reshape" v (fun a -> a.reshape (3L, 4L))
      unary "split, view, cat" v (fun a ->
          torch.cat [| for part in a.split ([| 4L; 8L |], 0L) -> part.view(2L, -1L).t().reshape -1L |])
      unary "narrow" v _.narrow(0L, 2L, 5L)
      unary "unsqueeze, expand" v (fun a -> a.unsqueeze(1L).expand (12L, 3L))
      unary "index_select" m (fun a -> a.index_select (0L, integers a [| 2L; 0L; 2L |]))
      unary "gather" m (fun a -> a.gather (1L, (integers a [| 0L; 2L; 1L; 0L |]).unsqueeze 1L))
      unary "index_add" m (fun a -> torch.zeros_like(a).index_add (0L, integers a [| 1L; 1L; 0L; 3L |], a, scalar 1.0))
      binary "stack" [ v; v ] (fun a b -> torch.stack ([| a; b |], 1L)) ]

let private matrices =
    [ binary "mm" [ m; [| 3L; 5L |] ] (fun a b -> a.mm b)
      binary "mv" [ m; [| 3L |] ] (fun a b -> a.mv b)
      binary "bmm" [ [| 2L; 4L; 3L |]; [| 2L; 3L; 5L |] ] (fun a b -> a.bmm b)
      binary "linear" [ m; [| 5L; 3L |] ] (fun a b -> torch.nn.functional.linear (a, b)) ]

let private networks =
    [ unary "softmax" m (fun a -> torch.nn.functional.softmax (a, 1L))
      unary "log_softmax" m (fun a -> torch.nn.functional.log_softmax (a, 1L))
      unary "cross_entropy" m (fun a -> torch.nn.functional.cross_entropy (a, integers a [| 0L; 2L; 1L; 1L |]))
      unary "cross_entropy, each" m (fun a ->
          torch.nn.functional.cross_entropy (a, integers a [| 0L; 2L; 1L; 1L |], reduction = torch.nn.Reduction.None))
      unary "binary_cross_entropy" v (fun a ->
          torch.nn.functional.binary_cross_entropy_with_logits (a, torch.ones_like a * 0.3))
      unary "layer_norm" m (fun a -> torch.nn.functional.layer_norm (a, [| 3L |]))
      unary "attention" [| 2L; 2L; 4L; 8L |] (fun a -> torch.nn.functional.scaled_dot_product_attention (a, a, a)) ]

/// 16 channels out: with no multiple of 16, and in bfloat16 with any, libtorch 2.10's gradient by the input reads memory
/// never written, on CPUs with AVX-512 (docs/gpu.md).
let private convolution =
    binary "conv2d" [ [| 2L; 3L; 6L; 6L |]; [| 16L; 3L; 3L; 3L |] ] (fun a b -> torch.nn.functional.conv2d (a, b))

/// Solvers: float64 alone, as the library calls them.
let private solvers =
    [ binary "linalg.solve" [ square; [| 5L |] ] (fun a b -> torch.linalg.solve (positiveDefinite a, b))
      unary "linalg.eigvalsh" square (fun a -> torch.linalg.eigvalsh (positiveDefinite a))
      unary "linalg.cholesky" square (fun a -> torch.linalg.cholesky (positiveDefinite a)) ]

/// The operation's value and vjp of its first input on one device, from inputs that every type here holds exactly.
let private evaluate (operation: Operation) (device: torch.Device) (dtype: torch.ScalarType) : Tensor list =
    let draw seed shape =
        (normal seed torch.CPU torch.bfloat16 shape).``to`` (dtype, device)

    let inputs = operation.Shapes |> List.mapi (fun i shape -> draw (i + 1) shape)
    let apply (first: Tensor) = operation.Apply(first :: inputs.Tail)
    let value = apply inputs.Head

    if (apply (inputs.Head.detach().requires_grad_ true)).requires_grad then
        [ value
          Autodiff.vjp apply inputs.Head ((draw 7 value.shape).to_type value.dtype) ]
    else
        [ value ]

let private check (device: torch.Device) (dtype: torch.ScalarType) (limit: float) (operation: Operation) =
    let group = $"operations, {dtype}"

    attempt group operation.Name (fun () ->
        List.map2 difference (evaluate operation device dtype) (evaluate operation torch.CPU torch.float64)
        |> List.max
        |> within group operation.Name limit)

/// Against float64 on the CPU: float64 to 1e-12, float32 to 1e-5, bfloat16 to 5e-2 (its unit roundoff is 4e-3).
let all (device: torch.Device) : Outcome list =
    let common = elementwise @ reductions @ shapes @ matrices @ networks

    [ yield! convolution :: common @ solvers |> List.map (check device torch.float64 1e-12)
      yield! convolution :: common |> List.map (check device torch.float32 1e-5)
      yield! common |> List.map (check device torch.bfloat16 5e-2) ]
