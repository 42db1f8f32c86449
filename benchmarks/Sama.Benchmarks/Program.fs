module Sama.Benchmarks.Program

open System
open System.IO
open Argu
open Sama.Functional

/// Options of every measurement; each says in the README of docs which ones it reads.
type Arguments =
    | [<MainCommand; ExactlyOnce; First>] Bench of name: string
    | Json of file: string
    | Data of path: string
    | Picture of file: string
    | Model of folder: string
    | Full
    | Only of rows: string
    | Device of name: string
    | Seed of number: int
    | [<Hidden>] Row of words: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Bench _ -> "which measurement"
            | Json _ -> "json file for the rows"
            | Data _ ->
                "fixtures: a folder; matrix: the file of the table; cost-report: a json file of cost, once for each"
            | Model _ -> "language: a folder of BERT, as Hugging Face has them"
            | Picture _ -> "png file for the picture"
            | Full -> "cost: more models, algorithms and sizes; faults: more of each"
            | Only _ ->
                "cost, language, choice: the rows that start so, like growth or 'encoder 16x64 K=1'; faults: families that are named so, like metagradient"
            | Device _ -> "cpu (the default) or cuda"
            | Seed _ -> "faults: which moments and bytes (1); choice, rates: how many seeds"
            | Row _ -> "what a child process measures"

/// The families of fixture files.
let private readers: Sama.Fixtures.Bench.Reader list =
    [ Sama.Fixtures.Rules.reader; Sama.Fixtures.Hypergradients.Files.reader ]
    @ Sama.Fixtures.Language.Files.readers

let private write (options: ParseResults<Arguments>) rows =
    options.TryGetResult Json |> Option.iter (fun path -> Rows.write path rows)

let private fixtures (options: ParseResults<Arguments>) =
    Sama.Fixtures.Bench.run readers (options.GetResult Data) (write options)

let private exactness (options: ParseResults<Arguments>) =
    Exactness.Bench.run (write options) (options.TryGetResult Picture)

let private device (options: ParseResults<Arguments>) : TorchSharp.torch.Device =
    Native.device (options.GetResult(Device, "cpu"))

let private memory (options: ParseResults<Arguments>) =
    match options.GetResult Row with
    | row when row.StartsWith "language|" -> Language.Bench.memory row
    | row when row.StartsWith "metagradient|" -> Metagradients.memory row
    | row -> Cost.memory (device options) row

/// name, what it does, the measurement: options ↦ exit code.
let private benches: (string * string * (ParseResults<Arguments> -> int)) list =
    [ "fixtures", "compares the library with recorded numbers under --data", fixtures
      "rules",
      "each update rule: deviations, errors of its adaptation, times",
      (fun options -> RuleBench.run (write options))
      "exactness", "every hypergradient method against the oracle; --picture", exactness
      "matrix",
      "every method under every rule in every way against the definition",
      (fun o -> Matrix.Bench.run (o.TryGetResult Data))
      "cost",
      "time and memory of a meta step of each algorithm, as multiples of plain training",
      fun o -> Cost.run (device o) (o.Contains Full) (o.TryGetResult Only) (o.GetResult Json)
      "phases", "time of a plain step and of a meta step by phase: encoder, CNN, MLP", (fun o -> Phases.run (write o))
      "cost-report",
      "tables of the rows under --data, with the cost model beside them; --picture",
      fun o -> CostReport.run (o.GetResults Data) (o.TryGetResult Picture)
      "levels",
      "weights of examples regularised by a third level, on MNIST files under --data",
      fun o -> ThreeLevels.measure (o.GetResult Data) (write o)
      "epsilon",
      "the error of SAMA's difference in float32 for each α and norm",
      fun o -> Epsilon.run (device o) (o.GetResult Json)
      "products",
      "products by differences against exact ones: relative errors by model and type",
      (fun o -> ProductErrors.run (write o))
      "rates",
      "a learned rate against a grid of fixed ones: P2, and MNIST where its files are under --data; --seed: how many (3)",
      (fun o -> LearnedRates.run (o.TryGetResult Data) (o.GetResult(Seed, 3)) (write o))
      "metagradient",
      "the metagradient of trainings of 100 to 10,000 steps: time and memory",
      (fun o -> Metagradients.run (write o))
      "descent",
      "how far each method brings λ on P2 by gradient evaluations, and on P5 from 1,000 starts; --picture",
      (fun o -> Descent.Bench.run (write o) (o.TryGetResult Picture))
      "lds",
      "how well metagradients, SAMA's weights and TracIn predict retrainings, on MNIST files under --data",
      (fun o -> Attribution.run (o.GetResult Data) (write o))
      "language",
      "a step of the BERT under --model beside plain modules, SAMA, adapters: time and memory",
      (fun o -> Language.Bench.run (o.GetResult Model) (o.TryGetResult Only) (write o))
      "choice",
      "what a cleaning's choice gains over the control on drawn problems of many kinds; --seed: how many of each (20)",
      (fun o -> Choice.run (o.GetResult(Seed, 20)) (o.TryGetResult Only) (write o))
      "faults",
      "kills, damaged files, NaN, leaks: what runs and metagradients have to survive; --full for 250 kills and 650 damages",
      (fun o -> Faults.Bench.run (o.Contains Full) (o.TryGetResult Only) (o.GetResult(Seed, 1)) (write o))
      "ranks",
      "throughput of two ranks against one, and what of a reduction is hidden; under mpirun: of as many as it started",
      (fun o -> RankBench.run (o.TryGetResult Only) (o.Contains Full) (write o))
      "checkpoint",
      "time and memory of a checkpoint of 10⁸ parameters, beside dd",
      (fun o -> Faults.Speed.run (write o))
      "telemetry",
      "examples a second of a run with telemetry, a live line and prefetch, beside one without; --picture",
      (fun o -> Telemetry.Bench.run (o.Contains Full) (write o) (o.TryGetResult Picture))
      "faults-child", "a training process for faults to kill", (fun o -> Faults.Child.run (o.GetResult Row))
      "memory", "one row of cost or language, in a process of its own", memory ]

[<EntryPoint>]
let main args =
    let known =
        benches
        |> List.map (fun (name, what, _) -> $"  {name}: {what}")
        |> String.concat "\n"

    try
        let parsed = ArgumentParser.Create<Arguments>(programName = "bench").Parse args
        let name = parsed.GetResult Bench
        Native.initialize ()

        match benches |> List.tryFind (fun (n, _, _) -> n = name) with
        | Some(_, _, bench) -> bench parsed
        | None -> raise (ArgumentException $"no measurement is named '{name}'; there are:\n{known}")
    with
    | :? ArguParseException as e ->
        eprintfn $"{e.Message}\n{known}"
        if e.ErrorCode = ErrorCode.HelpText then 0 else 2
    | :? IOException
    | :? ArgumentException
    | :? InvalidDataException as e ->
        eprintfn $"bench: {e.Message}"
        2
