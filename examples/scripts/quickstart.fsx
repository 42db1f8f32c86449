// One regulariser per weight of a linear model, chosen on a validation set by SAMA's hypergradient.
// ./build.sh pack, then: RestoreAdditionalProjectSources=$PWD/artifacts dotnet fsi examples/scripts/quickstart.fsx
// (in a script of one's own the folder of packages can be named by its full path: #i "nuget: /path/to/artifacts")
#r "nuget: Sama.Functional"
#r "nuget: libtorch-cpu-linux-x64"

open TorchSharp
open Sama
open Sama.Functional

Native.initialize ()
torch.random.manual_seed 0L |> ignore

// 20 features of which 5 matter, 40 rows to train on and 40 to choose on
let truth = torch.cat [| torch.ones 5L; torch.zeros 15L |]

let sample (rows: int64) =
    let x = torch.randn (rows, 20L)
    x, x.mv truth + torch.randn rows

let train, valid, test = sample 40L, sample 40L, sample 2000L

let error (x: Tensor, y: Tensor) (w: Tensor) = (x.mv w - y).square().mean ()

let problem =
    Problem.create
        { BilevelOptions.Default with
            Unroll = 5 }
        Hypergradient.sama
        [ Level.create "base" [ "w", torch.zeros 20L ] (adam 1e-2) ignore (fun _ theta lambda () ->
              error train theta["w"] + (lambda["log"].exp () * theta["w"].square ()).sum ())
          Level.create "meta" [ ("log", torch.ones 20L * -4.0) ] (adam 1e-1) ignore (fun _ theta _ () ->
              error valid theta["w"]) ]

let run = new BilevelRun(problem, 0L)

let on data =
    (error data run.Theta["w"]).item<float32> ()

for step in 1..2000 do
    run.Step() |> ignore

    if step % 400 = 0 then
        printfn $"step {step}: train {on train:F3}, validation {on valid:F3}, test {on test:F3}"

let mean (from: int64) (count: int64) =
    run.Lambda["log"].exp().narrow(0L, from, count).mean().item<float32> ()

printfn $"mean penalty: features that matter {mean 0L 5L:G3}, others {mean 5L 15L:G3}"
