/// Training one network alone, and searching among all of them.
module ArchitectureSearch.Search

open System
open System.Threading
open TorchSharp
open Sama
open Sama.Functional

type Data =
    {
        Train: Tensor * Tensor
        Valid: Tensor * Tensor
        /// rows that nothing is chosen on
        Test: Tensor * Tensor
        Steps: int
    }

/// One training alone (`Method` is "alone") or one search, with the network it picked.
type Row =
    {
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

/// A level of either kind, whose loss is that of its logits.
let private level name parameters rule (x: Tensor, y: Tensor) (logits: Params -> Params -> Tensor -> Tensor) =
    Level.create name parameters rule (Batches.shuffled (Rows.pair x y) 50) (fun _ theta lambda (x, y) ->
        torch.nn.functional.cross_entropy (logits theta lambda x, y))

/// The levels run to their end, and the processor time that took; `found` takes what the run has found.
let private run token (watch: Action<float>) steps seed method levels (found: BilevelRun -> float -> Row) : Row =
    let start = Environment.CpuUsage.TotalTime

    use run =
        new BilevelRun(Problem.create BilevelOptions.Default method levels, int64 seed)

    for step in 1..steps do
        (token: CancellationToken).ThrowIfCancellationRequested()
        run.Step() |> ignore
        watch.Invoke(float step / float steps)

    use _ = torch.no_grad ()
    found run (Environment.CpuUsage.TotalTime - start).TotalSeconds

/// One network trained alone on the training rows.
let trainAlone token watch (data: Data) (seed: int) (network: Space.Network) : Row =
    use _ = torch.NewDisposeScope()
    let logits = Space.ofNetwork network

    run
        token
        watch
        data.Steps
        seed
        Hypergradient.sama
        [ level "weights" (Space.parameters seed (Some network)) (adam rate) data.Train (fun theta _ -> logits theta) ]
        (fun run seconds ->
            let accuracy (x: Tensor, y: Tensor) =
                ((logits run.Theta x).argmax(1L).eq y).to_type(torch.float64).mean().item<float> ()

            { Method = alone
              Seed = seed
              Network = Space.name network
              Alpha = [||]
              Valid = accuracy data.Valid
              Test = accuracy data.Test
              Seconds = seconds })

/// A search: the mixture's weights learn from the training rows, α from the validation rows, one step each in turn. It picks
/// the strongest operation of each edge.
let search token watch (data: Data) (seed: int) (name: string) : Row =
    use _ = torch.NewDisposeScope()
    let method, learnsDecay = (Map.ofList methods)[name]
    let mixture theta (lambda: Params) = Space.ofMixture lambda["alpha"] theta

    let alpha =
        "alpha", torch.zeros (int64 Space.edges.Length, int64 Space.operations.Length)

    let decay = "decay", torch.ones 1L * log startDecay

    let rule, start =
        if learnsDecay then
            UpdateRule.learning "WeightDecay" (fun lambda -> lambda["decay"].exp ()) (adamW rate startDecay),
            [ alpha; decay ]
        else
            adam rate, [ alpha ]

    run
        token
        watch
        data.Steps
        seed
        method
        [ level "weights" (Space.parameters seed None) rule data.Train mixture
          level "alpha" start (adam 2e-2) data.Valid mixture ]
        (fun run seconds ->
            let alpha = run.Lambda["alpha"]

            { Method = name
              Seed = seed
              Network = Space.name [| for best in alpha.argmax(1L).data<int64> () -> int best |]
              Alpha = [| for value in alpha.data<float32> () -> float value |]
              Valid = 0.0
              Test = 0.0
              Seconds = seconds })
