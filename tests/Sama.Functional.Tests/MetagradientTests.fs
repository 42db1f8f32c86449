/// Metagradients of whole trainings, against plain reverse mode through everything, differences, and unrolled windows.
module Sama.Tests.MetagradientTests

open System
open System.IO
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Benchmarks
open Sama.Tests.Problems

let private rows = 24L
let private x, y = normal 80L [| rows; 4L |], normal 81L [| rows |]
let private metaX, metaY = normal 82L [| 30L; 4L |], normal 83L [| 30L |]

let private output (theta: Params) (drop: float) (x: Tensor) =
    let hidden = torch.nn.functional.linear(x, theta["a"], theta["b"]).tanh ()

    torch.nn.functional.dropout(hidden, drop, true).mv theta["c"]

/// Losses of a batch's rows; weights are of the row, and of its loss, which is not differentiated.
let private losses theta (batch: Tensor) =
    square (output theta 0.2 (x.index_select (0L, batch)) - y.index_select (0L, batch))

let private weights (lambda: Params) (feature: Tensor) (batch: Tensor) =
    (lambda["w"].index_select (0L, batch) + feature * lambda["s"]).sigmoid ()

let private batch (draw: Draw) =
    use g = generator draw.RandomSeed
    torch.randint (rows, [| 6L |], dtype = torch.int64, generator = g)

let private metaLoss theta (lambda: Params) =
    square(output theta 0.0 metaX - metaY).mean ()
    + square(lambda["w"]).sum () * 1e-2

let private thetas =
    [ "a", normal 84L [| 5L; 4L |]
      "b", normal 85L [| 5L |]
      "c", normal 86L [| 5L |] ]

let private lambdas =
    [ "w", normal 87L [| rows |]; "s", torch.full (1L, 0.3, dtype = f64) ]

let private problemWith (data: Draw -> Tensor) unroll accumulate rule =
    Problem.create
        { BilevelOptions.Default with
            Unroll = unroll
            Accumulate = accumulate }
        Hypergradient.sama
        [ Level.create "base" thetas rule data (fun pass theta lambda batch ->
              let own = losses theta batch
              (weights lambda (pass.Stop("losses", own)) batch * own).mean ())
          Level.create "meta" lambdas (sgd 0.1) ignore (fun _ theta lambda () -> metaLoss theta lambda) ]

let private problem = problemWith batch

let private momentum =
    sgdWith
        { SgdOptions.Default with
            LearningRate = 0.05
            Momentum = 0.9 }

/// One step of a rule on tensors in a graph, t from 1.
type private Written = int64 -> Tensor -> Map<string, Tensor> -> Tensor -> Tensor * Map<string, Tensor>

let private writtenAdam: Written =
    fun t theta state g ->
        let m = state["exp_avg"] * 0.9 + g * 0.1
        let s = state["exp_avg_sq"] * 0.999 + square g * 0.001

        let mean, root =
            m / (1.0 - Math.Pow(0.9, float t)), (s / (1.0 - Math.Pow(0.999, float t))).sqrt ()

        theta - mean / (root + 1e-8) * 0.02, Map [ "exp_avg", m; "exp_avg_sq", s ]

let private writtenMomentum: Written =
    fun _ theta state g ->
        let v = (Map.toList state |> List.head |> snd) * 0.9 + g
        theta - v * 0.05, state |> Map.map (fun _ _ -> v)

/// dL/dλ and dL/dθ₀ with the graph of the whole training.
let private throughEverything (problem: BilevelProblem) (state: RunState) steps (rule: Written) =
    let theta0, lambda = Autodiff.leaf state.Theta, Autodiff.leaf state.Lambda

    let shaped (i: int) v =
        Params.traced problem.Levels[i].Layout v

    let own = state.Levels[0].Rule
    let mutable theta = theta0 * 1.0
    let mutable rest = Map [ for t in own.Tensors -> t.Key, t.Value.detach () ]
    let micros = problem.Options.Accumulate

    for t in 0 .. steps - 1 do
        let g =
            [ for micro in 0 .. micros - 1 do
                  let draw = Problem.draw problem state.Seed 0 (state.Step + int64 t) micro

                  Draw.masks draw (fun () ->
                      let rows = batch draw
                      let each = losses (shaped 0 theta) rows
                      let seed = weights (shaped 1 lambda) each rows / float (6 * micros)

                      (torch.autograd.grad ([| each |], [| theta |], [| seed |], true, true))[0]) ]
            |> List.reduce (+)

        let next, left = rule (own.Count + int64 t + 1L) theta rest g
        theta <- next
        rest <- left

    let loss = metaLoss (shaped 0 theta) (shaped 1 lambda)
    torch.autograd.backward ([| loss |], null, Nullable false, false, [| lambda; theta0 |])
    Number.read loss, lambda.grad, theta0.grad

let private warm problem =
    let state = Bilevel.start 5L problem
    // behind the first step, where the derivative of Adam's root is rounding
    fst (Bilevel.step problem state)

let private oracleTests =
    [ for name, rule, written in
          [ "adam", adam 0.02, writtenAdam
            "sgd with momentum", momentum, writtenMomentum ] do
          for unroll in [ 1; 7 ] do
              for accumulate in [ 1; 2 ] do
                  testCase $"{name}, K = {unroll}, {accumulate} micro-batches: = reverse mode through 50 steps at once"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()
                      let problem = problem unroll accumulate rule
                      use state = warm problem
                      let loss, ofLambda, ofTheta = throughEverything problem state 50 written

                      for memory in [ 0; 3; 60 ] do
                          use found =
                              Metagradient.ofTrainingWith
                                  { MetagradientOptions.Default with
                                      Memory = memory }
                                  problem
                                  state
                                  50

                          Expect.isLessThan (abs (found.Loss - loss)) 1e-12 "loss"
                          Expect.isLessThan (distance found.Lambda ofLambda) 1e-10 $"λ, {memory} states"
                          Expect.isLessThan (distance found.Theta ofTheta) 1e-10 $"θ₀, {memory} states"
                          Expect.equal found.Report.Taken (Revolve.taken (memory + 1) 50 + 1L) "steps taken"
                          Expect.isLessThanOrEqual found.Report.InMemory memory "states"

                      use differences =
                          Metagradient.ofTrainingWith
                              { MetagradientOptions.Default with
                                  Products = ProductForm.Differences }
                              problem
                              state
                              50

                      Expect.isLessThan (distance differences.Lambda ofLambda) 1e-6 "by differences"
                      Expect.equal differences.Report.ProductForm ProductForm.Differences "" ]

/// A training of many steps of one number: θ ← θ − 0.01 λ₀ (θ − λ₁ sin t).
let private tiny () =
    let lambda = torch.tensor [| 0.7; -0.4 |]

    Problem.create
        BilevelOptions.Default
        Hypergradient.sama
        [ Level.create
              "base"
              [ "x", torch.full (1L, 2.0, dtype = f64) ]
              (adam 0.01)
              (fun (draw: Draw) -> torch.tensor [| sin (float draw.Step) |])
              (fun _ theta lambda wave ->
                  let miss = theta["x"] - wave * lambda["l"].[1L]
                  ((square miss + 1.0).sqrt () * lambda["l"].[0L].exp ()).sum ())
          Level.create "meta" [ "l", lambda ] (sgd 0.1) ignore (fun _ theta _ () -> square(theta["x"] - 0.3).sum ()) ]

let private folder () =
    Path.Combine(Path.GetTempPath(), $"sama-metagradient-{Guid.NewGuid():N}")

let private onDisk path =
    { MetagradientOptions.Default with
        Memory = 2
        Disk = 4
        Folder = path }

/// Data that break off once so many batches were fetched.
let private breaking (limit: int ref) (draw: Draw) =
    limit.Value <- limit.Value - 1

    if limit.Value < 0 then
        raise (OperationCanceledException "broken off")

    batch draw

let private throws words (body: unit -> unit) =
    Expect.throwsC body (fun e ->
        for word: string in words do
            Expect.stringContains e.Message word "")

let private passed (rows: Faults.Row list) =
    Expect.isNonEmpty rows "rows"

    for row in rows do
        Expect.isTrue row.Passed $"{row.Case}: {row.Detail}"

let private folderTests =
    [ testCase "from a folder: the bits of memory alone, nothing left in it"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let problem = problem 1 1 (adam 0.02)
          use state = warm problem
          use memory = Metagradient.ofTraining problem state 40
          let path = folder ()
          use found = Metagradient.ofTrainingWith (onDisk path) problem state 40
          Expect.isTrue (found.Lambda.Equals memory.Lambda && found.Theta.Equals memory.Theta) "bits"
          Expect.equal (found.Report.InMemory, found.Report.OnDisk) (2, 4) "states"
          Expect.isEmpty (Directory.GetFiles path) "the folder"
          Directory.Delete path

      testCase "broken off anywhere, it goes on from the folder to the same bits"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let limit = ref Int32.MaxValue
          let problem = problemWith (breaking limit) 1 1 (adam 0.02)
          use state = warm problem
          use whole = Metagradient.ofTraining problem state 40
          let all = int whole.Report.Taken + 40

          for at in [ 3; 20; 45; all - 3 ] do
              let path = folder ()
              limit.Value <- at

              Expect.throwsT<OperationCanceledException>
                  (fun () -> (Metagradient.ofTrainingWith (onDisk path) problem state 40).Dispose())
                  "broken off"

              limit.Value <- Int32.MaxValue
              // what a killed process leaves half written
              File.WriteAllText(Path.Combine(path, $"place-000000001.safetensors.{Guid.NewGuid():N}.tmp"), "half")

              if at > 40 then
                  throws [ path; "another training" ] (fun () ->
                      (Metagradient.ofTrainingWith (onDisk path) problem state 41).Dispose())

              use found = Metagradient.ofTrainingWith (onDisk path) problem state 40
              Expect.isTrue (found.Lambda.Equals whole.Lambda && found.Theta.Equals whole.Theta) $"bits, at {at}"
              Expect.equal found.Loss whole.Loss "loss"
              Expect.equal found.Report.Resumed (at > 3) "said"
              Expect.isEmpty (Directory.GetFiles path) "the folder"
              Directory.Delete path

      testCase "processes that are killed, in writing too, go on to the bits of the one that was not"
      <| fun _ -> passed (Faults.Kills.run (Random 11) Faults.Trainings.all.Head 3)

      testCase "damaged files are named; without them the end is the same"
      <| fun _ -> passed (Faults.Damages.ofTrainings (Random 11) 12) ]

let private refusals =
    [ testCase "a step that is not taken again alike is refused"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let random = Random 1

          let noisy (draw: Draw) =
              // the same at each first time, another one later
              if draw.Step = 7L then
                  torch.tensor [| random.NextInt64 rows |]
              else
                  batch draw

          let problem = problemWith noisy 1 1 (adam 0.02)
          use state = Bilevel.start 5L problem

          throws [ "base"; "step 7"; "same bits"; "draw" ] (fun () ->
              (Metagradient.ofTrainingWith
                  { MetagradientOptions.Default with
                      Memory = 2 }
                  problem
                  state
                  20)
                  .Dispose())

      testCase "what cannot be served is refused by name"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let own = problem 1 1 (adam 0.02)
          use state = Bilevel.start 5L own

          let run o steps =
              (Metagradient.ofTrainingWith o own state steps).Dispose()

          throws [ "steps"; "at least 1" ] (fun () -> run MetagradientOptions.Default 0)

          throws [ "Memory"; "at least 0" ] (fun () ->
              run
                  { MetagradientOptions.Default with
                      Memory = -1 }
                  5)

          throws [ "Disk"; "at least 1" ] (fun () -> run { onDisk "x" with Disk = 0 } 5)

          let with' change =
              { own with
                  Levels = Array.updateAt 0 (change own.Levels[0]) own.Levels }

          let refused words other =
              throws words (fun () -> (Metagradient.ofTraining other state 5).Dispose())

          refused [ "starts anew" ] (with' (Level.resetTo (fun levels -> levels["base"].Vector)))
          refused [ "leaves out" ] (with' (Level.steps 1))

          let one = Problem.create BilevelOptions.Default Hypergradient.sama [ own.Levels[0] ]

          refused [ "two levels"; "1" ] one ]

let tests =
    testList
        "metagradients"
        [ testCase "revolve: as few steps as the formula says, from as many places as there may be"
          <| fun _ ->
              for places in 1..6 do
                  for steps in [ 1; 2; 3; 7; 20; 57; 100 ] do
                      let mutable at, taken, most = 0, 0L, 0
                      let reversed, kept = ResizeArray<int>(), Collections.Generic.HashSet [ 0 ]

                      let steppable =
                          { new IReversible with
                              member _.Advance step =
                                  Expect.equal step at "stands there"
                                  at <- step + 1
                                  taken <- taken + 1L

                              member _.Keep(step, depth) =
                                  Expect.equal (step, depth) (at, kept.Count) "stands there"
                                  kept.Add step |> ignore
                                  most <- max most kept.Count

                              member _.Restore step =
                                  Expect.isTrue (kept.Contains step) "kept"
                                  at <- step

                              member _.Drop step = Expect.isTrue (kept.Remove step) "kept"

                              member _.Reverse step =
                                  Expect.equal step at "stands there"
                                  reversed.Add step }

                      Revolve.run places [ 0 ] steps steppable
                      Expect.equal (List.ofSeq reversed) [ steps - 1 .. -1 .. 0 ] "order"
                      Expect.equal taken (Revolve.taken places steps) $"{steps} steps from {places}"
                      Expect.isLessThanOrEqual most places "places"
                      Expect.isEmpty kept "all dropped"

              // the fewest there can be, by trying every split
              let least = Collections.Generic.Dictionary<struct (int * int), int64>()

              let rec fewest steps places =
                  match least.TryGetValue(struct (steps, places)) with
                  | true, known -> known
                  | _ ->
                      let found =
                          if steps = 1 then
                              0L
                          elif places = 1 then
                              int64 steps * int64 (steps - 1) / 2L
                          else
                              seq {
                                  for m in 1 .. steps - 1 -> int64 m + fewest (steps - m) (places - 1) + fewest m places
                              }
                              |> Seq.min

                      least[struct (steps, places)] <- found
                      found

              for places in 1..6 do
                  for steps in 1..60 do
                      Expect.equal (Revolve.taken places steps) (fewest steps places) $"{steps} from {places}"

              Expect.equal (Revolve.times 21 10_000) 4 "20 states and the start: four times at most"

          yield! oracleTests

          testCase "= unrolled over one window of that length"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let window = problem 12 2 (adam 0.02) |> Problem.withMethod Hypergradient.unrolled
              use state = Bilevel.start 5L window
              use expected = Hypergradient.compute window state
              use found = Metagradient.ofTraining window state 12
              Expect.isLessThan (distance found.Lambda expected.Total) 1e-13 "total"
              Expect.isLessThan (distance found.Direct expected.Direct) 1e-13 "direct"

          testCase "= central differences of 1,000 steps of Adam, and says how predictive it is"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let problem = tiny ()
              use state = Bilevel.start 2L problem
              use found = Metagradient.ofTraining problem state 1000

              let loss (lambda: Tensor) =
                  Metagradient.lossOfTraining problem (RunState.at 1 lambda state) 1000

              let slopes =
                  [| for i in 0L .. 1L do
                         let d = torch.zeros (2L, dtype = f64)
                         d[i] <- torch.tensor 1e-5
                         (loss (state.Lambda + d) - loss (state.Lambda - d)) / 2e-5 |]

              Expect.isLessThan (distance found.Lambda (torch.tensor slopes)) 1e-6 "λ"
              Expect.equal (loss state.Lambda) found.Loss "the loss that it is the derivative of"

              let tried = Metagradient.smoothness problem state 1000 found [ 1e-5; 1e-1 ]
              Expect.isLessThan tried[0].RelativeError 1e-3 "a short step"
              Expect.isGreaterThan tried[1].RelativeError tried[0].RelativeError "a long one"

          testCase "every rule = central differences of the training done again"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let rules =
                  [ adamW 0.02 0.1
                    adafactor 0.02
                    lamb 0.02
                    rmsprop 0.01
                    asgd 0.02
                    UpdateRule.chain [ clipByGlobalNorm 0.05; sgd 0.1 ]
                    UpdateRule.learning "LearningRate" (fun l -> l["s"].exp () * 0.02) (adam 0.02) ]

              for rule in rules do
                  let problem = problem 3 1 rule
                  use state = Bilevel.start 5L problem
                  use found = Metagradient.ofTraining problem state 15
                  let d = normal 88L [| state.Lambda.numel () |]

                  let loss delta =
                      Metagradient.lossOfTraining problem (RunState.at 1 (state.Lambda + d * delta) state) 15

                  let slope = (loss 1e-5 - loss -1e-5) / 2e-5
                  let own = Number.read (found.Lambda.dot d)
                  Expect.isLessThan (abs (own / slope - 1.0)) 1e-5 $"{rule.Name}: {own}, {slope}"

          testCase "a module with batch norm and dropout: buffers as in the run, nothing left behind"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              torch.random.manual_seed 73L |> ignore

              let net =
                  torch.nn.Sequential(
                      torch.nn.Linear(4L, 5L, dtype = f64),
                      torch.nn.BatchNorm1d(5L, dtype = f64),
                      torch.nn.Tanh(),
                      torch.nn.Dropout 0.2,
                      torch.nn.Linear(5L, 1L, dtype = f64)
                  )

              let problem =
                  Problem.create
                      { BilevelOptions.Default with
                          Unroll = 4 }
                      Hypergradient.sama
                      [ Level.ofModuleGeneral "net" net (adam 0.02) batch (fun _ levels rows ->
                            let out = net.call(x.index_select (0L, rows)).squeeze 1L
                            let w = levels["meta"].["w"].index_select(0L, rows).sigmoid ()
                            (square (out - y.index_select (0L, rows)) * w).mean ())
                        Level.general "meta" [ "w", normal 87L [| rows |] ] (sgd 0.1) ignore (fun _ _ () ->
                            square(net.call(metaX).squeeze 1L - metaY).mean ()) ]

              use state = Bilevel.start 5L problem

              let bytes () =
                  Checksum.ofTensors
                      [ for struct (_, t) in net.named_buffers () do
                            t
                        for struct (_, t) in net.named_parameters () do
                            t ]

              let before = bytes ()

              use found =
                  Metagradient.ofTrainingWith
                      { MetagradientOptions.Default with
                          Memory = 2 }
                      problem
                      state
                      12

              Expect.equal (bytes ()) before "the module"
              let d = normal 88L [| rows |]

              let loss delta =
                  Metagradient.lossOfTraining problem (RunState.at 1 (state.Lambda + d * delta) state) 12

              let slope = (loss 1e-4 - loss -1e-4) / 2e-4
              Expect.isLessThan (abs (Number.read (found.Lambda.dot d) / slope - 1.0)) 1e-5 "λ"
              GC.Collect()
              GC.WaitForPendingFinalizers()
              let live = Tensor.TotalCount
              (Metagradient.ofTraining problem state 12).Dispose()
              Expect.equal Tensor.TotalCount live "live tensors"

          yield! folderTests
          yield! refusals

          for start in [ 1e-3; 0.05; 12.0; 1e3 ] do
              testCase $"descend: a rate that starts at {start} ends within 1 %% of the best of a grid of 200"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()
                  let h = torch.linspace (0.2, 1.5, 6L, dtype = f64)
                  let b = normal 90L [| 6L |]

                  let loss (theta: Params) =
                      (theta["x"].square () * h / 2.0 - theta["x"] * b).sum ()

                  let rule = sgd 1.0 |> UpdateRule.learning "LearningRate" (fun l -> l["log"].exp ())

                  let problem =
                      Problem.create
                          BilevelOptions.Default
                          Hypergradient.sama
                          [ Level.create "base" [ "x", torch.zeros (6L, dtype = f64) ] rule ignore (fun _ theta _ () ->
                                loss theta)
                            Level.create
                                "rate"
                                [ "log", torch.full (1L, log start, dtype = f64) ]
                                (sgd 1.0)
                                ignore
                                (fun _ theta _ () -> loss theta) ]

                  use state = Bilevel.start 0L problem

                  let at (log: float) =
                      use moved = torch.full (1L, log, dtype = f64)
                      Metagradient.lossOfTraining problem (RunState.at 1 moved state) 15

                  let best = Seq.min [ for i in 0..199 -> at (-3.0 + 5.0 * float i / 199.0) ]
                  GC.Collect()
                  GC.WaitForPendingFinalizers()
                  let live = Tensor.TotalCount
                  let found = Metagradient.descend problem state 15

                  Expect.equal
                      (Metagradient.lossOfTraining problem (RunState.at 1 found.Lambda state) 15)
                      found.Loss
                      "its λ"

                  Expect.isLessThanOrEqual found.Loss (best + 0.01 * abs best) $"{found.Loss}, best {best}"
                  Expect.isTrue found.Converged "converged"
                  Expect.isLessThanOrEqual (found.Trainings + found.Metagradients) 40 "work"
                  found.Dispose()
                  Expect.equal Tensor.TotalCount live "live tensors"

                  throws [ "Radius" ] (fun () ->
                      Metagradient.descendWith
                          { DescentOptions.Default with
                              Radius = 0.0 }
                          problem
                          state
                          15
                      |> ignore)

          for side in [ 1.0; -1.0 ] do
              for far in [ 1.8; 2.0; 2.3; 3.0 ] do
                  testCase $"descend: a plateau {side * far} off that promises nothing is left"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()

                      // a loss of 2.3 and slightly bent on one side of a cliff 0.3 beside the minimum at 0
                      let loss (at: Tensor) =
                          let x = at * side
                          let cliff = ((x - 0.3) / 0.1).sigmoid ()

                          ((x - 1.0).square () * 0.01 + 2.3) * cliff
                          + (1.0 - cliff) * (0.2 + x.square () * 0.05)

                      let value (at: Tensor) = (loss at).item<float> ()

                      let slope (at: Tensor) =
                          let at = at.detach().clone().requires_grad_ true
                          Some((torch.autograd.grad ([| loss at |], [| at |]))[0])

                      let at, found, converged =
                          TrainingDescent.minimise
                              DescentOptions.Default
                              value
                              slope
                              (fun _ -> failwith "finite")
                              ignore
                              (torch.full (1L, side * far, dtype = f64))

                      Expect.equal found (value at) "its λ"

                      let best =
                          Seq.min [ for i in -100 .. 100 -> value (torch.full (1L, float i / 100.0, dtype = f64)) ]

                      Expect.isLessThanOrEqual found (best * 1.01) "the best of a grid"
                      Expect.isTrue converged "converged"

          testCase "LDS of exact scores is 1, of their negatives −1, with ties of nothing NaN"
          <| fun _ ->
              let truth = [| for i in 0..19 -> sin (float i) |]

              let found =
                  Metagradient.retrained 20 0.3 12 4 (fun keep ->
                      Expect.equal (keep |> Array.filter not |> Array.length) 6 "dropped"
                      exp (Array.fold2 (fun sum k s -> if k then sum + s else sum) 0.0 keep truth))

              Expect.floatClose Accuracy.high (found.Lds truth) 1.0 "the truth, monotonously"
              Expect.floatClose Accuracy.high (found.Lds(truth |> Array.map (~-))) -1.0 "against it"
              Expect.isTrue (Double.IsNaN(found.Lds(Array.zeroCreate 20))) "nothing"
              throws [ "19 scores"; "20" ] (fun () -> found.Lds(Array.zeroCreate 19) |> ignore)
              throws [ "row 3" ] (fun () -> found.Lds(Array.updateAt 3 nan truth) |> ignore)

              throws [ "fraction" ] (fun () -> Metagradient.retrained 20 1.0 2 1 (fun _ -> 0.0) |> ignore)
              throws [ "subset 0"; "NaN" ] (fun () -> Metagradient.retrained 20 0.1 2 1 (fun _ -> nan) |> ignore) ]
