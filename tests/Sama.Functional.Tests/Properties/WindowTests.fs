/// Windows of every method: nothing leaks, warm-up moves nothing above, micro-batches count alike.
module Sama.Tests.WindowTests

open System
open System.Collections.Generic
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems
open Sama.Benchmarks.Matrix
open Sama.Benchmarks.Matrix.Subject

/// Live tensors do not grow by `work`, behind a first time. Nothing is collected before they are counted: a finalizer
/// would free what was leaked.
let private constant what times (work: unit -> unit) =
    work ()
    GC.Collect()
    GC.WaitForPendingFinalizers()
    let before = Tensor.TotalCount

    for _ in 1..times do
        work ()

    Expect.equal Tensor.TotalCount before $"{what}: live tensors behind {times} times"

let private windows =
    [ { standard with
          Name = "K = 3"
          Unroll = 3 }
      { standard with
          Name = "two micro-batches, stop-feature, K = 2"
          Unroll = 2
          Accumulate = 2
          Stop = true }
      { standard with
          Name = "module, K = 3"
          Unroll = 3
          Module = true } ]

let private ruled name =
    Rules.all |> List.find (fun (rule: Rules.Rule) -> rule.Name = name)

/// The matrix has methods of two once at a meta step of each.
let private titled: (string * Cells.Subject) list =
    Cells.methods
    |> List.groupBy _.Name
    |> List.collect (fun (name, own) ->
        own
        |> List.mapi (fun i method -> (if i = 0 then name else $"{name}, {i + 1}"), method))

let private leaks (title: string, method: Cells.Subject) (way: Way) (rule: Rules.Rule) =
    testCase $"{title} under {rule.Name}, {way.Name}: no tensor more a window"
    <| fun _ ->
        use _ = torch.NewDisposeScope()
        let problem = problemUnder (sgd 1e-4) way rule.Update (method.Method way).Value
        use first = Bilevel.start seed problem
        use run = new BilevelRun(problem, seed)

        constant "in place" 5 (fun () ->
            for _ in 1 .. way.Unroll do
                run.Step() |> ignore)

        constant "inside the window" 3 (fun () ->
            run.Step() |> ignore
            use inside = run.Snapshot()
            use other = new BilevelRun(problem, inside)

            for _ in 2 .. way.Unroll do
                run.Step() |> ignore
                other.Step() |> ignore)

        constant "a run left inside its window" 3 (fun () ->
            use short = new BilevelRun(problem, first)
            short.Step() |> ignore)

        constant "pure" 3 (fun () ->
            let next, _ = Bilevel.step problem first
            next.Dispose())

        constant "compute" 3 (fun () -> (Hypergradient.compute problem first).Dispose())

/// A problem whose base loss is linear in its batch, so that micro-batches of rows and their union can be told alike.
let private rowed accumulate (rows: Draw -> Tensor) rule method =
    let x, y = normal 31L [| 12L; 4L |], normal 32L [| 12L |]

    Problem.create
        { BilevelOptions.Default with
            Accumulate = accumulate
            Unroll = 2 }
        method
        [ Level.create "base" [ "w", normal 33L [| 4L |] ] rule rows (fun _ theta lambda rows ->
              let miss = x.index_select(0L, rows).mv theta["w"] - y.index_select (0L, rows)
              (square miss).mean () + (lambda["x"].exp () * square theta["w"]).sum ())
          Level.create "meta" [ "x", torch.zeros (4L, dtype = f64) ] (sgd 0.1) ignore (fun _ theta lambda () ->
              (square (x.mv theta["w"] - y)).mean () + square(lambda["x"]).sum () * 0.1) ]

let private rowsFrom (first: int64) (count: int64) =
    torch.arange (first, first + count, dtype = torch.int64)

/// Three micro-batches of four rows, and all twelve.
let private parts = 3, (fun (draw: Draw) -> rowsFrom (4L * (draw.Step % 3L)) 4L)

let private union = 1, (fun (_: Draw) -> rowsFrom 0L 12L)

let private trained (accumulate, rows) rule method =
    use run = new BilevelRun(rowed accumulate rows rule method, 1L)
    let reports = [ for _ in 1..4 -> run.Step() ]
    Sama.Suite.toVector run.Theta.Vector, Sama.Suite.toVector run.Lambda.Vector, reports |> List.map _.BaseLoss

let private methods: (string * HypergradientMethod) list =
    [ for title, method in titled do
          match method.Name with
          // its diagonal is of each micro-batch's own gradient
          | "samaFisher" -> ()
          | "nystrom" -> "nystrom", Hypergradient.nystrom 2
          | _ -> title, (method.Method { standard with Unroll = 2 }).Value ]

/// θ under ½λ(θ − c)² in bfloat16, its steps and dθ/dλ: bfloat16 sees θ in steps of 2⁻⁷ and all else exactly.
let private narrowRecursion (rate: float) (lambda: float) (c: float) (theta: float) steps =
    let seen (theta: float) = Math.Round(theta * 128.0) / 128.0

    ((theta, 0.0), [ 1..steps ])
    ||> List.fold (fun (theta, slope) _ ->
        let miss = seen theta - c
        theta - rate * lambda * miss, slope - rate * (lambda * slope + miss))

let tests =
    testList
        "windows"
        [ testCase "under bfloat16 passes reverse mode goes through the steps that were taken"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let one (x: float) = torch.tensor ([| float32 x |])
              let rate, lambda, c, theta = 1.0 / 64.0, 0.5, 1.0 - 1.0 / 128.0, 1.0035

              for steps in [ 1; 3 ] do
                  for recompute in [ false; true ] do
                      let problem =
                          Problem.create
                              { BilevelOptions.Default with
                                  Unroll = steps
                                  Precision = Precision.BFloat16 }
                              (Hypergradient.unrolledWith
                                  { UnrolledOptions.Default with
                                      Recompute = recompute })
                              [ Level.create "base" [ "w", one theta ] (sgd rate) ignore (fun _ theta lambda () ->
                                    (square (theta["w"] - c) * lambda["x"] * 0.5).sum ())
                                Level.create "meta" [ "x", one lambda ] (sgd 1.0) ignore (fun _ theta _ () ->
                                    theta["w"].sum ()) ]

                      use run = new BilevelRun(problem, 1L)

                      for _ in 1..steps do
                          run.Step() |> ignore

                      let after, slope = narrowRecursion rate lambda c theta steps
                      Expect.isLessThan (abs (Number.read run.Theta["w"] - after)) 1e-6 "θ"
                      // float32 would see 1.0035, and a slope half as long again
                      let found = lambda - Number.read run.Lambda["x"]
                      Expect.isLessThan (abs (found / slope - 1.0)) 0.01 $"{steps} steps: {found} and {slope}"

          for title, method in titled do
              for way in windows do
                  if not (way.Module && method.Second) then
                      leaks (title, method) way (ruled "adam")

              if not method.Elementwise then
                  leaks (title, method) windows[0] (ruled "groups, one coupled")

          for name, used in methods do
              testCase $"{name}: equal micro-batches = their union"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()

                  for rule in [ sgd 0.1; adam 0.05 ] do
                      let theta, lambda, losses = trained parts rule used
                      let theta', lambda', losses' = trained union rule used
                      let near = Sama.Reference.Numbers.relativeError
                      Expect.isLessThan (near theta theta') 1e-9 "θ"
                      Expect.isLessThan (near lambda lambda') 1e-7 "λ"
                      List.iter2 (fun (a: float) b -> Expect.floatClose Accuracy.high a b "base loss") losses losses'

          testCase "a base step's gradient is the mean of its micro-batches', its loss their mean"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let start = Sama.Suite.toVector (normal 33L [| 4L |])

              let one (rows: Draw -> Tensor) accumulate =
                  use run = new BilevelRun(rowed accumulate rows (sgd 0.1) Hypergradient.samaNa, 1L)
                  let report = run.Step()
                  Sama.Suite.toVector run.Theta.Vector - start, report.BaseLoss

              let each = [ for i in 0L .. 2L -> one (fun _ -> rowsFrom (4L * i) (4L - i)) 1 ]
              let move, loss = one (fun draw -> rowsFrom (4L * draw.Step) (4L - draw.Step)) 3
              let expected = (each |> List.map fst |> List.reduce (+)) / 3.0

              Expect.isLessThan
                  (Sama.Reference.Numbers.relativeError move expected)
                  1e-13
                  "of unequal lengths, each counts alike"

              Expect.floatClose Accuracy.veryHigh loss (each |> List.averageBy snd) "loss"

          testCase "SAMA-Fisher's diagonal is the mean of the micro-batches' squares"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let gradients = List<Tensor>()

              let watched =
                  Hypergradient.create "watched" [] (fun at v ->
                      gradients.Add(at.SquaredGradient().DetachFromDisposeScope())
                      gradients.Add(at.Gradient.clone().DetachFromDisposeScope())
                      at.LambdaGradient at.Theta * 0.0 + v.sum () * 0.0, Report.empty "watched")

              let squares (accumulate, rows) =
                  gradients.Clear()
                  let problem = rowed accumulate rows (sgd 0.1) watched
                  use start = Bilevel.start 1L problem
                  (Hypergradient.compute problem start).Dispose()
                  gradients[0], gradients[1]

              let each =
                  [ for i in 0L .. 2L -> snd (squares (1, (fun _ -> rowsFrom (4L * i) 4L))) ]

              let found, _ = squares parts
              let expected = (each |> List.map square |> List.reduce (+)) / 3.0
              Expect.isLessThan (distance found expected) 1e-13 ""

          for unroll in [ 1; 3 ] do
              testCase $"warm-up: λ and its rule keep their bits until the first whole window behind it, K = {unroll}"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()

                  for warmUp in [ 0L; 1L; 2L; 5L; 6L ] do
                      let problem =
                          quadraticWith
                              { BilevelOptions.Default with
                                  Unroll = unroll
                                  WarmUp = warmUp }
                              (adam 0.05)
                              Hypergradient.sama

                      use run = new BilevelRun(problem, 1L)
                      use start = run.Snapshot()

                      // the first window that begins at warm-up's end or behind it
                      let k = int64 unroll
                      let first = (warmUp + k - 1L) / k * k + k

                      for step in 1L .. first do
                          let report = run.Step()
                          let moved = not (run.Lambda.Vector.Equals start.Lambda)
                          Expect.equal moved (step = first) $"warm-up {warmUp}, step {step}: λ"
                          Expect.equal (isNull report.Meta) (step < first) $"warm-up {warmUp}, step {step}: report"
                          Expect.isFalse (run.Theta.Vector.Equals start.Theta) "θ moves"

          testCase "warm-up changes nothing but when λ begins to move"
          <| fun _ ->
              use _ = torch.NewDisposeScope()

              let problem warmUp method =
                  quadraticWith
                      { BilevelOptions.Default with
                          Unroll = 2
                          WarmUp = warmUp }
                      (adam 0.05)
                      method

              for method in [ Hypergradient.sama; Hypergradient.unrolled; Hypergradient.exact ] do
                  use warm = new BilevelRun(problem 4L method, 1L)

                  for _ in 1..6 do
                      warm.Step() |> ignore

                  // four base steps alone, then a window
                  let cold = problem 0L method
                  use start = Bilevel.start 1L cold
                  let solved, _ = Bilevel.solve cold 0.0 4 start
                  let after, _ = Bilevel.step cold solved
                  Expect.isTrue (after.Theta.Equals warm.Theta.Vector) $"{method}: θ"
                  Expect.isTrue (after.Lambda.Equals warm.Lambda.Vector) $"{method}: λ" ]
