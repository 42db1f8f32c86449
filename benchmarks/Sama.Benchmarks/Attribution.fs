/// How well scores of rows predict trainings without some of them: LDS of metagradients, of SAMA's weights, of TracIn.
module Sama.Benchmarks.Attribution

open System
open System.Diagnostics
open TorchSharp
open Sama
open Sama.Functional

type Row =
    {
        Scores: string
        /// LDS where each training leaves out 1 % and 10 % of the rows
        OnePercent: float
        TenPercent: float
        /// processor time in trainings
        Trainings: float
    }

let private rows, held, steps, hidden = 10_000, 2000, 500, 32L
let private rate = 0.05
let private subsets = 60

let private logits (theta: Params) (x: Tensor) =
    let h =
        torch.nn.functional.gelu (torch.nn.functional.linear (x, theta["W1"], theta["b1"]))

    torch.nn.functional.linear (h, theta["W2"], theta["b2"])

let private losses theta (x: Tensor, y: Tensor) =
    torch.nn.functional.cross_entropy (logits theta x, y, reduction = torch.nn.Reduction.None)

let private start () =
    use generator = new torch.Generator 3UL

    let normal (scale: float) (shape: int64[]) =
        torch.randn (shape, generator = generator) * scale

    [ "W1", normal 0.05 [| hidden; 784L |]
      "b1", torch.zeros hidden
      "W2", normal 0.2 [| 10L; hidden |]
      "b2", torch.zeros 10L ]

/// A net of 32 GELU units, 500 steps of SGD with momentum on 100 rows, each row with a weight that learns behind the warm-up.
let private problemOf (x: Tensor, y: Tensor) heldRows (warmUp: int64) =
    let pick (draw: Draw) =
        use generator = new torch.Generator(uint64 draw.RandomSeed)
        torch.randint (int64 rows, [| 100L |], dtype = torch.int64, generator = generator)

    let rule =
        sgdWith
            { SgdOptions.Default with
                LearningRate = rate
                Momentum = 0.9 }

    Problem.create
        { BilevelOptions.Default with
            WarmUp = warmUp }
        Hypergradient.sama
        [ Level.create "net" (start ()) rule pick (fun _ theta lambda own ->
              let losses = losses theta (x.index_select (0L, own), y.index_select (0L, own))
              (losses * lambda["w"].index_select (0L, own)).mean ())
          Level.create "rows" [ "w", torch.ones rows ] (sgd 1.0) ignore (fun _ theta _ () ->
              (losses theta heldRows).mean ()) ]

let private values (t: Tensor) : float[] =
    t.detach().to_type(torch.float64).data<float>().ToArray()

/// What SAMA's weights say: how far 500 meta steps on all held-out rows moved each.
let private ofSama data heldRows : float[] =
    use run = new BilevelRun(problemOf data heldRows 0L, 1L)

    for _ in 1..steps do
        run.Step() |> ignore

    use moved = 1.0 - run.Lambda["w"]
    values moved

/// TracIn (Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020) at ten checkpoints:
/// −Σ ⟨∇ℓᵢ, ∇L⟩, by a central difference of all losses along ∇L.
let private ofTracIn data heldRows : float[] =
    use _ = torch.NewDisposeScope()
    let problem = problemOf data heldRows Int64.MaxValue
    use run = new BilevelRun(problem, 1L)
    let total = torch.zeros rows

    for step in 1..steps do
        run.Step() |> ignore

        if step % (steps / 10) = 0 then
            let layout = run.Theta.Layout
            let theta = run.Theta.Vector

            let _, gradient =
                Autodiff.gradient (fun p -> (losses p heldRows).mean ()) layout theta

            use _ = torch.no_grad ()
            let along = gradient / gradient.norm ()

            let at (by: float) =
                losses (Params.frozen layout (theta + along * by)) data

            total.sub_ ((at 1e-2 - at -1e-2) * gradient.norm () / 2e-2) |> ignore

    values total

let private timed (body: unit -> 'result) =
    let time () =
        Process.GetCurrentProcess().TotalProcessorTime

    let before = time ()
    let result = body ()
    result, (time () - before).TotalSeconds

let run (folder: string) (write: Row list -> unit) : int =
    use _ = torch.NewDisposeScope()
    let data, heldRows = ThreeLevels.digits folder rows held
    let problem = problemOf data heldRows 0L
    use state = Bilevel.start 1L problem

    let training () =
        Metagradient.lossOfTraining problem state steps

    training () |> ignore
    let loss, once = timed training

    let metagradient, cost =
        timed (fun () -> Metagradient.ofTraining problem state steps)

    let scores =
        [ "metagradient", values metagradient.Lambda, cost
          let sama, cost = timed (fun () -> ofSama data heldRows)
          "SAMA's weights", sama, cost
          let tracIn, cost = timed (fun () -> ofTracIn data heldRows)
          "TracIn, ten checkpoints", tracIn, cost ]

    let without fraction =
        Metagradient.retrained rows fraction subsets 7 (fun keep ->
            use _ = torch.NewDisposeScope()
            let weights = torch.tensor [| for k in keep -> if k then 1f else 0f |]
            Metagradient.lossOfTraining problem (RunState.at 1 weights state) steps)

    let few, many = without 0.01, without 0.1

    let found =
        [ for name, own, cost in scores ->
              { Scores = name
                OnePercent = few.Lds own
                TenPercent = many.Lds own
                Trainings = cost / once } ]

    write found
    printfn $"held-out loss {loss:F4}; a training takes {once:F2} s of processor time\n"

    for step in Metagradient.smoothness problem state steps metagradient [ 0.1; 1.0; 10.0 ] do
        printfn $"λ moved by {step.Length}: predicted {step.Predicted:E2}, actual {step.Actual:E2}"

    printfn "\n| scores | LDS, 1 %% left out | LDS, 10 %% left out | cost in trainings |"
    printfn "|---|---|---|---|"

    for r in found do
        printfn $"| {r.Scores} | {r.OnePercent:F3} | {r.TenPercent:F3} | {r.Trainings:F1} |"

    metagradient.Dispose()
    0
