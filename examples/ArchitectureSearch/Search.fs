/// Training one network alone, and searching among all of them.
module ArchitectureSearch.Search

open System
open System.Threading
open TorchSharp
open Sama
open Sama.Functional

type Data =
    {
        /// where it is from and what is done with it: rows of other settings are not mixed
        Name: string
        Train: Tensor * Tensor
        Valid: Tensor * Tensor
        /// rows that nothing is chosen on
        Test: Tensor * Tensor
        Steps: int
    }

/// One training alone (`Method` is "alone") or one search, with the network it picked.
type Row =
    {
        Data: string
        Method: string
        Seed: int
        Network: string
        /// the logits of all operations, edge by edge; empty for a training alone
        Alpha: float[]
        /// accuracy of a training alone; 0 of a search
        Valid: float
        Test: float
        /// seconds of processor time
        Seconds: float
    }

let alone = "alone"
let private batch = 50

/// The base rule: weights of the network are trained by Adam.
let private rate = 1e-2

/// Where a learned decay starts.
let private startDecay = 0.1

/// First-order DARTS: the weights' response is left out, the direct gradient ∂L_valid/∂α alone moves α.
let private direct: HypergradientMethod =
    Hypergradient.create "direct" [] (fun at _ -> torch.zeros_like at.Lambda, Report.empty "direct")

let private byDifferences = Hypergradient.withProducts ProductForm.Differences

/// Ways to search by name: the method, and whether a decay of the weights is learned beside α.
let methods: (string * (HypergradientMethod * bool)) list =
    [ "SAMA", (Hypergradient.sama, false)
      "SAMA-NA", (Hypergradient.samaNa, false)
      "T1–T2 by differences (second-order DARTS)", (byDifferences (Hypergradient.truncated 1), false)
      "first-order DARTS", (direct, false)
      "SAMA, learned decay", (Hypergradient.sama, true)
      "CG(5) by differences", (byDifferences (Hypergradient.conjugateGradient 5), false) ]

let private loss (logits: Tensor) (labels: Tensor) =
    torch.nn.functional.cross_entropy (logits, labels)

let private batches (x: Tensor, y: Tensor) = Batches.shuffled (Rows.pair x y) batch

/// The problem run to its end, and the processor time that took. OperationCanceledException once the token is cancelled.
let private run (token: CancellationToken) (watch: float -> unit) steps seed (problem: BilevelProblem) =
    let start = Environment.CpuUsage.TotalTime
    let run = new BilevelRun(problem, int64 seed)

    try
        for step in 1..steps do
            token.ThrowIfCancellationRequested()
            run.Step() |> ignore
            watch (float step / float steps)

        run, (Environment.CpuUsage.TotalTime - start).TotalSeconds
    with _ ->
        (run :> IDisposable).Dispose()
        reraise ()

let private accuracy (logits: Tensor -> Tensor) (x: Tensor, y: Tensor) : float =
    use _ = torch.no_grad ()
    use _ = torch.NewDisposeScope()
    ((logits x).argmax(1L).eq y).to_type(torch.float64).mean().item<float> ()

/// One network trained alone on the training rows.
let trainAlone token watch (data: Data) (seed: int) (network: Space.Network) : Row =
    use _ = torch.NewDisposeScope()
    let logits = Space.ofNetwork network

    let run, seconds =
        Problem.create
            BilevelOptions.Default
            Hypergradient.sama
            [ Level.create
                  "weights"
                  (Space.parameters seed (Some network))
                  (adam rate)
                  (batches data.Train)
                  (fun _ theta _ (x, y) -> loss (logits theta x) y) ]
        |> run token watch data.Steps seed

    use run = run

    { Data = data.Name
      Method = alone
      Seed = seed
      Network = Space.name network
      Alpha = [||]
      Valid = accuracy (logits run.Theta) data.Valid
      Test = accuracy (logits run.Theta) data.Test
      Seconds = seconds }

/// The strongest operation of each edge.
let pick (alpha: float[]) : Space.Network =
    [| for row in Array.chunkBySize Space.operations.Length alpha -> Array.findIndex ((=) (Array.max row)) row |]

/// The softmax of each edge's logits.
let shares (alpha: float[]) : float[][] =
    [| for row in Array.chunkBySize Space.operations.Length alpha ->
           let e = row |> Array.map exp
           e |> Array.map (fun x -> x / Array.sum e) |]

/// A search: the mixture's weights learn from the training rows, α from the validation rows, one step each in turn.
let search token watch (data: Data) (seed: int) (name: string) : Row =
    use _ = torch.NewDisposeScope()
    let method, learnsDecay = (Map.ofList methods)[name]

    let start =
        [ "alpha", torch.zeros (int64 Space.edges.Length, int64 Space.operations.Length) ]

    let rule, start =
        if learnsDecay then
            adamW rate startDecay
            |> UpdateRule.learning "WeightDecay" (fun lambda -> lambda["decay"].exp ()),
            start
            @ [ "decay", torch.full ([| 1L |], Scalar.op_Implicit (log startDecay), dtype = torch.float32) ]
        else
            adam rate, start

    let run, seconds =
        Problem.create
            BilevelOptions.Default
            method
            [ Level.create
                  "weights"
                  (Space.parameters seed None)
                  rule
                  (batches data.Train)
                  (fun _ theta lambda (x, y) -> loss (Space.ofMixture lambda["alpha"] theta x) y)
              Level.create "alpha" start (adam 2e-2) (batches data.Valid) (fun _ theta lambda (x, y) ->
                  loss (Space.ofMixture lambda["alpha"] theta x) y) ]
        |> run token watch data.Steps seed

    use run = run
    let alpha = [| for value in run.Lambda["alpha"].data<float32> () -> float value |]

    { Data = data.Name
      Method = name
      Seed = seed
      Network = Space.name (pick alpha)
      Alpha = alpha
      Valid = 0.0
      Test = 0.0
      Seconds = seconds }
