/// Rules and states of the hypergradient fixtures.
module Sama.Fixtures.Hypergradients.Rules

open System.Text.Json
open Sama
open Sama.Functional
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

/// u + lr·w·θ beside a rule without decoupled decay of its own.
let private withDecoupledDecay (rate: float) (rule: UpdateRule) : UpdateRule =
    let bind layout =
        let inner = rule.Bind layout

        let step state g theta =
            let u, next = inner.Step state g theta
            u + theta * rate, next

        let byTheta: Jacobian =
            { Pull = fun state g theta v -> inner.ByTheta.Pull state g theta v + v * rate
              Push = fun state g theta w -> inner.ByTheta.Push state g theta w + w * rate }

        BoundRule.create rule.Name inner.Start step inner.ByGradient byTheta inner.Elementwise

    { rule with Bind = bind }

/// A rule by its name and options; any other name is an ArgumentException.
let rule (json: JsonElement) : UpdateRule =
    let coupled, decoupled =
        numberOr 0.0 "coupledDecay" json, numberOr 0.0 "decoupledDecay" json

    let rate = number "learningRate" json

    match text "name" json with
    | "sgd" ->
        sgdWith
            { SgdOptions.Default with
                LearningRate = rate
                Momentum = numberOr 0.0 "momentum" json
                WeightDecay = coupled }
        |> if decoupled = 0.0 then
               id
           else
               withDecoupledDecay (rate * decoupled)
    | "adam" ->
        adamWith
            { AdamOptions.Default with
                LearningRate = rate
                Beta1 = number "beta1" json
                Beta2 = number "beta2" json
                Epsilon = number "epsilon" json
                WeightDecay = coupled + decoupled
                DecoupledDecay = decoupled <> 0.0 }
    | name -> invalidArg "rule" $"a fixture names the rule '{name}'; known are sgd and adam"

/// The json's names of a rule's tensors, and the library's.
let private names =
    [ "momentumBuffer", "momentum_buffer"; "m", "exp_avg"; "s", "exp_avg_sq" ]

/// A state of that rule. Without momentum the library keeps no buffer.
let state (rule: JsonElement) (json: JsonElement) : RuleState =
    let tensors =
        [ for key, name in names do
              match Row.tryGet key json with
              | Some values when key <> "momentumBuffer" || numberOr 0.0 "momentum" rule <> 0.0 ->
                  name, Suite.tensor (Row.numbers values)
              | _ -> () ]

    RuleState.create (int64 (numberOr 0.0 "count" json)) tensors []

/// The same rule, its first state that one.
let startingAt (state: RuleState) (rule: UpdateRule) : UpdateRule =
    { rule with
        Bind =
            fun layout ->
                { rule.Bind layout with
                    Start = fun _ -> state } }

/// The rule of a json object with `rule` and `stateBefore`, its first state that one.
let from (json: JsonElement) : UpdateRule =
    let options = item "rule" json
    rule options |> startingAt (state options (item "stateBefore" json))

/// The same rule, its state never changed and its step multiplied: fixed points are those of the frozen rule.
let frozen (factor: float) (rule: UpdateRule) : UpdateRule =
    let bind layout =
        let inner = rule.Bind layout

        let step state g theta =
            fst (inner.Step state g theta) * factor, state

        let byGradient, byTheta = BoundRule.differentiated step
        BoundRule.create rule.Name inner.Start step (Ok byGradient) byTheta inner.Elementwise

    { rule with Bind = bind }

/// Rows for every tensor and count of a state.
let rows place prefix tolerance (found: RuleState) (json: JsonElement) : Row.Row list =
    [ for key, name in names do
          match Row.tryGet key json, found.Tensors.TryGetValue name with
          | Some _, (true, tensor) ->
              vectorRow place $"{prefix}.{key}" tolerance (Suite.toVector tensor) (vector key json)
          | _ -> ()
      match Row.tryGet "count" json with
      | Some count -> numberRow place $"{prefix}.count" 0.0 (float found.Count) (count.GetDouble())
      | None -> () ]
