/// Rules and schedules of the fixtures' options.
module Sama.Fixtures.RuleOptions

open System
open System.Text.Json
open Sama
open Sama.Functional
open Sama.Fixtures.Row

let private number name fallback (o: JsonElement) =
    tryGet name o |> Option.map _.GetDouble() |> Option.defaultValue fallback

let private flag name (o: JsonElement) =
    tryGet name o |> Option.exists _.GetBoolean()

/// The rule of that name; Error says why the library has none.
let rule (name: string) (o: JsonElement) : Result<UpdateRule, string> =
    let number name = number name 0.0 o
    let flag name = flag name o

    let adam amsgrad correctFirst =
        adamWith
            { LearningRate = number "lr"
              Beta1 = number "beta1"
              Beta2 = number "beta2"
              Epsilon = number "eps"
              WeightDecay = number "weight_decay"
              DecoupledDecay = flag "decoupled_weight_decay"
              AmsGrad = amsgrad
              CorrectBeforeMaximum = correctFirst
              Maximize = flag "maximize" }

    let nadam momentumDecay =
        nadamWith
            { LearningRate = number "lr"
              Beta1 = number "beta1"
              Beta2 = number "beta2"
              Epsilon = number "eps"
              WeightDecay = number "weight_decay"
              DecoupledDecay = flag "decoupled_weight_decay"
              MomentumDecay = momentumDecay
              Maximize = flag "maximize" }

    match name with
    | "sgd" ->
        sgdWith
            { LearningRate = number "lr"
              Momentum = number "momentum"
              Dampening = number "dampening"
              Nesterov = flag "nesterov"
              WeightDecay = number "weight_decay"
              Maximize = flag "maximize" }
        |> Ok
    | "adam" -> Ok(adam (flag "amsgrad") false)
    | "amsgrad_optax" -> Ok(adam true true)
    | "adamax" ->
        adamaxWith
            { LearningRate = number "lr"
              Beta1 = number "beta1"
              Beta2 = number "beta2"
              Epsilon = number "eps"
              WeightDecay = number "weight_decay"
              Maximize = flag "maximize" }
        |> Ok
    | "nadam" -> Ok(nadam (number "momentum_decay"))
    | "nadam_optax" -> Ok(nadam infinity)
    | "radam" ->
        radamWith
            { LearningRate = number "lr"
              Beta1 = number "beta1"
              Beta2 = number "beta2"
              Epsilon = number "eps"
              WeightDecay = number "weight_decay"
              DecoupledDecay = flag "decoupled_weight_decay"
              EpsilonAfterCorrection = flag "optax"
              Maximize = flag "maximize" }
        |> Ok
    | "rmsprop" ->
        rmspropWith
            { LearningRate = number "lr"
              Alpha = number "alpha"
              Epsilon = number "eps"
              Momentum = number "momentum"
              Centered = flag "centered"
              EpsilonInsideRoot = flag "optax"
              WeightDecay = number "weight_decay"
              Maximize = flag "maximize" }
        |> Ok
    | "adagrad" ->
        adagradWith
            { LearningRate = number "lr"
              LearningRateDecay = number "lr_decay"
              InitialAccumulator = number "initial_accumulator_value"
              Epsilon = number "eps"
              EpsilonInsideRoot = flag "optax"
              WeightDecay = number "weight_decay"
              Maximize = flag "maximize" }
        |> Ok
    | "adadelta" ->
        adadeltaWith
            { LearningRate = number "lr"
              Rho = number "rho"
              Epsilon = number "eps"
              WeightDecay = number "weight_decay"
              Maximize = flag "maximize" }
        |> Ok
    | "adafactor" ->
        adafactorWith
            { LearningRate = number "lr"
              Beta2Decay = number "beta2_decay"
              Epsilon1 = Nullable(number "eps1")
              Epsilon2 = number "eps2"
              ClippingThreshold = number "d"
              WeightDecay = number "weight_decay"
              Maximize = flag "maximize" }
        |> Ok
    | "lamb" ->
        lambWith
            { LearningRate = number "lr"
              Beta1 = number "beta1"
              Beta2 = number "beta2"
              Epsilon = number "eps"
              WeightDecay = number "weight_decay" }
        |> Ok
    | "lion" ->
        lionWith
            { LionOptions.Default with
                LearningRate = number "lr"
                Beta1 = number "beta1"
                Beta2 = number "beta2"
                WeightDecay = number "weight_decay" }
        |> Ok
    | "adafactor_optax" ->
        Error "Optax's Adafactor has other rates, another floor of the moments, momentum and decay: a rule of its own"
    | other -> invalidArg (nameof name) $"no rule is named '{other}'"

/// The rule at the recorded rates of each step, if there are any.
let scheduled (o: JsonElement) (rule: UpdateRule) : UpdateRule =
    match tryGet "rates" o with
    | None -> rule
    | Some rates ->
        let rates, lr = numbers rates, number "lr" 0.0 o
        UpdateRule.scheduled (fun t -> rates[int t] / lr) rule

/// Clipping before the rule.
let clipped (o: JsonElement) (rule: UpdateRule) : UpdateRule =
    match tryGet "clip_norm" o, tryGet "clip_value" o with
    | Some norm, _ -> UpdateRule.chain [ clipByGlobalNormWith (number "clip_eps" 0.0 o) (norm.GetDouble()); rule ]
    | _, Some value -> UpdateRule.chain [ clipByValue (value.GetDouble()); rule ]
    | _ -> rule

/// The schedule of these options, as a factor of lr, told apart by the options' names.
let schedule (o: JsonElement) : int64 -> float =
    let has name = (tryGet name o).IsSome
    let number name = number name 0.0 o
    let steps name = int64 (number name)
    let lr = number "lr"

    if has "start_factor" then
        let warmup = steps "warmup"

        Schedule.following
            (Schedule.linear (number "start_factor") 1.0 warmup)
            warmup
            (Schedule.cosineWave (number "end" / lr) (steps "total" - warmup))
    elif has "init" then
        Schedule.warmupCosine (number "init" / lr) (number "end" / lr) (steps "warmup") (steps "total")
    elif has "warmup" then
        Schedule.warmupLinear (steps "warmup") (steps "total")
    elif has "T_max" then
        Schedule.cosineWave (number "eta_min" / lr) (steps "T_max")
    elif has "decay_steps" then
        Schedule.cosine (number "alpha") (steps "decay_steps")
    elif has "step_size" then
        Schedule.step (number "gamma") (steps "step_size")
    elif has "boundaries" then
        Schedule.piecewise (
            Seq.zip (numbers (o.GetProperty "boundaries")) (numbers (o.GetProperty "scales"))
            |> Seq.map (fun (boundary, scale) -> int64 boundary, scale)
            |> List.ofSeq
        )
    elif flag "staircase" o then
        Schedule.step (number "decay_rate") (steps "transition_steps")
    elif has "transition_steps" then
        let decay =
            Schedule.exponential (number "decay_rate") (steps "transition_steps")
            |> Schedule.following (Schedule.constant 1.0) (steps "transition_begin")

        fun t -> max (number "end" / lr) (decay t)
    else
        Schedule.exponential (number "gamma") 1L
