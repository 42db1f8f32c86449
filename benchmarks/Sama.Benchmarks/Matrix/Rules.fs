/// The rules of the matrix.
module Sama.Benchmarks.Matrix.Rules

open TorchSharp
open Sama
open Sama.Functional

/// A base rule, and what a method may ask of it.
[<NoComparison; NoEquality>]
type Rule =
    {
        Name: string
        Update: UpdateRule
        /// what is differentiated in its place: its own step, but for a sign with a surrogate
        Derivative: UpdateRule
        /// its coordinates see each other, or are not known not to
        Couples: bool
        /// words of the reason why it has no adaptation
        Refused: string option
    }

let private elementwise name update =
    { Name = name
      Update = update
      Derivative = update
      Couples = false
      Refused = None }

let private coupled name update =
    { elementwise name update with
        Couples = true }

let private rate = 0.05

let private lion surrogate =
    lionWith
        { LionOptions.Default with
            LearningRate = rate
            WeightDecay = 0.1
            Temperature = 0.3
            Surrogate = surrogate }

/// Lion with a differentiable f of the sign's argument in the sign's place.
let private lionThrough (f: Tensor -> Tensor) =
    UpdateRule.create
        "lion's surrogate"
        (fun theta -> RuleState.create 0L [ "exp_avg", torch.zeros_like theta ] [])
        (fun state g theta ->
            let m = state["exp_avg"]

            (f (m * 0.9 + g * 0.1) + theta * 0.1) * rate,
            RuleState.create (state.Count + 1L) [ "exp_avg", m * 0.99 + g * 0.01 ] [])

/// u = lr g/(|g| + 1), its adaptation left to differentiation.
let private stepAlone =
    UpdateRule.create "softSign" (fun _ -> RuleState.empty) (fun state g _ ->
        g * rate / (g.abs () + 1.0), { state with Count = state.Count + 1L })

/// m ← 0.8m + g, u = lr tanh m.
let private saturating =
    UpdateRule.create
        "tanh of momentum"
        (fun theta -> RuleState.create 0L [ "m", torch.zeros_like theta ] [])
        (fun state g _ ->
            let m = state["m"] * 0.8 + g
            m.tanh () * rate, RuleState.create (state.Count + 1L) [ "m", m ] [])

let private closed =
    saturating
    |> UpdateRule.withAdaptation (fun state g _ v ->
        let u = (state["m"] * 0.8 + g).tanh ()
        (v - v * u * u) * rate)
    |> UpdateRule.elementwise

/// u = lr (g + a (b·g)) with fixed a and b: ∂u/∂g is not symmetric.
let private oblique =
    let along (like: Tensor) (phase: float) =
        (torch.arange (like.numel (), dtype = like.dtype) + phase).sin () * 0.4

    UpdateRule.create "oblique" (fun _ -> RuleState.empty) (fun state g _ ->
        (g + along g 1.0 * (along g 2.0).dot g) * rate, { state with Count = state.Count + 1L })
    |> UpdateRule.withAdaptation (fun _ _ _ v -> (v + along v 2.0 * (along v 1.0).dot v) * rate)

let private isWeight (name: string) = name.EndsWith "weight"

let private decayed decoupled =
    adamWith
        { AdamOptions.Default with
            LearningRate = rate
            WeightDecay = 0.2
            DecoupledDecay = decoupled }

let private momentum =
    { SgdOptions.Default with
        LearningRate = rate
        Momentum = 0.9 }

/// With PyTorch's slack of 1e-6 the direction of g is lost below float32's rounding, and ∂u/∂θ is singular.
let private clipped = clipByGlobalNormWith 0.1 0.2

/// Every built-in rule, rules of a user's own, and every combinator.
let all: Rule list =
    [ elementwise "sgd" (sgd rate)
      elementwise
          "momentum, dampening, coupled decay"
          (sgdWith
              { momentum with
                  Dampening = 0.3
                  WeightDecay = 0.2 })
      elementwise "nesterov" (sgdWith { momentum with Nesterov = true })
      elementwise
          "maximize"
          (sgdWith
              { momentum with
                  Maximize = true
                  WeightDecay = 0.1 })
      elementwise "adam" (adam rate)
      elementwise "adam, coupled decay" (decayed false)
      elementwise "adamW" (decayed true)
      elementwise "amsgrad" (amsgrad rate)
      elementwise "adamax" (adamax rate)
      elementwise "nadam" (nadam rate)
      elementwise
          "nadam, decoupled decay"
          (nadamWith
              { NAdamOptions.Default with
                  LearningRate = rate
                  WeightDecay = 0.2
                  DecoupledDecay = true })
      elementwise
          "radam"
          (radamWith
              { RAdamOptions.Default with
                  LearningRate = rate
                  Beta2 = 0.9 })
      elementwise "rmsprop" (rmsprop rate)
      elementwise "adagrad" (adagrad rate)
      elementwise
          "adadelta"
          (adadeltaWith
              { AdadeltaOptions.Default with
                  Epsilon = 1e-3 })
      coupled
          "adafactor"
          (adafactorWith
              { AdafactorOptions.Default with
                  LearningRate = rate
                  Epsilon1 = System.Nullable 1e-5 })
      coupled
          "lamb"
          (lambWith
              { LambOptions.Default with
                  LearningRate = rate
                  WeightDecay = 0.1 })
      { elementwise "lion" (lion SignSurrogate.None) with
          Refused = Some "a sign" }
      { elementwise "lion, straight through" (lion SignSurrogate.StraightThrough) with
          Derivative = lionThrough id }
      { elementwise "lion, smooth" (lion SignSurrogate.Smooth) with
          Derivative = lionThrough (fun x -> x / (x * x + 0.09).sqrt ()) }
      elementwise
          "asgd"
          (asgdWith
              { AsgdOptions.Default with
                  LearningRate = rate
                  Lambd = 0.1
                  T0 = 2.0 })
      coupled "step alone" stepAlone
      elementwise "closed adaptation" closed
      coupled "closed adaptation, not symmetric" oblique
      coupled "clipByGlobalNorm → adam" (UpdateRule.chain [ clipped; adam rate ])
      elementwise "clipByValue → momentum" (UpdateRule.chain [ clipByValue 0.15; sgdWith momentum ])
      elementwise "addDecay → rmsprop" (UpdateRule.chain [ addDecay 0.2; rmsprop rate ])
      elementwise "decoupledDecay of adagrad" (decoupledDecay rate 0.2 (adagrad rate))
      elementwise "maximise of adam" (maximise (adam rate))
      elementwise "groups" (UpdateRule.groups [ isWeight, adam rate; (fun _ -> true), sgdWith momentum ])
      coupled
          "groups, one coupled"
          (UpdateRule.groups
              [ isWeight, UpdateRule.chain [ clipped; sgd rate ]
                (fun _ -> true), adamW rate 0.1 ])
      elementwise "freeze" (freeze [ "bias" ] (adam rate))
      elementwise "projectBox" (projectBox -0.4 0.35 (sgdWith momentum))
      coupled "projectSimplex" (projectSimplex (sgdWith momentum))
      coupled "project" (project (fun x -> x / (x * x).sum().add(Number.scalar 0.5).sqrt ()) (sgd rate))
      elementwise "scheduled adamW" (UpdateRule.scheduled (Schedule.cosine 0.1 20L) (decayed true))
      coupled
          "scheduled chain"
          (UpdateRule.scheduled (Schedule.warmupCosine 0.2 0.1 4L 20L) (UpdateRule.chain [ clipped; lamb rate ])) ]
