/// Time and memory of the metagradient of a whole training, by its length.
module Sama.Benchmarks.Metagradients

open System
open System.Diagnostics
open TorchSharp
open Sama
open Sama.Functional

type Row =
    {
        Steps: int
        /// states kept in memory, and in a folder
        Memory: int
        Disk: int
        /// processor time of the training alone, and of training and metagradient
        Training: float
        Metagradient: float
        /// base steps taken for each of the training's
        TakenEach: float
        /// tensors at their peak over what was there before, of a process that does nothing else
        PeakBytes: int64
    }

let private rows, width = 1000L, 64L

/// 1,000 rows, weighted one by one, of an MLP of 64, 64 and 10 units in float32; batches of 32, Adam.
let private problem () =
    use generator = new torch.Generator 1UL

    let normal (shape: int64[]) =
        torch.randn (shape, generator = generator)

    let x = normal [| rows; width |]
    let y = (x.narrow (1L, 0L, 10L)).argmax 1L
    let metaX = normal [| 200L; width |]
    let metaY = (metaX.narrow (1L, 0L, 10L)).argmax 1L

    let logits (theta: Params) (x: Tensor) =
        let h = torch.nn.functional.linear(x, theta["W1"], theta["b1"]).tanh ()
        torch.nn.functional.linear (h, theta["W2"], theta["b2"])

    let batch (draw: Draw) =
        use generator = new torch.Generator(uint64 draw.RandomSeed)
        torch.randint (rows, [| 32L |], dtype = torch.int64, generator = generator)

    Problem.create
        BilevelOptions.Default
        Hypergradient.sama
        [ Level.create
              "net"
              [ "W1", normal [| width; width |] * 0.1
                "b1", torch.zeros width
                "W2", normal [| 10L; width |] * 0.1
                "b2", torch.zeros 10L ]
              (adam 1e-3)
              batch
              (fun _ theta lambda own ->
                  let losses =
                      torch.nn.functional.cross_entropy (
                          logits theta (x.index_select (0L, own)),
                          y.index_select (0L, own),
                          reduction = torch.nn.Reduction.None
                      )

                  (losses * lambda["w"].index_select (0L, own)).mean ())
          Level.create "rows" [ "w", torch.ones rows ] (sgd 1.0) ignore (fun _ theta _ () ->
              torch.nn.functional.cross_entropy (logits theta metaX, metaY)) ]

let private options memory disk folder =
    { MetagradientOptions.Default with
        Memory = memory
        Disk = max 1 disk
        Folder = if disk > 0 then folder else null }

let private folder () =
    IO.Path.Combine(IO.Path.GetTempPath(), $"sama-bench-{Guid.NewGuid():N}")

let private find steps memory disk =
    use _ = torch.NewDisposeScope()
    let problem = problem ()
    use state = Bilevel.start 1L problem
    let path = folder ()

    use found =
        Metagradient.ofTrainingWith (options memory disk path) problem state steps

    if disk > 0 then
        IO.Directory.Delete path

    found.Report

/// One row, in a process of its own.
let memory (row: string) : int =
    match row.Split '|' with
    | [| _; steps; memory; disk |] ->
        // what the library makes once
        find 2 2 0 |> ignore

        let peak =
            Memory.measure (fun () -> find (int steps) (int memory) (int disk) |> ignore)

        printfn $"{Text.Json.JsonSerializer.Serialize peak}"
        0
    | _ -> invalidArg (nameof row) row

let private measure (steps, memory, disk) : Row =
    use _ = torch.NewDisposeScope()
    let own = problem ()
    use state = Bilevel.start 1L own
    find 20 2 0 |> ignore

    let time () =
        Process.GetCurrentProcess().TotalProcessorTime.TotalSeconds

    let began = time ()
    Metagradient.lossOfTraining own state steps |> ignore
    let between = time ()
    let report = find steps memory disk
    let training, whole = between - began, time () - between

    let peak =
        Memory.inChild [ "metagradient"; string steps; string memory; string disk ]

    { Steps = steps
      Memory = memory
      Disk = disk
      Training = training
      Metagradient = whole
      TakenEach = float report.Taken / float steps
      PeakBytes = peak.PeakTensorBytes }

let run (write: Row list -> unit) : int =
    let rows =
        [ 100, 20, 0; 1000, 20, 0; 10_000, 20, 0; 1000, 5, 20; 1000, 1000, 0 ]
        |> List.map measure

    write rows

    printfn
        "| T | states in memory | in a folder | training, s | metagradient, s | trainings | steps taken for each | peak, MB |"

    printfn "|---|---|---|---|---|---|---|---|"

    for r in rows do
        printfn
            $"| {r.Steps:N0} | {r.Memory} | {r.Disk} | {r.Training:F2} | {r.Metagradient:F2} | {r.Metagradient / r.Training:F1} | {r.TakenEach:F2} | {float r.PeakBytes / 1e6:F1} |"

    0
