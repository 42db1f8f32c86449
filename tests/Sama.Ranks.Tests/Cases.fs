/// What a rank does in a test: it prints "name=value" lines, which the test reads.
module Sama.Ranks.Tests.Cases

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Ranks.Tests.Problems

let say (name: string) (value: obj) = Console.WriteLine $"{name}={value}"

let private unroll k =
    { BilevelOptions.Default with Unroll = k }

let private accumulate k =
    { BilevelOptions.Default with
        Accumulate = k }

/// The hypergradient of ranks beside that of one rank on the rows of all: behind five windows, which both take.
let private compared (ranks: Communicator) name (make: Rows -> BilevelProblem) (plan: ReductionOptions) =
    let problem = make Own |> Problem.onRanksWith plan ranks
    let joined = make (OfAll ranks.Size)
    let mutable shared, alone = Bilevel.start 3L problem, Bilevel.start 3L joined

    for _ in 1..5 do
        shared <- fst (Bilevel.step problem shared)
        alone <- fst (Bilevel.step joined alone)

    let ours, theirs =
        Hypergradient.compute problem shared, Hypergradient.compute joined alone

    let direct =
        if theirs.Direct.norm().item<float> () = 0.0 then
            0.0
        else
            distance ours.Direct theirs.Direct

    say name (max (distance ours.Total theirs.Total) direct)
    say (name + ".theta") (distance shared.Theta alone.Theta)
    (ours.Total.norm () / theirs.Total.norm ()).item<float> ()

let private methods: (string * HypergradientMethod) list =
    [ "t1t2", Hypergradient.t1t2
      "neumann", Hypergradient.neumann 5 0.5
      "conjugateGradient", Hypergradient.conjugateGradient 10
      "fixedPoint", Hypergradient.fixedPoint 20 0.5
      "nystrom", Hypergradient.nystrom 10
      "exact", Hypergradient.exact
      "unrolled", Hypergradient.unrolled
      "f2sa", Hypergradient.f2sa
      "samaFisher", Hypergradient.samaFisher ]

/// Hypergradients.
let agreement (ranks: Communicator) =
    let joined = ReductionOptions.Default

    for k in [ 1; 3 ] do
        for name, method in [ "sama", Hypergradient.sama; "samaNa", Hypergradient.samaNa ] do
            compared ranks $"{name}.K{k}" (fun rows -> reweighting rows (unroll k) (adam 1e-2) method) joined
            |> ignore

    compared ranks "accumulated" (fun rows -> reweighting rows (accumulate 3) (adam 1e-2) Hypergradient.sama) joined
    |> ignore

    let oneSided =
        Hypergradient.samaWith
            { SamaOptions.Default with
                OneSided = true
                Nudge = 0.1 }

    compared ranks "oneSided" (fun rows -> reweighting rows (unroll 1) (adam 1e-2) oneSided) joined
    |> ignore

    for name, method in methods do
        compared ranks name (fun rows -> regularised rows (unroll 2) (adam 1e-2) method) joined
        |> ignore

    for response in [ MiddleResponse.Total; MiddleResponse.Held ] do
        for name, method in [ "sama", Hypergradient.sama; "t1t2", Hypergradient.t1t2 ] do
            compared ranks $"three.{response}.{name}" (fun rows -> threeLevels rows response method) joined
            |> ignore

    let local =
        { joined with
            Response = ResponseReduction.Local }

    let ratio =
        compared ranks "local" (fun rows -> reweighting rows (unroll 1) (adam 1e-2) Hypergradient.sama) local

    say "local.norm" ratio

/// A run: θ and λ after so many steps, on every rank.
let trajectory (ranks: Communicator) (steps: int) (bucketBytes: int64) =
    let problem =
        deep 24L 6 f64
        |> Problem.onRanksWith
            { ReductionOptions.Default with
                BucketBytes = bucketBytes }
            ranks

    use run = new BilevelRun(problem, int64 ranks.Rank + 7L)

    for _ in 1..steps do
        run.Step() |> ignore

    use state = run.Snapshot()
    say $"rank{ranks.Rank}" (Checksum.ofTensors [ state.Theta; state.Lambda ])
