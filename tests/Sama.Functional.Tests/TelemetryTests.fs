/// What is measured of a run, and read back from where it is told: reports, meter, spans, JSON lines, TensorBoard.
module Sama.Tests.TelemetryTests

open System
open System.Collections.Generic
open System.Diagnostics
open System.Diagnostics.Metrics
open System.IO
open System.Text.Json
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private inFolder (body: string -> unit) =
    let folder = Directory.CreateTempSubdirectory "telemetry-"

    try
        body folder.FullName
    finally
        folder.Delete true

/// The re-weighting net, K base steps a meta step.
let private problem k method =
    reweightingWith (unrollBy k) Stopped 0.1 (adam 1e-2) method

let private lowest, private highest =
    let names = (problem 1 Hypergradient.sama).LevelNames
    names[0], names[1]

let private run (steps: int) (options: TelemetryOptions) (problem: BilevelProblem) : StepReport list * RunState =
    use run = new BilevelRun(problem, 3L, Telemetry = options)
    [ for _ in 1..steps -> run.Step() ], run.Snapshot()

let private bytes (state: RunState) =
    [ for level in state.Levels do
          for tensor in level.Vector :: List.ofSeq level.Rule.All do
              tensor.data<float>().ToArray() ]

/// What instruments of the meter told while `body` ran: name, value, the value of its tag or null.
let private listened (body: unit -> 'result) : (string * float * string) list * 'result =
    let told = List<string * float * string>()
    use listener = new MeterListener()

    listener.InstrumentPublished <-
        Action<_, _>(fun instrument listener ->
            if instrument.Meter.Name = "Sama" then
                listener.EnableMeasurementEvents instrument)

    let tell (instrument: Instrument) (value: float) (tags: KeyValuePair<string, obj>[]) =
        told.Add(instrument.Name, value, (if tags.Length > 0 then string tags[0].Value else null))

    listener.SetMeasurementEventCallback<float>(
        MeasurementCallback<_>(fun instrument value tags _ -> tell instrument value (tags.ToArray()))
    )

    listener.SetMeasurementEventCallback<int64>(
        MeasurementCallback<_>(fun instrument value tags _ -> tell instrument (float value) (tags.ToArray()))
    )

    listener.Start()
    let result = body ()
    List.ofSeq told, result

/// The events of TensorBoard's files in a folder: records with a masked CRC-32C each of their length and their data.
let private events (folder: string) : Tensorboard.Event list =
    let crc (data: byte[]) =
        let mutable c = 0xFFFFFFFFu

        for b in data do
            c <- c ^^^ uint32 b

            for _ in 1..8 do
                c <- if c &&& 1u = 1u then (c >>> 1) ^^^ 0x82F63B78u else c >>> 1

        let c = ~~~c
        ((c >>> 15) ||| (c <<< 17)) + 0xa282ead8u

    [ for path in Directory.GetFiles(folder, "*tfevents*") do
          let data = File.ReadAllBytes path
          let mutable at = 0

          while at < data.Length do
              let length = int (BitConverter.ToUInt64(data, at))
              Expect.equal (BitConverter.ToUInt32(data, at + 8)) (crc data[at .. at + 7]) "length's checksum"

              Expect.equal
                  (BitConverter.ToUInt32(data, at + 12 + length))
                  (crc data[at + 12 .. at + 11 + length])
                  "checksum"

              Tensorboard.Event.Parser.ParseFrom(data, at + 12, length)
              at <- at + 16 + length ]

let private lines (path: string) : JsonElement list =
    [ for line in File.ReadAllLines path -> JsonDocument.Parse(line).RootElement ]

let private kind (line: JsonElement) = line.GetProperty("kind").GetString()
let private number (name: string) (line: JsonElement) = line.GetProperty(name).GetDouble()

let tests =
    testList
        "telemetry"
        [ testCase "a run that nobody watches measures nothing"
          <| fun _ ->
              let reports, state = run 4 null (problem 2 Hypergradient.sama)
              use _ = state
              Expect.all reports (fun r -> isNull r.Telemetry) "telemetry"
              Expect.all reports (fun r -> isNull r.Meta || not r.Meta.Cosine.HasValue) "cosine"

          for name, method in
              [ "sama", Hypergradient.sama
                "t1t2", Hypergradient.t1t2
                "conjugate gradients", Hypergradient.conjugateGradient 3
                "unrolled", Hypergradient.unrolled ] do
              testCase $"the steps of a watched run are those of any run, to the bit: {name}"
              <| fun _ ->
                  let watched, a = run 6 (TelemetryOptions()) (problem 2 method)
                  let plain, b = run 6 null (problem 2 method)
                  use a = a
                  use b = b
                  Expect.equal (bytes a) (bytes b) "state"
                  Expect.equal (List.map _.BaseLoss watched) (List.map _.BaseLoss plain) "losses"

          testCase "phases exclude each other, and each step has those that it took"
          <| fun _ ->
              let phases (report: StepReport) =
                  [ for struct (phase, _) in report.Telemetry.Phases.Taken -> phase ]

              let sama, state = run 4 (TelemetryOptions()) (problem 2 Hypergradient.sama)
              state.Dispose()

              for report in sama do
                  let t = report.Telemetry
                  Expect.isLessThanOrEqual t.Phases.Total t.Duration "sum of phases"
                  Expect.isGreaterThan t.Phases.Total TimeSpan.Zero "sum of phases"
                  Expect.containsAll (phases report) [ RunPhase.Data; RunPhase.Base; RunPhase.Rule ] "base step"
                  let meta = not (isNull report.Meta)

                  for phase in [ RunPhase.Meta; RunPhase.Perturbed ] do
                      Expect.equal (List.contains phase (phases report)) meta $"{phase}"

                  Expect.isFalse (List.contains RunPhase.Products (phases report)) "SAMA forms no product"

              let products, state =
                  run 2 (TelemetryOptions()) (problem 2 (Hypergradient.neumann 3 0.1))

              state.Dispose()
              Expect.contains (phases products[1]) RunPhase.Products "products"

          for name, method, passes, products in
              [ "sama", Hypergradient.sama, 2, 0
                "one-sided sama",
                Hypergradient.samaWith
                    { SamaOptions.Default with
                        OneSided = true },
                1,
                0
                "t1t2", Hypergradient.t1t2, 1, 1
                "neumann", Hypergradient.neumann 3 0.1, 1, -1
                "conjugate gradients", Hypergradient.conjugateGradient 3, 1, -1
                "unrolled", Hypergradient.unrolled, 2, 4 ] do
              testCase $"passes and products are counted where they are asked for: {name}"
              <| fun _ ->
                  let reports, state = run 2 (TelemetryOptions()) (problem 2 method)
                  state.Dispose()
                  let t, report = reports[1].Telemetry, reports[1].Meta.Response
                  Expect.equal (reports[0].Telemetry.Passes, reports[0].Telemetry.Products) (0, 0) "a base step"
                  Expect.equal t.Passes passes "passes"
                  Expect.equal t.Products (if products < 0 then report.Products else products) "products"

          testCase "examples are the rows of the lowest levels' batches"
          <| fun _ ->
              let x = torch.ones (20L, 3L)

              let problem data =
                  Problem.create
                      { BilevelOptions.Default with
                          Accumulate = 2 }
                      Hypergradient.sama
                      [ Level.create "base" [ "w", torch.zeros 3L ] (sgd 0.1) data (fun _ theta lambda _ ->
                            (theta["w"] * lambda["x"]).square().sum () + theta["w"].sum ())
                        Level.create "meta" [ "x", torch.ones 3L ] (sgd 0.1) ignore (fun _ theta _ () ->
                            theta["w"].sum ()) ]

              let examples data =
                  let reports, state = run 1 (TelemetryOptions()) (problem data)
                  state.Dispose()
                  Expect.isGreaterThanOrEqual reports.Head.Telemetry.ExamplesPerSecond 0.0 "rate"
                  reports.Head.Telemetry.Examples

              let y = torch.ones 20L
              Expect.equal (examples (Batches.shuffled (Rows.tensor x) 5 >> box)) 10L "a tensor"
              Expect.equal (examples (Batches.shuffled (Rows.pair x y) 5 >> box)) 10L "two side by side"
              Expect.equal (examples (Batches.shuffled (Rows.list [| 1..9 |]) 4 >> box)) 8L "a list"
              Expect.equal (examples (fun _ -> box ())) 0L "nothing"

          testCase "the cosine of h is that to the level's h before"
          <| fun _ ->
              // λ moves by −0.1 h
              let problem = quadratic (sgd 0.1) 2 Hypergradient.sama
              use run = new BilevelRun(problem, 1L, Telemetry = TelemetryOptions())
              let mutable h: Tensor = null

              for i in 1..8 do
                  let lambda = run.Lambda.Vector.clone ()
                  let report = run.Step()

                  if not (isNull report.Meta) then
                      let moved = lambda - run.Lambda.Vector

                      if isNull h then
                          Expect.isFalse report.Meta.Cosine.HasValue "the first"
                      else
                          let expected = (moved.dot h / (moved.norm () * h.norm ())).item<float> ()
                          Expect.floatClose Accuracy.medium report.Meta.Cosine.Value expected "cosine"

                      h <- moved

              run.Restore(run.Snapshot())
              run.Step() |> ignore
              Expect.isFalse (run.Step()).Meta.Cosine.HasValue "a run that went on from elsewhere"

          testCase "the meter tells what the reports say"
          <| fun _ ->
              let told, (reports, state) =
                  listened (fun () -> run 6 null (problem 2 Hypergradient.sama))

              state.Dispose()

              let values name =
                  [ for own, value, tag in told do
                        if own = name then
                            value, tag ]

              Expect.equal (values "sama.steps" |> List.sumBy fst) 6.0 "steps"

              Expect.equal
                  (values "sama.loss"
                   |> List.filter (fun (_, level) -> level = lowest)
                   |> List.map fst)
                  [ for r in reports -> r.BaseLoss ]
                  "base losses"

              let metas =
                  [ for r in reports do
                        yield! r.Metas ]

              Expect.equal (values "sama.hypergradient.norm") [ for m in metas -> m.HypergradientNorm, m.Level ] "‖h‖"
              Expect.equal (values "sama.epsilon" |> List.map fst) [ for m in metas -> m.Response.Epsilon.Value ] "ε"
              Expect.equal (values "sama.hypergradient.cosine").Length (metas.Length - 1) "cosine"
              Expect.equal (values "sama.passes" |> List.sumBy fst) 6.0 "passes"
              Expect.equal (values "sama.step.duration").Length 6 "durations"

              let ofPhases = values "sama.phase.duration" |> List.map snd |> List.distinct
              Expect.containsAll ofPhases [ "data"; "base"; "meta"; "perturbed"; "rule"; "other" ] "phases"

              for name in
                  [ "sama.tensors"
                    "sama.memory.resident"
                    "sama.examples.rate"
                    "sama.coordinates.dead"
                    "sama.coordinates.capped"
                    "sama.response.norm" ] do
                  Expect.isNonEmpty (values name) name

          testCase "a pure step and a diagnostic are nobody's"
          <| fun _ ->
              let problem = problem 2 Hypergradient.sama
              use start = Bilevel.start 1L problem

              let told, () =
                  listened (fun () ->
                      (fst (Bilevel.step problem start)).Dispose()
                      (Hypergradient.compute problem start).Dispose())

              Expect.isEmpty told "measurements"

          testCase "spans: one a step, one a phase within it"
          <| fun _ ->
              let ended = List<Activity>()

              use listener =
                  new ActivityListener(
                      ShouldListenTo = (fun source -> source.Name = "Sama"),
                      Sample = (fun _ -> ActivitySamplingResult.AllData),
                      ActivityStopped = (fun span -> ended.Add span)
                  )

              ActivitySource.AddActivityListener listener
              let _, state = run 2 null (problem 2 Hypergradient.sama)
              state.Dispose()

              let steps =
                  ended |> Seq.filter (fun s -> s.OperationName = "sama.step") |> List.ofSeq

              Expect.equal [ for s in steps -> s.GetTagItem "sama.step" ] [ box 1L; box 2L ] "steps"

              let within =
                  [ for s in ended do
                        if s.OperationName <> "sama.step" then
                            s.OperationName ]

              Expect.containsAll
                  within
                  [ "sama.data"; "sama.base"; "sama.meta"; "sama.perturbed"; "sama.rule" ]
                  "phases"

              for span in ended do
                  Expect.equal span.RootId steps[if span.TraceId = steps[0].TraceId then 0 else 1].RootId "root"

          testCase "lines of JSON: every step, what cut them off, and where a run goes on"
          <| fun _ ->
              inFolder (fun folder ->
                  let path = Path.Combine(folder, "new", "run.jsonl")
                  let options = TelemetryOptions(JsonLines = path)
                  let reports, state = run 4 options (problem 2 Hypergradient.sama)
                  let all = lines path
                  Expect.equal (List.map kind all) [ "start"; "step"; "step"; "step"; "step" ] "kinds"

                  for report, line in List.zip reports all.Tail do
                      Expect.equal (number "step" line) (float report.Step) "step"
                      Expect.equal (number "baseLoss" line) report.BaseLoss "base loss"
                      Expect.equal (number "examples" line) (float report.Telemetry.Examples) "examples"

                      let phases = line.GetProperty "phases"
                      Expect.equal (number "base" phases) report.Telemetry.Phases[RunPhase.Base].TotalSeconds "base"

                      if not (isNull report.Meta) then
                          let meta = line.GetProperty("metas").[0]
                          Expect.equal (number "loss" meta) report.Meta.MetaLoss "meta loss"
                          Expect.equal (number "hypergradientNorm" meta) report.Meta.HypergradientNorm "‖h‖"
                          let response = meta.GetProperty("responses").[0]
                          Expect.equal (number "epsilon" response) report.Meta.Response.Epsilon.Value "ε"
                          Expect.equal (number "dead" response) (float report.Meta.Response.Zeros) "dead"

                  // killed in the midst of a line
                  File.AppendAllText(path, """{"kind":"st""")
                  use run = new BilevelRun(problem 2 Hypergradient.sama, state, Telemetry = options)
                  run.Step() |> ignore
                  let last = File.ReadAllLines path |> Array.skip 5
                  Expect.equal last.Length 3 "half a line, a start, a step"
                  Expect.equal (number "step" (JsonDocument.Parse(last[1]).RootElement)) 4.0 "where it went on"
                  Expect.equal (number "step" (JsonDocument.Parse(last[2]).RootElement)) 5.0 "the step"
                  state.Dispose())

          testCase "lines every so many steps, and each step that is left out"
          <| fun _ ->
              inFolder (fun folder ->
                  let problem =
                      Problem.create
                          { unrollBy 1 with
                              NonFinite = NonFinitePolicy.Skip }
                          Hypergradient.sama
                          [ Level.create "base" [ "w", torch.ones 3L ] (sgd 0.1) id (fun _ theta lambda draw ->
                                (theta["w"] * lambda["x"]).square().sum ()
                                * scalar (if draw.Step = 4L then nan else 1.0))
                            Level.create "meta" [ "x", torch.ones 3L ] (sgd 0.1) ignore (fun _ theta _ () ->
                                theta["w"].square().sum ()) ]

                  let path = Path.Combine(folder, "run.jsonl")
                  let _, state = run 7 (TelemetryOptions(JsonLines = path, Every = 3L)) problem
                  state.Dispose()
                  let steps = lines path |> List.tail
                  Expect.equal (List.map (number "step") steps) [ 3.0; 5.0; 6.0 ] "steps"
                  Expect.stringContains (steps[1].GetProperty("skipped").GetString()) "level 'base'" "why")

          testCase "TensorBoard's files read back"
          <| fun _ ->
              inFolder (fun folder ->
                  let options = TelemetryOptions(TensorBoard = folder, TensorBoardEvery = 2L)
                  let reports, state = run 5 options (problem 2 Hypergradient.sama)
                  state.Dispose()
                  let events = events folder
                  Expect.equal events.Head.FileVersion "brain.Event:2" "version"

                  let curve tag =
                      [ for e in events do
                            if not (isNull e.Summary) then
                                for value in e.Summary.Value do
                                    if value.Tag = tag then
                                        e.Step, value.SimpleValue ]

                  let expected (value: StepReport -> float) =
                      [ for r in reports do
                            if r.Step % 2L = 0L then
                                r.Step, float32 (value r) ]

                  Expect.equal (curve $"loss/{lowest}") (expected _.BaseLoss) "base loss"
                  Expect.equal (curve $"loss/{highest}") (expected _.Meta.MetaLoss) "meta loss"
                  Expect.equal (curve $"hypergradient/{highest}/norm") (expected _.Meta.HypergradientNorm) "‖h‖"
                  Expect.equal (curve $"response/{highest}/epsilon") (expected _.Meta.Response.Epsilon.Value) "ε"

                  for tag in
                      [ "seconds/step"
                        "seconds/base"
                        "seconds/perturbed"
                        "memory/resident"
                        "memory/tensors"
                        "examples per second" ] do
                      Expect.equal (curve tag).Length 2 tag

                  let now = float (DateTimeOffset.UtcNow.ToUnixTimeSeconds())
                  Expect.isLessThan (abs ((List.last events).WallTime - now)) 600.0 "seconds since 1970")

          testCase "options out of range are refused by name"
          <| fun _ ->
              use run = new BilevelRun(problem 2 Hypergradient.sama, 1L)

              for options, name in
                  [ TelemetryOptions(Every = 0L), "Every"
                    TelemetryOptions(TensorBoardEvery = -1L), "TensorBoardEvery" ] do
                  Expect.throwsC (fun () -> run.Telemetry <- options) (function
                      | :? ArgumentException as e -> Expect.equal e.ParamName name ""
                      | e -> failtest $"{e}")

          testCase "10,000 watched steps leave no tensor behind"
          <| fun _ ->
              inFolder (fun folder ->
                  let options =
                      TelemetryOptions(
                          JsonLines = Path.Combine(folder, "run.jsonl"),
                          TensorBoard = folder,
                          TensorBoardEvery = 100L
                      )

                  use run =
                      new BilevelRun(quadratic (adam 0.1) 10 Hypergradient.sama, 1L, Telemetry = options)

                  let steps count =
                      for _ in 1..count do
                          run.Step() |> ignore

                      Tensor.TotalCount

                  // what other tests left goes whenever finalizers run
                  let before = steps 100
                  Expect.isLessThanOrEqual (steps 9_900) before "tensors alive"
                  Expect.equal (File.ReadAllLines options.JsonLines).Length 10_001 "lines") ]
