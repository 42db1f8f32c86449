/// The windows of the matrix by first-order gradients and rules' steps alone.
module internal Sama.Benchmarks.Matrix.Windows

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Benchmarks.Matrix.Rules
open Sama.Benchmarks.Matrix.Subject

let wide (t: Tensor) = t.detach().to_type torch.float64

let layout =
    lazy (Layout.create [ for name, x in startOf torch.float64 -> name, x.shape ])

/// Gradients by flat θ and λ of a loss, computed in `dtype`.
let gradients (dtype: torch.ScalarType) (loss: Model -> Tensor -> Tensor -> Tensor) (theta: Tensor) (lambda: Tensor) =
    let leaf (t: Tensor) =
        t.detach().to_type(dtype).clone().requires_grad_ true

    let theta', lambda' = leaf theta, leaf lambda

    let model =
        modelOf (theta'.narrow(0L, 0L, 6L).view (2L, 3L)) (theta'.narrow (0L, 6L, 2L))

    (loss model (lambda'.narrow (0L, 0L, 2L)) (lambda'.narrow (0L, 2L, 1L))).backward ()
    theta'.grad.to_type theta.dtype, lambda'.grad.to_type lambda.dtype

/// How a stop-feature is had: from the record, or as it is at this θ.
type Feature =
    | Recorded of Tensor list
    | Fresh

/// The base problem of one base step: its batches.
let batches (way: Way) (step: int64) : Batch list =
    [ for i in 0 .. way.Accumulate - 1 ->
          batch
              { Seed = seed
                Step = step * int64 way.Accumulate + int64 i
                Stream = 0
                Rank = 0 } ]

/// Features of each batch at θ.
let featuresAt (way: Way) (dtype: torch.ScalarType) batches (theta: Tensor) (lambda: Tensor) : Feature =
    let seen = ResizeArray<Tensor>()

    if way.Stop then
        for batch in batches do
            let note (l: Tensor) =
                seen.Add(l.detach ())
                l.detach ()

            gradients dtype (fun model x r -> baseLoss model x r (Some note) batch) theta lambda
            |> ignore

    Recorded(List.ofSeq seen)

/// Mean gradients of the base loss by θ and λ.
let baseGradients (way: Way) dtype (batches: Batch list) (feature: Feature) theta lambda : (Tensor * Tensor) list =
    [ for i, batch in List.indexed batches ->
          let stop =
              match way.Stop, feature with
              | false, _ -> None
              | true, Recorded all -> Some(fun (l: Tensor) -> all[i].to_type l.dtype)
              | true, Fresh -> Some(fun (l: Tensor) -> l.detach ())

          gradients dtype (fun model x r -> baseLoss model x r stop batch) theta lambda ]

let mean (all: Tensor list) =
    (List.reduce (+) all) / Number.scalar (float all.Length)

/// A base step: where it began, what it saw, where it led.
[<NoComparison; NoEquality>]
type Taken =
    {
        Batches: Batch list
        Theta: Tensor
        State: RuleState
        Gradient: Tensor
        /// each micro-batch's
        Gradients: Tensor list
        Update: Tensor
        After: Tensor
    }

/// The steps of the window, in the state's own type, passes in theirs.
let window (rule: Rule) (way: Way) (state: RunState) : Taken list =
    let bound = UpdateRule.bind layout.Value rule.Update
    let passes = if way.Narrow then torch.bfloat16 else torch.float64

    let own (t: Tensor) =
        if way.Narrow then t.detach () else wide t

    let lambda = own state.Lambda

    let take (theta: Tensor, s: RuleState) k =
        let batches = batches way (state.Step + int64 k)
        let all = baseGradients way passes batches Fresh theta lambda |> List.map fst
        let g = mean all
        let u, next = bound.Step s g theta

        { Batches = batches
          Theta = theta
          State = s
          Gradient = g
          Gradients = all
          Update = u
          After = theta - u },
        (theta - u, next)

    ((own state.Theta, RuleState.map own state.Levels[0].Rule), [ 0 .. way.Unroll - 1 ])
    ||> List.mapFold take
    |> fst

let vec = Sama.Suite.toVector
let ten = Sama.Suite.ofVector

let local (body: unit -> 'a) : 'a =
    use _ = torch.NewDisposeScope()
    body ()

/// θₜ as a function of λ through the last `last` steps: the steps are taken again, each as far from the one that was taken
/// as its gradient and its derivative rule say. What rounding or bfloat16 adds to a gradient, and a surrogate to a sign, stays
/// what it was.
let unrolled (rule: Rule) (way: Way) (steps: Taken list) (lambda: Vec) (last: int) : Mat =
    let bound = UpdateRule.bind layout.Value rule.Derivative
    let steps = List.skip (steps.Length - last) steps
    let float64s (t: Tensor) = wide t

    let gradient batches theta lambda =
        baseGradients way torch.float64 batches Fresh theta lambda
        |> List.map fst
        |> mean

    let offsets =
        [ for step in steps ->
              let theta, g = wide step.Theta, wide step.Gradient
              let u, _ = bound.Step (RuleState.map float64s step.State) g theta
              g - gradient step.Batches theta (ten lambda), wide step.Update - u ]

    let run (lambda: Vec) =
        local (fun () ->
            let first = steps.Head

            ((wide first.Theta, RuleState.map float64s first.State), List.zip steps offsets)
            ||> List.fold (fun (theta, s) (step, (ofGradient, ofUpdate)) ->
                let g = gradient step.Batches theta (ten lambda) + ofGradient
                let u, next = bound.Step s g theta
                theta - u - ofUpdate, next)
            |> fst
            |> vec)

    Numbers.differences run 1e-3 lambda
