/// Mixtures by held-out rows: the weights are the maximum that they are said to be.
module Sama.DataOptimization.Tests.StackingTests

open System
open Expecto
open Sama.DataOptimization
open Sama.DataOptimization.Tests.Draws

let private drawn (random: Random) =
    let count, rows, classes = random.Next(1, 6), random.Next(1, 40), random.Next(2, 5)

    let members =
        Array.init count (fun _ -> probabilities random rows classes (0.5 + 2.0 * random.NextDouble()))

    members, labels random rows classes

/// What the label of each row has under each member: [row][member].
let private likelihoods (members: float[][][]) (labels: int[]) =
    labels
    |> Array.mapi (fun row label ->
        members
        |> Array.map (fun rows ->
            let p = rows[row]
            p[label]))

let private logLoss (rows: float[][]) labels =
    Array.average (Calibration.LogLosses(rows, labels))

let tests =
    testList
        "stacking"
        [ property "weights are where the derivative is the same for all" (fun seed ->
              let random = Random seed
              let members, labels = drawn random
              let belief = 0.2 + 3.0 * random.NextDouble()
              let weights = Stacking.Weights(members, labels, belief)
              let each = likelihoods members labels

              weights
              |> Array.iteri (fun m weight ->
                  let slope =
                      each
                      |> Array.sumBy (fun row -> max 1e-6 row[m] / Array.sum (Array.map2 (*) weights row))

                  let whole = slope + belief / float weights.Length / weight

                  Expect.floatClose
                      { absolute = 1e-2; relative = 1e-3 }
                      whole
                      (float labels.Length + belief)
                      $"member {m} of {weights.Length}"))

          property "the mixture is no worse on its rows than the members' mean likelihood" (fun seed ->
              let members, labels = drawn (Random seed)
              let weights = Stacking.Weights(members, labels)
              let even = Array.create members.Length (1.0 / float members.Length)

              Expect.isLessThanOrEqual
                  (logLoss (Stacking.Mix(members, weights)) labels)
                  (logLoss (Stacking.Mix(members, even)) labels + 1e-9)
                  "log-loss")

          testCase "few rows leave members mixed, many pick the best; a strong belief keeps them alike"
          <| fun _ ->
              let random = Random 5

              let weights rows belief =
                  let labels = labels random rows 3

                  let sure share =
                      labels
                      |> Array.map (fun label ->
                          Array.init 3 (fun c -> if c = label then share else (1.0 - share) / 2.0))

                  Stacking.Weights([| sure 0.6; sure 0.5; sure 0.3 |], labels, belief)

              let few, many = weights 3 1.0, weights 2000 1.0
              Expect.isGreaterThan few[1] 0.1 "few"
              Expect.isGreaterThan many[0] 0.98 "many"
              Expect.isTrue (weights 30 1e6 |> Array.forall (fun w -> abs (w - 1.0 / 3.0) < 1e-3)) "belief"

          testCase "a row that one member excludes does not exclude the member"
          <| fun _ ->
              let labels = Array.create 20 0
              let certain = Array.init 20 (fun row -> if row = 0 then [| 0.0; 1.0 |] else [| 0.9; 0.1 |])
              let unsure = Array.create 20 [| 0.5; 0.5 |]
              let weights = Stacking.Weights([| certain; unsure |], labels)
              Expect.isGreaterThan weights[0] 0.7 "weight"

          testCase "misuse is named"
          <| fun _ ->
              let two = [| [| 0.5; 0.5 |] |]
              refused<ArgumentException> [ "members" ] (fun () -> Stacking.Weights([||], [||]) |> ignore)
              refused<ArgumentException> [ "label 2" ] (fun () -> Stacking.Weights([| two |], [| 2 |]) |> ignore)
              refused<ArgumentException> [ "belief" ] (fun () -> Stacking.Weights([| two |], [| 0 |], 0.0) |> ignore)

              refused<ArgumentException> [ "members" ] (fun () ->
                  Stacking.Weights([| two; [| [| 0.2; 0.3; 0.5 |] |] |], [| 0 |]) |> ignore)

              refused<ArgumentException> [ "weights" ] (fun () -> Stacking.Mix([| two |], [| 0.5; 0.5 |]) |> ignore)
              refused<ArgumentException> [ "weights" ] (fun () -> Stacking.Mix([| two |], [| 0.5 |]) |> ignore) ]
