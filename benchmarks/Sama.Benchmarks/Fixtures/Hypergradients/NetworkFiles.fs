/// The three network files: their SAMA steps, the run that leads there, unrolling under a stop-gradient.
module Sama.Fixtures.Hypergradients.NetworkFiles

open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

/// The base steps from θ₀ and a zero state that lead to step t.
let private runTo place network theta0 lambda (batches: int[][]) (s: JsonElement) =
    let t = integer "t" s

    let levels =
        Networks.levels network (Rules.rule (item "rule" s)) theta0 lambda (fun step -> batches[int step])

    let theta, state = Library.advance (t - 1) levels

    vectorRow place "thetaBefore" 1e-11 theta (vector "thetaBefore" s)
    :: Rules.rows place "stateBefore" 1e-11 state (item "stateBefore" s)

let private stepRows (place: Place) network (file: JsonElement) (s: JsonElement) =
    let theta0, lambda = vector "theta0" file, vector "lambda" file
    let state = item "stateBefore" s

    let place =
        { place with
            Case =
                text "name" (item "rule" s)
                + (match Row.tryGet "momentum" (item "rule" s), Row.tryGet "count" state with
                   | Some momentum, _ -> $" momentum={momentum}"
                   | _, Some count -> $" count={count}"
                   | _ -> "")
            T = Row.tryGet "t" s |> Option.map _.GetInt32() }

    match Row.tryGet "batch" s with
    | Some batch ->
        let batches =
            [| for batch in items "batches" (item "data" file) -> [| for i in batch.EnumerateArray() -> i.GetInt32() |] |]

        let batch = [| for i in batch.EnumerateArray() -> i.GetInt32() |]

        runTo place network theta0 lambda batches s
        @ Steps.rows place network (vector "thetaBefore" s) lambda batch s
    | None -> Steps.rows place network theta0 lambda [||] s

/// K steps under the stop-gradient: the trajectory's own derivative, and reverse mode with the feature detached.
let private unrolledRows (place: Place) network (file: JsonElement) (s: JsonElement) =
    let steps = integer "steps" s

    let place =
        { place with
            Case = "stepsUnrolled"
            T = Some steps }

    let levels =
        Networks.levels network (Rules.rule (item "rule" s)) (vector "theta0" file) (vector "lambda" file) (fun _ ->
            [||])

    let answer follow =
        let method =
            Hypergradient.unrolledWith
                { UnrolledOptions.Default with
                    Steps = steps
                    FollowStops = follow }

        (Library.ofRun steps method levels).Total

    let through, detached = answer true, answer false

    [ vectorRow place "derivativeOfTheTrajectory" 1e-12 through (vector "derivativeOfTheTrajectory" s)
      vectorRow place "reverseModeWithDetachedFeature" 1e-12 detached (vector "reverseModeWithDetachedFeature" s) ]
    @ comparisonRows place "detached." 1e-12 detached through (item "detached" s)

let rows (place: Place) (file: JsonElement) : Row.Row list =
    use _ = torch.NewDisposeScope()
    let network = Networks.read file
    let theta = Networks.parameters network.Theta (vector "theta0" file)
    let lambda = Networks.parameters network.Lambda (vector "lambda" file)

    [ match Row.tryGet "losses" file, network.Feature with
      | Some _, Some feature ->
          vectorRow place "losses" 1e-11 (Suite.toVector (feature theta)) (vector "losses" file)

          vectorRow
              place
              "weights"
              1e-11
              (Suite.toVector (Networks.weights lambda (feature theta)))
              (vector "weights" file)
      | _ -> ()
      match Row.tryGet "targets" file with
      | Some _ ->
          let rows (t: Tensor) =
              Numbers.rows (Suite.toVector (t.reshape -1L) |> Seq.chunkBySize (int t.shape[1]))

          let transition = torch.nn.functional.softmax (lambda["transition"], 1L)
          matrixRow place "transition" 1e-11 (rows transition) (matrix "transition" file)
          matrixRow place "targets" 1e-11 (rows (Networks.targets (item "data" file) lambda)) (matrix "targets" file)
      | None -> () ]
    @ (items "steps" file |> List.collect (stepRows place network file))
    @ (match Row.tryGet "stepsUnrolled" file with
       | Some runs ->
           [ for s in runs.EnumerateArray() do
                 yield! unrolledRows place network file s ]
       | None -> [])
