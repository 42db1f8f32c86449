/// P5: from how many of 1,000 starts each method ends at a stationary point.
module Sama.Benchmarks.Descent.Toy

open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference

type Row =
    {
        Method: string
        /// starts that end with |x + y| < 1e-2 and a projected gradient below 1e-2
        Success: int
        /// medians over the starts
        Gap: float
        Gradient: float
    }

let private starts, metaSteps = 1000, 500

let private median (values: float seq) =
    let sorted = Seq.sort values |> Array.ofSeq
    sorted[sorted.Length / 2]

let private trained (method: HypergradientMethod) (weight: float) : (float * float)[] =
    let x, y = PenaltyToy.starts 1 starts

    let levels =
        match Suite.levels Suite.penaltyToy (sgd 0.1) (Suite.ofVector y) (Suite.ofVector x) with
        | [ lowest; upper ] ->
            let rule = Projection.projectBox 0.0 3.0 (Curves.averaged weight (sgd 0.02))

            [ lowest
              { upper with
                  Update = rule
                  Rule = UpdateRule.bind upper.Layout rule } ]
        | other -> other

    let problem =
        Problem.create
            { BilevelOptions.Default with
                Unroll = 10 }
            method
            levels

    use run = new BilevelRun(problem, 1L)

    for _ in 1 .. metaSteps * 10 do
        run.Step() |> ignore

    let x, y = Suite.toVector run.Lambda.Vector, Suite.toVector run.Theta.Vector
    let slopes = PenaltyToy.projectedGradient x
    [| for i in 0 .. starts - 1 -> abs (x[i] + y[i]), slopes[i] |]

/// All starts in one run, 500 meta steps of 0.02 behind ten base steps of 0.1 each, x projected to [0, 3].
let measure () : Row list =
    use _ = torch.NewDisposeScope()

    [ for name, method, weight in Curves.methods do
          // of 1,000 columns, and of a matrix of 10⁶ at each meta step
          if name <> "nystrom(20)" && name <> "exact" then
              let ends =
                  try
                      trained method weight
                  with :? NonFiniteException ->
                      [| for _ in 1..starts -> infinity, infinity |]

              { Method = name
                Success =
                  ends
                  |> Array.filter (fun (gap, slope) -> gap < 1e-2 && slope < 1e-2)
                  |> Array.length
                Gap = median (Seq.map fst ends)
                Gradient = median (Seq.map snd ends) } ]
