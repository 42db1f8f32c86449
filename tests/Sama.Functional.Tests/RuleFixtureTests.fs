/// Recorded trajectories, states, adaptations and schedules of PyTorch and Optax.
module Sama.Tests.RuleFixtureTests

open System.IO
open Expecto
open Sama.Functional
open Sama.Fixtures
open Sama.Tests.Problems

let private folder = Path.Combine(__SOURCE_DIRECTORY__, "..", "fixtures", "rules")

let tests =
    testList
        "recorded rules"
        [ testCase "every row within its tolerance, no case left out but for variants of Optax"
          <| fun _ ->
              let rows = Bench.rows [ Rules.reader ] folder
              let failures = rows |> List.filter Row.failed
              Expect.isEmpty failures "rows that fail"
              let families = rows |> List.map _.Family |> List.distinct
              Expect.equal families.Length 17 "families"

              for row in rows do
                  if row.Skipped then
                      Expect.stringContains row.Case "optax" row.Family

          testCase "Lion is refused for SAMA with the alternative, and accepted with a surrogate"
          <| fun _ ->
              Expect.throwsC (fun () -> quadratic (lion 0.1) 1 Hypergradient.sama |> ignore) (fun e ->
                  Expect.stringContains e.Message "samaNa" "")

              for surrogate in [ Sama.SignSurrogate.StraightThrough; Sama.SignSurrogate.Smooth ] do
                  let rule =
                      lionWith
                          { Sama.LionOptions.Default with
                              Surrogate = surrogate }

                  quadratic rule 1 Hypergradient.sama |> ignore ]
