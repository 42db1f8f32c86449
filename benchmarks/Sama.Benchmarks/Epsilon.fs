/// The relative error of SAMA's difference in float32, against the exact mixed derivative of the same pass.
module Sama.Benchmarks.Epsilon

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks.Models

type Row =
    {
        Model: string
        /// base steps taken before, under Adam
        T: int
        Norm: string
        Alpha: float
        RelativeError: float
        /// the library's default norm and α
        Default: bool
    }

let private models =
    [ "encoder", (fun () -> encoder true false 32L 128L 2 2000L)
      "encoder, no embeddings", (fun () -> encoder false false 32L 128L 2 2000L)
      "mlp", (fun () -> mlp "mlp" 256L 3)
      "cnn", (fun () -> cnn) ]

let private alphas = [ for i in 0..12 -> 10.0 ** (-0.5 * float i) ]

let run (device: torch.Device) (path: string) : int =
    let rows = ResizeArray()

    for name, model in models do
        let problem =
            problem device BilevelOptions.Default (adam 1e-3) Hypergradient.sama 16L (model ())

        use run = new BilevelRun(problem, 1L)

        for t in [ 10; 100; 600 ] do
            while run.StepsTaken < int64 (t - 1) do
                run.Step() |> ignore

            use state = run.Snapshot()

            let errors =
                Hypergradient.epsilonSweep problem state alphas [ PerturbationNorm.Active; PerturbationNorm.All ]

            for e in errors do
                rows.Add
                    { Model = name
                      T = t
                      Norm = $"{e.Norm}".ToLowerInvariant()
                      Alpha = e.Alpha
                      RelativeError = e.RelativeError
                      Default = e.Norm = PerturbationNorm.Active && abs (e.Alpha - 1e-3) < 1e-12 }

            Rows.write path rows
            let standard = rows |> Seq.findBack _.Default
            let best = errors |> List.minBy _.RelativeError

            printfn
                $"{name, -24} t = {t, -4} default {standard.RelativeError:E1}  least {best.RelativeError:E1} at {best.Alpha:E0} {best.Norm}"

    0
