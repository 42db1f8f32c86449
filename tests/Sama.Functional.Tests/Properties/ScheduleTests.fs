/// Schedules under every rule and every kind of decay.
module Sama.Tests.ScheduleTests

open System
open Expecto
open TorchSharp
open Sama
open Sama.Functional
open Sama.Tests.Problems

/// The rule of a rate; how its decay is given: none, coupled, decoupled (1: decay per rate and θ).
type private Family =
    {
        Name: string
        Make: float -> UpdateRule
        /// u at g = 0 and a fresh state is this times rate·θ, where it is known
        AtRest: float option
    }

let private decay = 0.3

let private family name atRest make =
    { Name = name
      Make = make
      AtRest = atRest }

let private decayed (decoupled: bool) (amsgrad: bool) lr =
    adamWith
        { AdamOptions.Default with
            LearningRate = lr
            WeightDecay = decay
            DecoupledDecay = decoupled
            AmsGrad = amsgrad }

let private families =
    [ family "sgd" (Some 0.0) sgd
      family "sgd, coupled" (Some decay) (fun lr ->
          sgdWith
              { SgdOptions.Default with
                  LearningRate = lr
                  Momentum = 0.9
                  WeightDecay = decay })
      family "adam" (Some 0.0) adam
      family "adam, coupled" None (decayed false false)
      family "adamW" (Some decay) (decayed true false)
      family "amsgrad, decoupled" (Some decay) (decayed true true)
      family "adamax, coupled" None (fun lr ->
          adamaxWith
              { AdamaxOptions.Default with
                  LearningRate = lr
                  WeightDecay = decay })
      for decoupled in [ false; true ] do
          family $"nadam, decoupled {decoupled}" (if decoupled then Some decay else None) (fun lr ->
              nadamWith
                  { NAdamOptions.Default with
                      LearningRate = lr
                      WeightDecay = decay
                      DecoupledDecay = decoupled })

          family $"radam, decoupled {decoupled}" (if decoupled then Some decay else None) (fun lr ->
              radamWith
                  { RAdamOptions.Default with
                      LearningRate = lr
                      Beta2 = 0.8
                      WeightDecay = decay
                      DecoupledDecay = decoupled })
      family "rmsprop, coupled" None (fun lr ->
          rmspropWith
              { RmsPropOptions.Default with
                  LearningRate = lr
                  Momentum = 0.9
                  WeightDecay = decay })
      family "adagrad, coupled" None (fun lr ->
          adagradWith
              { AdagradOptions.Default with
                  LearningRate = lr
                  LearningRateDecay = 0.2
                  WeightDecay = decay })
      family "adadelta, coupled" None (fun lr ->
          adadeltaWith
              { AdadeltaOptions.Default with
                  LearningRate = lr
                  WeightDecay = decay })
      family "adafactor, decoupled" (Some decay) (fun lr ->
          adafactorWith
              { AdafactorOptions.Default with
                  LearningRate = lr
                  WeightDecay = decay })
      family "lamb" None (fun lr ->
          lambWith
              { LambOptions.Default with
                  LearningRate = lr
                  WeightDecay = decay })
      family "lion, decoupled" (Some decay) (fun lr ->
          lionWith
              { LionOptions.Default with
                  LearningRate = lr
                  WeightDecay = decay
                  Surrogate = SignSurrogate.Smooth })
      family "asgd, coupled and its own" None (fun lr ->
          asgdWith
              { AsgdOptions.Default with
                  LearningRate = lr
                  Lambd = 0.2
                  WeightDecay = decay })
      family "decoupledDecay beside adagrad" (Some decay) (fun lr -> decoupledDecay lr decay (adagrad lr))
      family "clip → adamW" (Some decay) (fun lr -> UpdateRule.chain [ clipByGlobalNorm 0.7; decayed true false lr ])
      family "groups" None (fun lr ->
          UpdateRule.groups [ (fun name -> name = "a"), decayed true false lr; (fun _ -> true), sgd lr ])
      family "box around adamW" (Some decay) (fun lr -> projectBox -100.0 100.0 (decayed true false lr)) ]

let private layout = Layout.create [ "a", [| 2L |]; "b", [| 2L; 2L |] ]
let private schedule (t: int64) = [| 1.0; 0.4; 0.0; 1.7; 0.05 |][int t]
let private rate = 0.1

let private same what (a: Tensor) (b: Tensor) =
    Expect.isLessThanOrEqual ((a - b).abs().max().item<float> ()) (4e-16 * (1.0 + b.abs().max().item<float> ())) what

/// Every product with a Jacobian of the bound rule at one place.
let private derivatives (bound: BoundRule) state (g: Tensor) (theta: Tensor) (v: Tensor) : (string * Tensor) list =
    let of' name (jacobian: Jacobian) =
        [ $"{name}, pulled", jacobian.Pull state g theta v
          $"{name}, pushed", jacobian.Push state g theta v ]

    let byGradient =
        match bound.ByGradient with
        | Ok jacobian -> of' "∂u/∂g" jacobian
        | Error _ -> []

    byGradient @ of' "∂u/∂θ" bound.ByTheta

let private inPlace (bound: BoundRule) (state: RuleState) (g: Tensor) theta =
    let live, out = RuleState.map _.clone() state, torch.empty_like g
    bound.InPlace.Advance live g theta out |> ignore
    out

let private values (schedule: int64 -> float) (ts: int64 list) = ts |> List.map schedule

/// Displacements of scheduled sgd under a gradient of 1: the factors that act.
let private moves (schedule: int64 -> float) steps : float list =
    let bound =
        UpdateRule.bind (Layout.create [ "x", [| 1L |] ]) (UpdateRule.scheduled schedule (sgd 1.0))

    let g = torch.ones (1L, dtype = f64)

    (bound.Init g, [ 1..steps ])
    ||> List.mapFold (fun state _ ->
        let u, next = bound.Step state g g
        u.item<float> (), next)
    |> fst

let tests =
    testList
        "schedules"
        [ for family in families do
              testCase $"{family.Name}: under a schedule = of the scheduled rate, derivatives and in-place twin too"
              <| fun _ ->
                  use _ = torch.NewDisposeScope()

                  let bound =
                      UpdateRule.bind layout (UpdateRule.scheduled schedule (family.Make rate))

                  let mutable theta = normal 1L [| 6L |]
                  let mutable state = bound.Init theta

                  for t in 0L .. 4L do
                      let g, v = normal (10L + t) [| 6L |], normal (20L + t) [| 6L |]
                      let now = UpdateRule.bind layout (family.Make(rate * schedule t))
                      let u, next = bound.Step state g theta
                      let expected, expectedNext = now.Step state g theta
                      same $"t = {t}: u" u expected
                      same $"t = {t}: in place" (inPlace bound state g theta) expected
                      List.iter2 (same $"t = {t}: state") (RuleState.tensors next) (RuleState.tensors expectedNext)

                      for (name, ours), (_, theirs) in
                          List.zip (derivatives bound state g theta v) (derivatives now state g theta v) do
                          same $"t = {t}: {name}" ours theirs

                      theta <- theta - u
                      state <- next

              match family.AtRest with
              | None -> ()
              | Some decay ->
                  testCase $"{family.Name}: without gradients the schedule's decay is all that moves"
                  <| fun _ ->
                      use _ = torch.NewDisposeScope()

                      let bound =
                          UpdateRule.bind layout (UpdateRule.scheduled schedule (family.Make rate))

                      let theta, g = normal 1L [| 6L |], torch.zeros (6L, dtype = f64)
                      let mutable state = bound.Init theta

                      // with momentum the first step alone is the decay of that step
                      for t in 0L .. (if family.Name.StartsWith "sgd" then 0L else 4L) do
                          let u, next = bound.Step state g theta
                          let expected = theta * (rate * schedule t * decay)
                          same $"t = {t}" u expected
                          same $"t = {t}: in place" (inPlace bound state g theta) expected
                          state <- next

          testCase "cosine: its formula up to the end, the end for ever"
          <| fun _ ->
              for finish in [ 0.0; 0.1 ] do
                  let cosine = Schedule.cosine finish 10L

                  let formula (t: int64) =
                      finish + (1.0 - finish) * (cos (Math.PI * float t / 10.0) + 1.0) / 2.0

                  for t in 0L .. 10L do
                      Expect.floatClose Accuracy.veryHigh (cosine t) (formula t) $"t = {t}"

                  Expect.all (values cosine [ 10L; 11L; 15L; 20L; 1000L ]) (fun x -> abs (x - finish) < 1e-15) "the end"

          testCase "scheduled by a cosine to 0, θ comes to rest at its end and stays"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let moves = moves (Schedule.cosine 0.0 6L) 14
              Expect.all (List.take 6 moves) (fun x -> x > 0.0) "until the end"
              Expect.all (List.skip 6 moves) (fun x -> abs x < 1e-15) "from it on"
              // the mean of the factors is a half and the half of the first
              Expect.floatClose Accuracy.high (List.sum moves) 3.5 "way"

          testCase "the tail of warmupCosine is its finish"
          <| fun _ ->
              let schedule = Schedule.warmupCosine 0.0 0.2 4L 10L
              Expect.all (values schedule [ 10L; 11L; 16L; 99L ]) (fun x -> abs (x - 0.2) < 1e-15) "the end"

          testCase "warm-up: along a line from its start to 1, then on"
          <| fun _ ->
              let close what (a: float list) (b: float list) =
                  List.iter2 (fun (a: float) b -> Expect.floatClose Accuracy.veryHigh a b what) a b

              close
                  "linear"
                  (values (Schedule.warmupLinear 4L 8L) [ 0L .. 9L ])
                  [ 0.0; 0.25; 0.5; 0.75; 1.0; 0.75; 0.5; 0.25; 0.0; 0.0 ]

              close "cosine" (values (Schedule.warmupCosine 0.2 0.0 4L 8L) [ 0L .. 4L ]) [ 0.2; 0.4; 0.6; 0.8; 1.0 ]
              close "none" (values (Schedule.warmupLinear 0L 4L) [ 0L; 1L ]) [ 1.0; 0.75 ]

          testCase "scheduled by a warm-up, the first steps grow by equal amounts"
          <| fun _ ->
              use _ = torch.NewDisposeScope()
              let moves = moves (Schedule.warmupCosine 0.0 0.0 5L 9L) 6
              let growth = List.pairwise moves |> List.map (fun (a, b) -> b - a)
              Expect.equal moves.Head 0.0 "from 0"
              Expect.all growth (fun g -> abs (g - 0.2) < 1e-12) "by a fifth"
              Expect.floatClose Accuracy.high (List.last moves) 1.0 "to 1" ]
