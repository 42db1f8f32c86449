/// The problem of the matrix, and the ways in which it is given: eight base parameters, three meta parameters, one
/// smooth loss written once for levels and oracle.
module Sama.Benchmarks.Matrix.Subject

open System
open TorchSharp
open Sama
open Sama.Functional

/// One way of giving a problem.
[<NoComparison>]
type Way =
    {
        Name: string
        Type: torch.ScalarType
        /// passes in bfloat16
        Narrow: bool
        /// K
        Unroll: int
        Accumulate: int
        /// the base level is a module
        Module: bool
        /// the weights of examples see their losses, stopped
        Stop: bool
        /// SAMA's difference from one side, or around θₜ: options of its methods alone
        OneSided: bool
        After: bool
        /// how products are formed: an option of the methods that form them
        Products: ProductForm
        /// every base step is taken by a run of its own, from the last one's snapshot
        Resumed: bool
    }

/// What is default: float64, functional, K = 1, one batch, no stop-feature, central differences, straight.
let standard: Way =
    { Name = "float64, functional, K = 1"
      Type = torch.float64
      Narrow = false
      Unroll = 1
      Accumulate = 1
      Module = false
      Stop = false
      OneSided = false
      After = false
      Products = ProductForm.Default
      Resumed = false }

/// Each changes one thing; stop-features and resuming need a window to be seen in.
let ways: Way list =
    [ standard
      { standard with
          Name = "float32"
          Type = torch.float32 }
      { standard with
          Name = "bfloat16 passes, K = 3"
          Type = torch.float32
          Narrow = true
          Unroll = 3 }
      { standard with
          Name = "module"
          Module = true }
      { standard with
          Name = "K = 3"
          Unroll = 3 }
      { standard with
          Name = "two micro-batches"
          Accumulate = 2 }
      { standard with
          Name = "resumed inside the window, K = 3"
          Unroll = 3
          Resumed = true }
      { standard with
          Name = "stop-feature, K = 3"
          Unroll = 3
          Stop = true }
      { standard with
          Name = "one-sided"
          OneSided = true }
      { standard with
          Name = "centred behind the step"
          After = true }
      { standard with
          Name = "module, exact products"
          Module = true
          Products = ProductForm.Exact }
      { standard with
          Name = "products by differences"
          Products = ProductForm.Differences }
      { standard with
          Name = "products by differences, float32"
          Type = torch.float32
          Products = ProductForm.Differences }
      { standard with
          Name = "products by differences, bfloat16 passes, K = 3"
          Type = torch.float32
          Narrow = true
          Unroll = 3
          Products = ProductForm.Differences }
      { standard with
          Name = "products by differences, module, two micro-batches, K = 3"
          Module = true
          Unroll = 3
          Accumulate = 2
          Products = ProductForm.Differences }
      { standard with
          Name = "products by differences, stop-feature, two micro-batches, K = 3"
          Unroll = 3
          Accumulate = 2
          Stop = true
          Products = ProductForm.Differences } ]

/// Products of the way are differences, where a method has the choice.
let byDifferences (way: Way) : bool =
    way.Products = ProductForm.Differences
    || (way.Products = ProductForm.Default && way.Module)

/// Base steps behind which the hypergradient is taken: a multiple of every K.
let warmUp = 6

let seed = 7L

let private normals (seed: int) (count: int) =
    let rng = Random seed

    [| for _ in 1..count ->
           sqrt (-2.0 * log (1.0 - rng.NextDouble()))
           * cos (2.0 * Math.PI * rng.NextDouble()) |]

let private inputs, targets, features =
    normals 1 (16 * 3), normals 2 (16 * 2), normals 3 16

let private metaInputs, metaTargets = normals 4 (5 * 3), normals 5 (5 * 2)

let private matrix (values: float[]) (columns: int64) =
    torch.tensor(values, dtype = torch.float64).view (-1L, columns)

/// Rows of the base data: inputs, targets, a feature each.
[<NoComparison; NoEquality>]
type Batch = { X: Tensor; Y: Tensor; C: Tensor }

let batch (draw: Draw) : Batch =
    let rng = Random(int (draw.RandomSeed % 2147483647L))
    let rows = torch.tensor [| for _ in 1..6 -> int64 (rng.Next 16) |]

    let pick (values: float[]) columns =
        (matrix values columns).index_select (0L, rows)

    { X = pick inputs 3L
      Y = pick targets 2L
      C = (pick features 1L).squeeze 1L }

/// Start values, "weight" then "bias".
let startOf (dtype: torch.ScalarType) : (string * Tensor) list =
    [ "weight", ((matrix (normals 6 6) 3L) * 0.5).to_type dtype
      "bias", ((matrix (normals 8 2) 2L).reshape -1L * 0.3).to_type dtype ]

let lambdaOf (dtype: torch.ScalarType) : (string * Tensor) list =
    let vector (values: float[]) =
        ((matrix values 1L).reshape -1L).to_type dtype

    [ "x", vector [| 0.3; -0.8 |]; "r", vector [| -0.7 |] ]

/// The base parameters and what predicts with them.
[<NoComparison; NoEquality>]
type Model =
    { Weight: Tensor
      Bias: Tensor
      Linear: Tensor -> Tensor }

let modelOf (weight: Tensor) (bias: Tensor) : Model =
    { Weight = weight
      Bias = bias
      Linear = fun x -> x.mm (weight.t ()) + bias }

let private losses (model: Model) (x: Tensor) (y: Tensor) : Tensor =
    let narrow (t: Tensor) = t.to_type model.Weight.dtype
    let miss = (model.Linear(narrow x)).tanh () - narrow y
    (miss * miss).sum 1L * 0.5

/// mean σ(x₀ + x₁f) ℓ + ½eʳ‖θ‖², f the loss itself through `stop`, or the row's own feature.
let baseLoss (model: Model) (x: Tensor) (r: Tensor) (stop: (Tensor -> Tensor) option) (batch: Batch) : Tensor =
    let l = losses model batch.X batch.Y

    let feature =
        match stop with
        | Some stop -> stop l
        | None -> batch.C.to_type l.dtype

    let weight = (feature * x.select (0L, 1L) + x.select (0L, 0L)).sigmoid ()
    let square (t: Tensor) = (t * t).sum ()

    (weight * l).mean ()
    + (square model.Weight + square model.Bias) * r.exp().sum () * 0.5

/// mean ℓ at other rows, and a term of λ alone.
let metaLoss (model: Model) (x: Tensor) (r: Tensor) : Tensor =
    (losses model (matrix metaInputs 3L) (matrix metaTargets 2L)).mean ()
    + (x * x).sum () * 0.1
    + r.sum () * 0.05

let private functional (way: Way) meta rule : Level list =
    let model (theta: Params) = modelOf theta["weight"] theta["bias"]

    let stop (pass: Pass) =
        if way.Stop then
            Some(fun l -> pass.Stop("losses", l))
        else
            None

    [ Level.create "base" (startOf way.Type) rule batch (fun pass theta lambda batch ->
          baseLoss (model theta) lambda["x"] lambda["r"] (stop pass) batch)
      Level.create "meta" (lambdaOf way.Type) meta ignore (fun _ theta lambda () ->
          metaLoss (model theta) lambda["x"] lambda["r"]) ]

let private overModule (way: Way) meta rule : Level list =
    let net = torch.nn.Linear(3L, 2L, dtype = way.Type)

    (use _ = torch.no_grad ()

     for name, start in startOf way.Type do
         net.get_parameter(name).copy_ start |> ignore)

    let model () =
        { Weight = net.weight
          Bias = net.bias
          Linear = net.call }

    [ Level.ofModuleGeneral "base" net rule batch (fun _ levels batch ->
          let lambda = levels["meta"]
          baseLoss (model ()) lambda["x"] lambda["r"] None batch)
      Level.create "meta" (lambdaOf way.Type) meta ignore (fun _ _ lambda () ->
          metaLoss (model ()) lambda["x"] lambda["r"]) ]

/// The problem given that way, its meta level under a rule of its own.
let problemUnder (meta: UpdateRule) (way: Way) (rule: UpdateRule) (method: HypergradientMethod) : BilevelProblem =
    Problem.create
        { BilevelOptions.Default with
            Unroll = way.Unroll
            Accumulate = way.Accumulate
            Precision = if way.Narrow then Precision.BFloat16 else Precision.Own }
        method
        ((if way.Module then overModule else functional) way meta rule)

/// The problem given that way; its meta step is the hypergradient itself.
let problem (way: Way) (rule: UpdateRule) (method: HypergradientMethod) : BilevelProblem =
    problemUnder (sgd 1.0) way rule method

/// Its state behind the first base steps, λ where it started.
let start (way: Way) (rule: UpdateRule) : RunState =
    let problem = problem way rule Hypergradient.samaNa
    use first = Bilevel.start seed problem
    fst (Bilevel.solve problem 0.0 warmUp first)
