/// Levels as a graph: chains of three and four levels, tasks under one parent, several parents, windows that start anew,
/// against closed forms and automatic differentiation.
module Sama.Tests.LevelGraphTests

open System
open Expecto
open FsCheck
open MathNet.Numerics.LinearAlgebra
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Reference.Numbers
open Sama.Fixtures.Hypergradients
open Sama.Tests.Problems

/// Lᵢ = ½xᵀQᵢx + qᵢ·x over all levels' x; strongly convex in each level's own part.
type private Chain =
    { Sizes: int list
      Q: Mat list
      Linear: Vec list }

let private draw (seed: int) (sizes: int list) : Chain =
    let rng = Random seed
    let n = List.sum sizes

    let symmetric shift =
        let q = normalMatrix rng n n
        0.5 * (q + q.Transpose()) + shift * identity n

    // a level above needs the more convexity the more its lower levels answer
    { Sizes = sizes
      Q = [ for i in 0 .. sizes.Length - 1 -> symmetric (8.0 * 8.0 ** float i) ]
      Linear = [ for _ in sizes -> Numbers.normal rng n ] }

/// x at the top's θ with every level below at its best response to those above, and dL_top/dθ_top.
let private solve (chain: Chain) (top: Vec) : Vec * Vec =
    let n = List.sum chain.Sizes
    let mutable s: Mat = identity n
    let mutable offset = zeros n

    for size, q, linear in
        List.zip3 chain.Sizes chain.Q chain.Linear
        |> List.truncate (chain.Sizes.Length - 1) do
        let reduced: Mat = s.TransposeThisAndMultiply(q * s)
        let rest = reduced.ColumnCount - size
        let own = reduced.SubMatrix(0, size, 0, size)
        let response: Mat = -(own.Solve(reduced.SubMatrix(0, size, size, rest)))

        let constant: Vec =
            (s.TransposeThisAndMultiply(q * offset + linear)).SubVector(0, size)

        let start: Vec = -(own.Solve constant)
        offset <- offset + s.SubMatrix(0, n, 0, size) * start
        s <- s * response.Stack(identity rest)

    let x = s * top + offset
    x, s.TransposeThisAndMultiply((List.last chain.Q) * x + List.last chain.Linear)

let private lossOf (q: Mat) (linear: Vec) (names: string list) =
    let q, linear = Suite.ofMatrix q, Suite.ofVector linear

    fun (_: Pass) (levels: Levels) () ->
        let x = torch.cat [| for name in names -> levels[name].["x"] |]
        x.dot (q.mv x) * 0.5 + linear.dot x

/// The chain as levels that start at x.
let private levelsOf (chain: Chain) (rule: UpdateRule) (x: Vec) : Level list =
    let names = [ for i in 0 .. chain.Sizes.Length - 1 -> $"level{i}" ]
    let offsets = List.scan (+) 0 chain.Sizes

    [ for i in 0 .. chain.Sizes.Length - 1 ->
          Level.general
              names[i]
              [ "x", Suite.ofVector (x.SubVector(offsets[i], chain.Sizes[i])) ]
              rule
              ignore
              (lossOf chain.Q[i] chain.Linear[i] names) ]

let private hypergradient method levels =
    let problem = Problem.create BilevelOptions.Default method levels
    (Hypergradient.compute problem (Bilevel.start 0L problem)).Total

let private close tolerance what (found: Tensor) (expected: Tensor) =
    Expect.isLessThan (distance found expected) tolerance what

/// Central differences of the meta loss behind a window, by the parameters of the highest level.
let private slopes problem (state: RunState) (top: int) (delta: float) : Tensor =
    let metaLoss (lambda: Tensor) =
        let _, reports = Bilevel.step problem (RunState.at top lambda state)
        (List.last reports).Meta.MetaLoss

    torch.tensor
        [| for i in 0L .. state.Lambda.numel () - 1L ->
               let d = torch.zeros_like state.Lambda
               d[i] <- torch.tensor (delta, dtype = f64)
               (metaLoss (state.Lambda + d) - metaLoss (state.Lambda - d)) / (2.0 * delta) |]

let private implicitMethods =
    [ Hypergradient.exact
      Hypergradient.conjugateGradientWith
          { ConjugateGradientOptions.Default with
              Iterations = 60
              Tolerance = 1e-14 } ]

let private chains =
    [ for sizes in [ [ 2; 3; 2 ]; [ 3; 1; 2; 2 ]; [ 1; 1; 1; 1; 1 ] ] do
          for method in implicitMethods do
              testPropertyWithConfig
                  { FsCheckConfig.defaultConfig with
                      maxTest = (if sizes.Length > 4 then 1 else 4) }
                  $"{sizes.Length} levels in a chain: total hypergradient = closed form, {method}"
                  (fun (PositiveInt seed) ->
                      use _ = torch.NewDisposeScope()
                      let chain = draw seed sizes
                      let top = Numbers.normal (Random seed) (List.last sizes)
                      let x, h = solve chain top
                      let found = hypergradient method (levelsOf chain (sgd 0.01) x)
                      close 1e-8 "h" found (Suite.ofVector h)) ]

/// Three levels whose losses are no quadratics, at a point that solves nothing.
let private bent: Level list * (Tensor[] -> Tensor)[] =
    let a, b, c = normal 1L [| 3L; 3L |], normal 2L [| 3L; 2L |], normal 3L [| 3L; 2L |]

    let one (x: Tensor[]) =
        square(a.mv(x[0]).tanh () - b.mv(x[1]).sin ()).sum ()
        + (x[2].exp () * square (x[0].narrow (0L, 0L, 2L))).sum ()

    let two (x: Tensor[]) =
        square(x[0] - c.mv x[2]).sum ()
        + (x[1].cos () * x[2]).sum ()
        + square(x[1]).sum ()

    let three (x: Tensor[]) =
        square(x[0] - 1.0).sum () + (x[0].sum () * x[1]).sum () + square(x[2]).sum ()

    let names = [ "one"; "two"; "three" ]

    let level name size seed (loss: Tensor[] -> Tensor) =
        Level.general name [ "x", normal seed [| size |] ] (sgd 0.05) ignore (fun _ levels () ->
            loss [| for name in names -> levels[name].["x"] |])

    [ level "one" 3L 4L one; level "two" 2L 5L two; level "three" 2L 6L three ], [| one; two; three |]

/// h₃ with one step of the lowest level in a graph: its last step is taken again wherever the levels above are.
let private oneStepOracle (held: bool) : Tensor =
    let levels, losses = bent
    let rate = 0.05
    let start = [| for level in levels -> level.Initial() |]
    let one = torch.ones ([||], dtype = f64)

    let stepped (theta2: Tensor) (theta3: Tensor) =
        let theta1 = Autodiff.leaf start[0]

        let g =
            Autodiff.pull Autodiff.Extended (losses[0][| theta1; theta2; theta3 |]) one theta1

        start[0] - g * rate

    // ℓ₂(θ₂, θ₃) and its gradient by θ₂, as a graph
    let theta2, theta3 = Autodiff.leaf start[1], Autodiff.leaf start[2]

    let after1 = stepped theta2 theta3
    let seen = if held then after1.detach () else after1

    let h2 =
        Autodiff.pull Autodiff.Extended (losses[1][| seen; theta2; theta3 |]) one theta2

    let total2 =
        Autodiff.pull Autodiff.Kept (losses[1][| stepped theta2 theta3; theta2; theta3 |]) one theta2

    let after2 = start[1] - total2.detach () * rate
    let x = [| after1.detach (); after2; start[2] |] |> Array.map Autodiff.leaf
    let v = Autodiff.pullAll Autodiff.Freed [ losses[2]x, one ] x
    // the lowest level answers to both levels above it
    let viaFirst = Autodiff.pullAll Autodiff.Kept [ after1, v[0] ] [| theta2; theta3 |]
    let v2 = v[1] + viaFirst[0]
    v[2] + viaFirst[1] + Autodiff.pull Autodiff.Kept h2 (-v2 * rate) theta3

let private oneStep =
    [ for held in [ false; true ] do
          let response = if held then MiddleResponse.Held else MiddleResponse.Total

          testCase $"three levels, one step: T1–T2 = automatic differentiation, SAMA tends to it; {response}"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let expected = oneStepOracle held
              let levels = fst bent

              let levels = [ levels[0]; Level.responding response levels[1]; levels[2] ]

              close 1e-9 "t1t2" (hypergradient Hypergradient.t1t2 levels) expected
              close 1e-5 "sama at 1e-4" (hypergradient (samaAt 1e-4) levels) expected

              let error alpha =
                  distance (hypergradient (samaAt alpha) levels) expected

              Expect.isLessThan (error 1e-2) (error 1e-1 / 30.0) "falls with α²"

      testCase "four levels: SAMA tends to T1–T2, in total and with one of two middle levels held"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let chain = draw 3 [ 2; 2; 3; 2 ]
          let x = Numbers.normal (Random 4) 9
          let total = levelsOf chain (sgd 0.001) x

          let held = total |> List.updateAt 2 (Level.responding MiddleResponse.Held total[2])

          let limits =
              [ for levels in [ total; held ] ->
                    let limit = hypergradient Hypergradient.t1t2 levels
                    close 1e-5 "sama" (hypergradient (samaAt 1e-3) levels) limit
                    limit ]

          Expect.isGreaterThan (distance limits[0] limits[1]) 1e-6 "total and held differ"

      testCase "a held middle level answers by its own loss's second derivatives"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let chain = draw 5 [ 2; 3; 2 ]
          let x, _ = solve chain (Numbers.normal (Random 6) 2)
          let levels = levelsOf chain (sgd 0.01) x

          let h =
              hypergradient
                  Hypergradient.exact
                  (List.updateAt 1 (Level.responding MiddleResponse.Held levels[1]) levels)

          let block (q: Mat) (r, h) (c, w) = q.SubMatrix(r, h, c, w)
          let one, two, three = (0, 2), (2, 3), (5, 2)
          let q1, q2 = chain.Q[0], chain.Q[1]
          let partials = chain.Q[2] * x + chain.Linear[2]
          let at (start, length) = partials.SubVector(start, length)

          let down (v: Vec) target =
              -((block q1 one target).TransposeThisAndMultiply((block q1 one one).Solve v))

          let v2 = at two + down (at one) two

          let own =
              -((block q2 two three).TransposeThisAndMultiply((block q2 two two).Solve v2))

          close 1e-8 "h" h (Suite.ofVector (at three + down (at one) three + own)) ]

/// Task i: ½(θ − aᵢλ)ᵀHᵢ(θ − aᵢλ); the parent: ½Σ‖θᵢ − bᵢ‖².
let private tasks steps =
    let task i =
        let q = normal (int64 (10 + i)) [| 3L; 3L |]
        let h = q.mm (q.t ()) + torch.eye (3L, dtype = f64)
        let a = float (i + 1)

        Level.general $"task{i}" [ "x", normal (int64 (20 + i)) [| 3L |] ] (sgd 0.05) ignore (fun _ levels () ->
            let d = levels[$"task{i}"].["x"] - levels["parent"].["x"] * a
            d.dot (h.mv d) * 0.5)
        |> steps i

    let parent =
        Level.general "parent" [ "x", normal 30L [| 3L |] ] (sgd 0.1) ignore (fun _ levels () ->
            square(levels["task0"].["x"] - 1.0).sum () * 0.5
            + square(levels["task1"].["x"] + 2.0).sum () * 0.5)

    [ [ task 0; task 1 ]; [ parent ] ]

let private graphs =
    [ testCase "two tasks under one parent: exact = the sum of their responses"
      <| fun _ ->
          use _ = torch.NewDisposeScope()

          let problem =
              Problem.ofTiers BilevelOptions.Default Hypergradient.exact (tasks (fun _ -> id))

          let solved, report = Bilevel.solve problem 1e-13 20000 (Bilevel.start 0L problem)
          report.EnsureConverged()
          let lambda = solved.Lambda
          // θᵢ = aᵢλ: h = (λ − 1) + 2(2λ + 2)
          let h = (Hypergradient.compute problem solved).Total
          close 1e-8 "h" h (lambda - 1.0 + (lambda * 2.0 + 2.0) * 2.0)

      testCase "tasks of unequal length: unrolled = central differences of the window, each with its own K"
      <| fun _ ->
          use _ = torch.NewDisposeScope()

          let shorter i level =
              if i = 1 then Level.steps 2 level else level

          let problem = Problem.ofTiers (unrollBy 4) Hypergradient.unrolled (tasks shorter)
          let start = Bilevel.start 0L problem
          let next, reports = Bilevel.step problem start
          Expect.equal reports.Length 4 "a window"
          let sama = Problem.withMethod Hypergradient.samaNa problem

          close 1e-8 "h = (λ − λ′)/rate" ((start.Lambda - next.Lambda) / 0.1) (slopes sama start 2 1e-4)

      testCase "two parents of one middle level: each has the hypergradient of its own chain"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let chain = draw 8 [ 2; 2; 2; 2 ]
          let x = 0.1 * Numbers.normal (Random 9) 8
          let levels = levelsOf chain (sgd 0.01) x

          let problem =
              Problem.ofTiers BilevelOptions.Default Hypergradient.exact [ [ levels[0] ]; [ levels[1] ]; levels[2..] ]

          let start = Bilevel.start 0L problem
          let next, _ = Bilevel.step problem start

          for parent in [ 2; 3 ] do
              // the other one is a constant: a level that nothing steers and that answers to nothing
              let other = if parent = 2 then 3 else 2
              let constant = Suite.ofVector (x.SubVector(2 * other, 2))

              let alone =
                  [ for i in [ 0; 1; parent ] ->
                        Level.general
                            $"level{i}"
                            [ "x", Suite.ofVector (x.SubVector(2 * i, 2)) ]
                            (sgd 0.01)
                            ignore
                            (fun _ levels () ->
                                let x =
                                    torch.cat
                                        [| for j in 0..3 -> if j = other then constant else levels[$"level{j}"].["x"] |]

                                x.dot ((Suite.ofMatrix chain.Q[i]).mv x) * 0.5
                                + (Suite.ofVector chain.Linear[i]).dot x) ]

              let expected = hypergradient Hypergradient.exact alone
              let moved = (start.Levels[parent].Vector - next.Levels[parent].Vector) / 0.01
              close 1e-8 $"level{parent}" moved expected

      testCase "MAML: a window that starts at its parent, unrolled through it = central differences"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let a, b = normal 40L [| 5L; 3L |], normal 41L [| 5L |]

          let levels =
              [ Level.general "task" [ "w", torch.zeros (3L, dtype = f64) ] (adam 0.1) ignore (fun _ levels () ->
                    square(a.mv(levels["task"].["w"]).tanh () - b).mean ())
                |> Level.resetTo (fun levels -> levels["parent"].Vector)
                Level.general "parent" [ "w", normal 42L [| 3L |] ] (sgd 0.1) ignore (fun _ levels () ->
                    square(a.mv levels["task"].["w"] - b * 2.0).mean ()) ]

          let problem = Problem.create (unrollBy 3) Hypergradient.unrolled levels
          let start = Bilevel.start 0L problem
          // a second window starts at the new parent, not where the first one ended
          let next, _ = Bilevel.step problem start
          let last, _ = Bilevel.step problem next
          let sama = Problem.withMethod Hypergradient.samaNa problem

          for state, after in [ start, next; next, last ] do
              close 1e-7 "h" ((state.Lambda - after.Lambda) / 0.1) (slopes sama state 1 1e-5)

      testCase "each level has its own pace: steps, warm-up, draws"
      <| fun _ ->
          use _ = torch.NewDisposeScope()
          let chain = draw 2 [ 1; 1; 1 ]
          let levels = levelsOf chain (sgd 1e-4) (Numbers.normal (Random 1) 3)

          let problem =
              Problem.create
                  (unrollBy 2)
                  Hypergradient.sama
                  [ levels[0]; levels[1]; levels[2] |> Level.every 3 |> Level.warmUp 6L ]

          use run = new BilevelRun(problem, 0L)
          let metas = [ for _ in 1..18 -> [ for meta in run.Step().Metas -> meta.Level ] ]

          let at name =
              [ for i, m in List.indexed metas do
                    if List.contains name m then
                        i + 1 ]

          Expect.equal (at "level1") [ 2..2..18 ] "every two"
          Expect.equal (at "level2") [ 12; 18 ] "every six, from the second window on"

      testCase "what cannot be is refused when the levels are composed"
      <| fun _ ->
          let level name =
              Level.general name [ "x", torch.zeros (1L, dtype = f64) ] (sgd 0.1) ignore (fun _ levels () ->
                  levels[name].["x"].sum ())

          let a, b, c = level "a", level "b", level "c"

          let refused (words: string) tiers =
              Expect.throwsC (fun () -> Problem.ofTiers (unrollBy 4) Hypergradient.sama tiers |> ignore) (function
                  | :? ArgumentException as e -> Expect.stringContains e.Message words ""
                  | e -> failtest $"{e}")

          refused "at least one level" []
          refused "no tier is empty" [ [ a ]; [] ]
          refused "there are none" [ [ a |> Level.resetTo (fun l -> l["a"].Vector) ] ]
          refused "different numbers of steps" [ [ a ]; [ Level.every 2 b; Level.every 3 c ] ]
          refused "the lowest" [ [ Level.every 2 a ]; [ b ] ]
          refused "'a' is to take 5 steps" [ [ Level.steps 5 a ]; [ b ] ]
          refused "not of the lowest" [ [ a ]; [ Level.resetTo (fun l -> l["a"].Vector) b ] ]
          refused "to be held" [ [ a |> Level.withMethod Hypergradient.f2sa ]; [ b ]; [ c ] ]
          refused "starts anew" [ [ a |> Level.resetTo (fun l -> l["b"].Vector) ]; [ b ]; [ c ] ] ]

let private resumed =
    [ for name, method in
          [ "sama", Hypergradient.sama
            "exact", Hypergradient.exact
            "neumann", Hypergradient.neumann 3 0.1 ] do
          testCase $"three levels resume bit for bit at every step: {name}"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let levels = fst bent

              let problem =
                  Problem.create (unrollBy 2) method [ levels[0]; levels[1]; Level.every 2 levels[2] ]

              use straight = new BilevelRun(problem, 3L)

              let states =
                  [ for _ in 0..8 ->
                        (let s = straight.Snapshot() in
                         straight.Step() |> ignore
                         s) ]

              for state in states[..7] do
                  use run = new BilevelRun(problem, state)

                  while run.StepsTaken < 8L do
                      run.Step() |> ignore

                  use ended = run.Snapshot()

                  for a, b in Seq.zip ended.Levels states[8].Levels do
                      Expect.isTrue (a.Vector.Equals b.Vector) $"from {state.Step}: {a.Name}" ]

let tests = testList "levels as a graph" (chains @ oneStep @ graphs @ resumed)
