/// Groups of equal and of interleaved shapes: each parameter follows its own rule, and keeps its own state.
module Sama.Tests.GroupTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// Parameters in layout order, and the group of each.
let private cases: (string * (string * int64[] * int) list) list =
    [ "equal lengths", [ "a", [| 4L |], 0; "b", [| 4L |], 1 ]
      "equal lengths, the second group first", [ "b", [| 4L |], 1; "a", [| 4L |], 0 ]
      "interleaved",
      [ "a", [| 3L |], 0
        "b", [| 2L; 2L |], 1
        "c", [| 2L; 2L |], 0
        "d", [| 3L |], 1 ]
      "interleaved, three groups",
      [ "a", [| 2L |], 2
        "b", [| 3L |], 0
        "c", [| 2L |], 1
        "d", [| 3L |], 2
        "e", [| 2L |], 0 ] ]

/// One family at three rates: states have the same tensors, of the same shapes where groups are of equal lengths.
let private rules: (string * (float -> UpdateRule)) list =
    [ "adam", adam
      "momentum",
      (fun lr ->
          sgdWith
              { SgdOptions.Default with
                  LearningRate = lr
                  Momentum = 0.9 })
      "clip → adagrad", (fun lr -> UpdateRule.chain [ clipByGlobalNorm 1.0; adagrad lr ]) ]

let private rates = [ 0.1; 0.3; 0.02 ]

let private grouped (make: float -> UpdateRule) (parameters: (string * int64[] * int) list) order =
    UpdateRule.groups
        [ for group in order ->
              (fun name -> parameters |> List.exists (fun (own, _, g) -> own = name && g = group)), make rates[group] ]

let private groupsOf parameters =
    parameters
    |> List.map (fun (_, _, group) -> group)
    |> List.distinct
    |> List.sort

let private same what (a: Tensor) (b: Tensor) =
    Expect.isTrue (a.Equals b) $"{what}: the same bits"

let private trained (rule: UpdateRule) (parameters: (string * int64[] * int) list) : BilevelProblem =
    let start =
        parameters
        |> List.mapi (fun i (name, shape, _) -> name, normal (int64 i + 1L) shape)

    let total (f: int -> string * int64[] * int -> Tensor) =
        parameters |> List.mapi f |> List.reduce (+)

    Problem.create
        BilevelOptions.Default
        Hypergradient.sama
        [ Level.create "base" start rule ignore (fun _ theta lambda () ->
              total (fun i (name, _, _) -> (square (theta[name] - float i) * lambda["x"]).sum ()))
          Level.create "meta" [ "x", torch.ones (1L, dtype = f64) ] (sgd 0.01) ignore (fun _ theta _ () ->
              total (fun _ (name, _, _) -> square(theta[name]).sum ())) ]

/// A snapshot behind some steps.
let private behind steps (problem: BilevelProblem) =
    use run = new BilevelRun(problem, 1L)

    for _ in 1..steps do
        run.Step() |> ignore

    run.Snapshot()

let private refused words action =
    Expect.throwsC action (function
        | :? ArgumentException as e ->
            for word: string in words do
                Expect.stringContains e.Message word ""
        | e -> failtest $"{e}")

let tests =
    testList
        "groups"
        [ for what, parameters in cases do
              for name, make in rules do
                  testCase $"{what}, {name}: each group moves as it does alone, pure and in place"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()
                      let layout = Layout.create [ for name, shape, _ in parameters -> name, shape ]
                      let bound = UpdateRule.bind layout (grouped make parameters (groupsOf parameters))

                      let alone =
                          [ for group in groupsOf parameters ->
                                let own = parameters |> List.filter (fun (_, _, g) -> g = group)
                                let layout = Layout.create [ for name, shape, _ in own -> name, shape ]
                                own, UpdateRule.bind layout (make rates[group]) ]

                      let view (vector: Tensor) (name: string) =
                          vector.narrow (
                              0L,
                              layout.Slices[layout.IndexOf name].Offset,
                              layout.Slices[layout.IndexOf name].Length
                          )

                      let part (vector: Tensor) own =
                          torch.cat [| for name, _, _ in own -> view vector name |]

                      let mutable theta = normal 1L [| layout.Length |]
                      let mutable state = bound.Init theta
                      let mutable live = RuleState.map _.clone() state
                      let mutable states = [ for own, rule in alone -> rule.Init(part theta own) ]

                      for t in 1L .. 4L do
                          let g, v =
                              normal (10L + t) [| layout.Length |], normal (20L + t) [| layout.Length |]

                          let adapted = bound.Adapt state g theta v
                          let u, next = bound.Step state g theta
                          let out = torch.empty_like u
                          let moved = bound.InPlace.Advance live g theta out

                          let steps =
                              [ for (own, rule), s in List.zip alone states ->
                                    own,
                                    rule.Step s (part g own) (part theta own),
                                    rule.Adapt s (part g own) (part theta own) (part v own) ]

                          for own, (expected, _), adaptation in steps do
                              same $"t = {t}: u" (part u own) expected
                              same $"t = {t}: adaptation" (part adapted own) adaptation
                              Expect.isLessThan (distance (part out own) expected) 1e-14 $"t = {t}: in place"

                          for tensor, expected in List.zip (RuleState.tensors moved) (RuleState.tensors next) do
                              if expected.numel () > 0L then
                                  Expect.isLessThan (distance tensor expected) 1e-14 $"t = {t}: state in place"

                          states <- [ for _, (_, next), _ in steps -> next ]
                          theta <- theta - u
                          state <- next
                          live <- moved

          testCase "groups of equal lengths named in another order have another state, by name"
          <| fun _ ->
              let parameters = snd cases[0]
              use state = behind 3 (trained (grouped adam parameters [ 0; 1 ]) parameters)
              let turned = trained (grouped adam parameters [ 1; 0 ]) parameters
              refused [ "base"; "'a'"; "'b'" ] (fun () -> new BilevelRun(turned, state) |> ignore)
              refused [ "base" ] (fun () -> Bilevel.step turned state |> ignore)

          testCase "parameters of equal shapes in another group have another state, by name"
          <| fun _ ->
              let groupsAt a b c d =
                  [ "a", [| 2L |], a; "b", [| 2L |], b; "c", [| 2L |], c; "d", [| 2L |], d ]

              let problem groups =
                  trained (UpdateRule.chain [ clipByValue 1.0; grouped adam groups [ 0; 1 ] ]) groups

              use state = behind 3 (problem (groupsAt 0 1 0 1))
              refused [ "base" ] (fun () -> new BilevelRun(problem (groupsAt 0 0 1 1), state) |> ignore)
              use again = new BilevelRun(problem (groupsAt 0 1 0 1), state)
              again.Step() |> ignore

          testCase "states of two groups that were swapped by hand are refused by name"
          <| fun _ ->
              let parameters = snd cases[0]
              let problem = trained (grouped adam parameters [ 0; 1 ]) parameters
              use state = behind 3 problem

              let swapped =
                  { state with
                      Levels =
                          [| for level in state.Levels ->
                                 if level.Name = "base" then
                                     { level with
                                         Rule =
                                             { level.Rule with
                                                 Parts = Array.rev (Array.ofSeq level.Rule.Parts) } }
                                 else
                                     level |] }

              refused [ "base"; "'a'" ] (fun () -> new BilevelRun(problem, swapped) |> ignore) ]
