/// Update rules with drawn options, and compositions of them.
module Sama.Tests.RuleGenerators

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

let private among (random: Random) (choices: 'a list) = choices[random.Next choices.Length]

let private between (random: Random) low high =
    low + (high - low) * random.NextDouble()

let private coin (random: Random) = random.Next 2 = 0

/// Rules with closed adaptations whose coordinates do not see each other, each under its name.
let elementwise: (string * (Random -> UpdateRule)) list =
    let rate random = between random 0.01 0.2
    let decay random = among random [ 0.0; 0.1 ]
    let beta random = between random 0.3 0.95
    let epsilon random = among random [ 1e-8; 1e-3 ]

    [ "sgd",
      fun r ->
          let nesterov = coin r

          sgdWith
              { LearningRate = rate r
                Momentum = if nesterov then 0.9 else among r [ 0.0; 0.8 ]
                Dampening = if nesterov then 0.0 else among r [ 0.0; 0.3 ]
                Nesterov = nesterov
                WeightDecay = decay r
                Maximize = coin r }
      "adam",
      fun r ->
          let amsgrad = coin r

          adamWith
              { LearningRate = rate r
                Beta1 = beta r
                Beta2 = beta r
                Epsilon = epsilon r
                WeightDecay = decay r
                DecoupledDecay = coin r
                AmsGrad = amsgrad
                CorrectBeforeMaximum = amsgrad && coin r
                Maximize = coin r }
      "adamax",
      fun r ->
          adamaxWith
              { LearningRate = rate r
                Beta1 = beta r
                Beta2 = beta r
                Epsilon = epsilon r
                WeightDecay = decay r
                Maximize = coin r }
      "nadam",
      fun r ->
          nadamWith
              { LearningRate = rate r
                Beta1 = beta r
                Beta2 = beta r
                Epsilon = epsilon r
                WeightDecay = decay r
                DecoupledDecay = coin r
                MomentumDecay = among r [ 4e-3; 0.5; infinity ]
                Maximize = coin r }
      "radam",
      fun r ->
          radamWith
              { LearningRate = rate r
                Beta1 = beta r
                Beta2 = among r [ 0.5; 0.8; 0.99 ]
                Epsilon = epsilon r
                WeightDecay = decay r
                DecoupledDecay = coin r
                EpsilonAfterCorrection = coin r
                Maximize = coin r }
      "rmsprop",
      fun r ->
          rmspropWith
              { LearningRate = rate r
                Alpha = beta r
                Epsilon = epsilon r
                Momentum = among r [ 0.0; 0.9 ]
                Centered = coin r
                EpsilonInsideRoot = coin r
                WeightDecay = decay r
                Maximize = coin r }
      "adagrad",
      fun r ->
          adagradWith
              { LearningRate = rate r
                LearningRateDecay = among r [ 0.0; 0.3 ]
                InitialAccumulator = among r [ 0.0; 0.1 ]
                Epsilon = epsilon r
                EpsilonInsideRoot = coin r
                WeightDecay = decay r
                Maximize = coin r }
      "adadelta",
      fun r ->
          adadeltaWith
              { LearningRate = rate r
                Rho = beta r
                Epsilon = among r [ 1e-6; 1e-3 ]
                WeightDecay = decay r
                Maximize = coin r }
      "asgd",
      fun r ->
          asgdWith
              { LearningRate = rate r
                Lambd = among r [ 1e-4; 0.1 ]
                Alpha = 0.75
                T0 = among r [ 1.0; 1e6 ]
                WeightDecay = decay r
                Maximize = coin r }
      "clipByValue", fun r -> clipByValue (between r 0.5 1.5)
      "addDecay", fun r -> addDecay (between r 0.0 0.5) ]

/// Rules whose coordinates see each other.
let coupled: (string * (Random -> UpdateRule)) list =
    [ "adafactor",
      fun r ->
          adafactorWith
              { LearningRate = between r 0.01 0.9
                Beta2Decay = among r [ -0.8; -0.5 ]
                Epsilon1 = among r [ Nullable(); Nullable 1e-3 ]
                Epsilon2 = 1e-3
                ClippingThreshold = among r [ 0.7; 1.0; 1.5 ]
                WeightDecay = among r [ 0.0; 0.1 ]
                Maximize = coin r }
      "lamb",
      fun r ->
          lambWith
              { LearningRate = between r 0.01 0.2
                Beta1 = between r 0.3 0.9
                Beta2 = between r 0.3 0.95
                Epsilon = 1e-6
                WeightDecay = among r [ 0.0; 0.1 ] }
      "clipByGlobalNorm", fun r -> clipByGlobalNorm (between r 0.5 5.0) ]

let drawn (random: Random) : UpdateRule =
    (snd (among random (elementwise @ coupled))) random

/// Each wraps a rule once more.
let private wrappers: (Random -> UpdateRule -> UpdateRule) list =
    [ fun r rule -> UpdateRule.chain [ clipByGlobalNorm (between r 0.5 3.0); rule ]
      fun r rule -> UpdateRule.chain [ clipByValue (between r 0.5 2.0); rule ]
      fun _ rule -> UpdateRule.chain [ addDecay 0.1; rule ]
      fun _ rule -> decoupledDecay 0.1 0.2 rule
      fun _ rule -> maximise rule
      fun r rule -> UpdateRule.scheduled (Schedule.warmupCosine 0.1 0.05 2L (4L + int64 (r.Next 5))) rule
      fun r rule -> projectBox -0.9 (between r 0.5 1.5) rule
      fun _ rule -> projectSimplex rule ]

/// Each gives some parameters to another rule; they come last, since what is inside sees the others alone.
let private partitions (names: string list) : (Random -> UpdateRule -> UpdateRule) list =
    [ fun _ rule -> freeze [ List.head names ] rule
      fun r rule -> UpdateRule.groups [ (fun name -> name = List.last names), drawn r; (fun _ -> true), rule ] ]

/// A drawn rule in three drawn combinators.
let composition (names: string list) (random: Random) : UpdateRule =
    (drawn random, [ wrappers; wrappers; wrappers @ partitions names ])
    ||> List.fold (fun rule choices -> (among random choices) random rule)

/// Parameters of one to three dimensions, one of a single element; odd lengths.
let layout (random: Random) : Layout =
    let side () = int64 (random.Next(1, 6))

    Layout.create
        [ "matrix", [| side () + 1L; side () + 1L |]
          "vector", [| side () |]
          "one", [| 1L |]
          "stack", [| 2L; side () + 1L; side () + 1L |] ]

/// Gradients of the steps: some coordinates never see one.
let gradient (random: Random) (dtype: torch.ScalarType) (length: int64) : Tensor =
    let g = (normal (random.NextInt64 1000000L) [| length |]).to_type dtype
    g.narrow(0L, 0L, 2L).zero_ () |> ignore
    g
