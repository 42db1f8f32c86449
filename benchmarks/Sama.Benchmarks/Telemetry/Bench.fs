/// What looking on costs: a run with telemetry, a live line and prefetch beside one without, in turn.
module Sama.Benchmarks.Telemetry.Bench

open System
open System.Diagnostics
open System.Diagnostics.Metrics
open System.IO
open Spectre.Console
open TorchSharp
open Sama
open Sama.Functional

/// One way of running, over all rounds.
type Row =
    {
        Run: string
        Steps: int
        /// of the process
        ProcessorMillisecondsPerStep: float
        MillisecondsPerStep: float
        ExamplesPerSecond: float
        /// median over rounds of the processor time of the plain run by this one's
        ProcessorThroughput: float
        /// the same of the time on the clock
        Throughput: float
        /// alive behind the first round, and behind the last
        Tensors: int64[]
    }

let private size, private width, private classes = 256, 128L, 10L

/// A classifier of three layers whose losses a small net weighs; its batches are made ahead while `prefetch` says so.
let private problem (prefetch: unit -> bool) : BilevelProblem * IDisposable =
    use generator = new torch.Generator 1UL

    let normal (shape: int64[]) =
        torch.randn (shape, generator = generator)

    let rows = 16384L
    let truth = normal [| width; classes |]
    let x = normal [| rows; width |]
    let y = (x.mm truth).argmax 1L
    let wrong = torch.rand(rows, generator = generator).lt (Scalar.op_Implicit 0.3)

    let noisy =
        torch.where (wrong, torch.randint (classes, rows, dtype = torch.int64, generator = generator), y)

    let data = Batches.shuffled (Rows.pair x noisy) size
    let ahead = new Prefetch<_>(data, 2)

    let losses (p: Params) (x: Tensor, y: Tensor) =
        let hidden = (torch.nn.functional.linear (x, p["w1"], p["b1"])).relu ()
        let hidden = (torch.nn.functional.linear (hidden, p["w2"], p["b2"])).relu ()
        let logits = torch.nn.functional.linear (hidden, p["w3"])
        torch.nn.functional.cross_entropy (logits, y, reduction = torch.nn.Reduction.None)

    let weights (p: Params) (losses: Tensor) =
        ((losses.unsqueeze(1L).mm(p["in"]).tanh ()).mm p["out"]).sigmoid().squeeze 1L

    let wide = 1024L
    let scaled (shape: int64[]) = normal shape / sqrt (float shape[1])

    let levels =
        [ Level.create
              "classifier"
              [ "w1", scaled [| wide; width |]
                "b1", torch.zeros wide
                "w2", scaled [| wide; wide |]
                "b2", torch.zeros wide
                "w3", scaled [| classes; wide |] ]
              (adam 1e-3)
              (fun draw -> if prefetch () then ahead.Next draw else data draw)
              (fun pass theta lambda batch ->
                  let losses = losses theta batch
                  (weights lambda (pass.Stop("losses", losses)) * losses).mean ())
          Level.create
              "weights"
              [ "in", normal [| 1L; 16L |]; "out", normal [| 16L; 1L |] * 0.1 ]
              (adam 1e-3)
              (Batches.shuffled (Rows.pair (x.narrow (0L, 0L, 512L)) (y.narrow (0L, 0L, 512L))) size)
              (fun _ theta _ batch -> (losses theta batch).mean ()) ]

    Problem.create
        { BilevelOptions.Default with
            Unroll = 5 }
        Hypergradient.sama
        levels,
    ahead

/// Processor time and time on the clock of so many steps, in seconds.
let private timed (body: unit -> unit) : float * float =
    use own = Process.GetCurrentProcess()
    let before = own.TotalProcessorTime
    let clock = Stopwatch.StartNew()
    body ()
    let elapsed = clock.Elapsed.TotalSeconds
    own.Refresh()
    (own.TotalProcessorTime - before).TotalSeconds, elapsed

/// Somebody listens to every instrument.
let private listening () : MeterListener =
    let listener = new MeterListener()

    listener.InstrumentPublished <-
        Action<_, _>(fun instrument listener ->
            if instrument.Meter.Name = "Sama" then
                listener.EnableMeasurementEvents instrument)

    listener.SetMeasurementEventCallback<float>(MeasurementCallback<_>(fun _ _ _ _ -> ()))
    listener.SetMeasurementEventCallback<int64>(MeasurementCallback<_>(fun _ _ _ _ -> ()))
    listener.Start()
    listener

let private row name steps rounds (plain: (float * float) list) (own: (float * float) list) tensors : Row =
    let median (values: float list) =
        let sorted = List.sort values
        (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

    let perStep pick =
        median (List.map pick own) / float steps * 1000.0

    let ratio pick =
        List.map2 (fun a b -> pick a / pick b) plain own |> median

    { Run = name
      Steps = steps * rounds
      ProcessorMillisecondsPerStep = perStep fst
      MillisecondsPerStep = perStep snd
      ExamplesPerSecond = float size * 1000.0 / perStep snd
      ProcessorThroughput = ratio fst
      Throughput = ratio snd
      Tensors = tensors }

/// A way of running. All ways take the steps of one run in turn: another run's vectors lie elsewhere in memory, which alone
/// makes some percent.
[<NoComparison>]
type private Way =
    { Name: string
      Telemetry: TelemetryOptions
      Listens: bool
      Shows: bool
      Prefetches: bool }

let private console () =
    AnsiConsole.Create(
        AnsiConsoleSettings(
            Ansi = AnsiSupport.Yes,
            Interactive = InteractionSupport.Yes,
            Out = AnsiConsoleOutput(new StringWriter())
        )
    )

let private plain =
    { Name = "plain"
      Telemetry = null
      Listens = false
      Shows = false
      Prefetches = false }

let private steps (run: BilevelRun) console (way: Way) count : unit =
    run.Telemetry <- way.Telemetry
    use _ = if way.Listens then listening () :> IDisposable else null

    use line =
        if way.Shows then
            new LiveLine("training", console)
        else
            null

    let start = run.StepsTaken

    for _ in 1..count do
        let report = run.Step()

        if way.Shows then
            line.At(float (report.Step - start) / float count, $"loss {report.BaseLoss:F3}")

/// The curves of a run of its own.
let private draw (path: string) (lines: string) : unit =
    let problem, ahead = problem (fun () -> false)
    use _ = ahead

    (use run =
        new BilevelRun(problem, 2L, Telemetry = TelemetryOptions(JsonLines = lines))

     for _ in 1..600 do
         run.Step() |> ignore)

    Curves.write path lines

/// Interleaved rounds; exit code 1 if the watched run has less than 98 % of the plain one's examples a second, or its
/// tensors grow. `full`: each part by itself too.
let run (full: bool) (write: Row list -> unit) (picture: string option) : int =
    let folder = Directory.CreateTempSubdirectory("telemetry-").FullName
    let lines = Path.Combine(folder, "run.jsonl")

    try
        let rounds, count = 20, 40
        let all = TelemetryOptions(JsonLines = lines, TensorBoard = folder)

        let ways =
            [ plain
              { Name = "telemetry, live line, prefetch"
                Telemetry = all
                Listens = true
                Shows = true
                Prefetches = true }
              if full then
                  { plain with Name = "plain, again" }

                  { plain with
                      Name = "measured alone"
                      Telemetry = TelemetryOptions() }

                  { plain with
                      Name = "meter"
                      Listens = true }

                  { plain with
                      Name = "lines of JSON"
                      Telemetry = TelemetryOptions(JsonLines = lines + ".2") }

                  { plain with
                      Name = "TensorBoard"
                      Telemetry = TelemetryOptions(TensorBoard = folder) }

                  { plain with
                      Name = "live line"
                      Shows = true }

                  { plain with
                      Name = "prefetch"
                      Prefetches = true } ]

        let ahead = ref false
        let problem, prefetch = problem (fun () -> ahead.Value)
        use _ = prefetch
        use run = new BilevelRun(problem, 1L)
        let console = console ()

        let taken way () =
            ahead.Value <- way.Prefetches
            steps run console way count

        // all once untimed
        for way in ways do
            taken way ()

        let live = torch.Tensor.TotalCount

        let times =
            [ for round in 1..rounds do
                  let turn = if round % 2 = 0 then ways else List.rev ways
                  let timed = dict [ for way in turn -> way.Name, timed (taken way) ]
                  [ for way in ways -> timed[way.Name] ] ]
            |> List.transpose

        let tensors = [| live; torch.Tensor.TotalCount |]

        let rows =
            List.map2 (fun way own -> row way.Name count rounds times.Head own tensors) ways times

        for r in rows do
            printfn
                $"{r.Run}: {r.ProcessorMillisecondsPerStep:F2} ms of processor time a step, {r.MillisecondsPerStep:F2} on the clock, {r.ExamplesPerSecond:F0} examples/s; throughput {r.ProcessorThroughput:P1} of plain by processor time, {r.Throughput:P1} by the clock"

        printfn $"live tensors {tensors[0]}, then {tensors[1]}"
        write rows

        run.Telemetry <- null

        picture
        |> Option.iter (fun path -> draw path (Path.Combine(folder, "drawn.jsonl")))
        // batches made ahead come and go
        let grown = abs (tensors[1] - tensors[0]) > 8L

        if rows[1].Throughput >= 0.98 && not grown then 0 else 1
    finally
        Directory.Delete(folder, true)
