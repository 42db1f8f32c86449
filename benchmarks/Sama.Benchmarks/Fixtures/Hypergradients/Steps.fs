/// One SAMA step: the base step, what SAMA is made of, and SAMA at every α, centre and norm.
module Sama.Fixtures.Hypergradients.Steps

open System
open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Reference
open Sama.Fixtures
open Sama.Fixtures.Hypergradients.Json

/// What a method sees of the base step, all in the oracle's vectors.
type private Seen =
    {
        Before: Vec
        After: Vec
        Gradient: Vec
        LambdaGradient: Vec
        Diagonal: Vec
        MetaGradient: Vec
        Adapted: Vec
        /// −(∂g/∂λ)ᵀv at θₜ₋₁ and at θₜ
        PlainLimits: Vec * Vec
    }

let private look (levels: Level list) : Seen =
    let mutable seen = None

    let method =
        Hypergradient.create "look" [ Adaptation; SecondDerivatives ] (fun at v ->
            use _ = torch.NewDisposeScope()

            let limit theta =
                Suite.toVector (-at.Linearize(theta, false).LambdaVjp v)

            seen <-
                Some
                    { Before = Suite.toVector at.ThetaBefore
                      After = Suite.toVector at.Theta
                      Gradient = Suite.toVector at.Gradient
                      LambdaGradient = Suite.toVector (at.LambdaGradient at.ThetaBefore)
                      Diagonal = Suite.toVector (at.Adapt(torch.ones_like v))
                      MetaGradient = Suite.toVector v
                      Adapted = Suite.toVector (at.Adapt v)
                      PlainLimits = limit at.ThetaBefore, limit at.Theta }

            torch.zeros_like(at.Lambda).DetachFromDisposeScope(), Report.empty "look")

    Library.ofLevels method levels |> ignore
    seen.Value

let private centre (row: JsonElement) =
    match text "centre" row with
    | "preUpdate" -> Centre.PreUpdate
    | "postUpdate" -> Centre.PostUpdate
    | other -> invalidArg "centre" $"'{other}' is no centre"

let private norm (row: JsonElement) =
    match text "norm" row with
    | "active" -> PerturbationNorm.Active
    | "all" -> PerturbationNorm.All
    | other -> invalidArg "norm" $"'{other}' is no norm"

let private differenceTolerance (row: JsonElement) = max 1e-11 (1e-12 / number "alpha" row)

let private optionsOf (row: JsonElement) =
    { SamaOptions.Default with
        Alpha = Nullable(number "alpha" row)
        Centre = centre row }

let private samaRows (place: Place) levels (pre: Vec) (post: Vec) (row: JsonElement) : Row.Row list =
    let place =
        { place with
            Case = $"""{place.Case} sama {text "centre" row} {text "norm" row} alpha={number "alpha" row}""" }

    let answer =
        Library.ofLevels (Hypergradient.samaWith { optionsOf row with Norm = norm row }) levels

    let limit = if centre row = Centre.PreUpdate then pre else post
    let tolerance = differenceTolerance row

    [ numberRow place "epsilon" 1e-11 answer.Report.Epsilon.Value (number "epsilon" row)
      vectorRow place "bestResponseVjp" tolerance answer.Response (vector "bestResponseVjp" row)
      numberRow
          place
          "relativeErrorToLimit"
          tolerance
          (Numbers.relativeError answer.Response limit)
          (number "relativeErrorToLimit" row) ]
    @ comparisonRows place "toOneStepUnrolled." tolerance answer.Response pre (item "toOneStepUnrolled" row)

let private oneSidedRows (place: Place) levels (pre: Vec) (row: JsonElement) =
    let place =
        { place with
            Case = $"""{place.Case} samaOneSided alpha={number "alpha" row}""" }

    let answer =
        Library.ofLevels
            (Hypergradient.samaWith
                { optionsOf row with
                    Norm = norm row
                    OneSided = true })
            levels

    let tolerance = differenceTolerance row

    [ vectorRow place "bestResponseVjp" tolerance answer.Response (vector "bestResponseVjp" row)
      numberRow
          place
          "relativeErrorToLimit"
          tolerance
          (Numbers.relativeError answer.Response pre)
          (number "relativeErrorToLimit" row) ]

let private samaNaRows (place: Place) levels (seen: Seen) (plain: JsonElement) =
    let place =
        { place with
            Case = $"{place.Case} samaNa" }

    let norm = norm plain

    let answer row =
        Library.ofLevels (Hypergradient.samaNaWith { optionsOf row with Norm = norm }) levels

    [ numberRow
          place
          "normActive"
          1e-11
          (answer (items "rows" plain).Head).Report.ActiveNorm.Value
          (number "normActive" plain)
      vectorRow place "limitPreUpdate" 1e-11 (fst seen.PlainLimits) (vector "limitPreUpdate" plain)
      vectorRow place "limitPostUpdate" 1e-11 (snd seen.PlainLimits) (vector "limitPostUpdate" plain)
      for row in items "rows" plain do
          let place =
              { place with
                  Case = $"""{place.Case} {text "centre" row} alpha={number "alpha" row}""" }

          vectorRow
              place
              "bestResponseVjp"
              (differenceTolerance row)
              (answer row).Response
              (vector "bestResponseVjp" row) ]

/// The base step itself, and what is derived from it.
let private stepRows place (network: Networks.Network) levels (seen: Seen) lambda (batch: int[]) (s: JsonElement) =
    use _ = torch.NewDisposeScope()
    let lambda = Networks.parameters network.Lambda lambda
    let detach (f: Tensor) = f.detach ()
    let before = Networks.parameters network.Theta seen.Before
    let after = Networks.parameters network.Theta seen.After
    let value (loss: Tensor) = loss.item<float> ()
    let _, state = Library.advance 1 levels
    let sama = (Library.ofLevels Hypergradient.sama levels).Report

    let zeros =
        match state.Tensors.TryGetValue "exp_avg_sq" with
        | true, second -> second.eq(Scalar.op_Implicit 0.0).sum().item<int64> ()
        | _ -> 0L

    let active = seen.Gradient |> Seq.filter (fun g -> g <> 0.0) |> Seq.length

    let vector quantity found =
        vectorRow place quantity 1e-11 found (vector quantity s)

    let number quantity found =
        numberRow place quantity 1e-11 found (number quantity s)

    [ number "baseLoss" (value (network.Base detach before lambda batch))
      number "metaLoss" (value (network.Meta after lambda))
      vector "baseGradient" seen.Gradient
      vector "baseGradientLambda" seen.LambdaGradient
      vector "update" (seen.Before - seen.After)
      vector "thetaAfter" seen.After
      vector "metaGradientTheta" seen.MetaGradient
      vector "adaptationDiagonal" seen.Diagonal
      vector "adaptedVector" seen.Adapted
      number "normAll" sama.Norm.Value
      number "normActive" sama.ActiveNorm.Value
      number "activeCoordinates" (float active)
      number "zeroSecondMomentCoordinates" (float zeros)
      match network.Feature with
      | Some feature -> vector "feature" (Suite.toVector (feature before))
      | None -> () ]
    @ Rules.rows place "stateAfter" 1e-11 state (item "stateAfter" s)

/// Every quantity of one entry of `steps`, at θ₋.
let rows (place: Place) network (theta: Vec) (lambda: Vec) (batch: int[]) (s: JsonElement) : Row.Row list =
    use _ = torch.NewDisposeScope()
    let levels = Networks.levels network (Rules.from s) theta lambda (fun _ -> batch)
    let seen = look levels
    let answer method = Library.ofLevels method levels

    let one, pre = answer (Hypergradient.truncated 1), answer Hypergradient.t1t2

    // T1–T2 with its derivative taken behind the step
    let post =
        answer (
            Hypergradient.create "t1t2 at θₜ" [ Adaptation; SecondDerivatives ] (fun at v ->
                at.Linearize(at.Theta, false).LambdaVjp(at.Adapt v).neg_ (), Report.empty "t1t2 at θₜ")
        )

    let unrolled, limit = item "oneStepUnrolled" s, item "limitPostUpdate" s
    let response = vector "bestResponseVjp"

    stepRows place network levels seen lambda batch s
    @ [ vectorRow place "directGradient" 1e-11 pre.Direct (vector "directGradient" s)
        vectorRow place "oneStepUnrolled.bestResponseVjp" 1e-11 one.Response (response unrolled)
        vectorRow place "oneStepUnrolled.hypergradient" 1e-11 one.Total (vector "hypergradient" unrolled)
        vectorRow place "limitPreUpdate.bestResponseVjp" 1e-11 pre.Response (response unrolled)
        vectorRow place "limitPostUpdate.bestResponseVjp" 1e-11 post.Response (response limit) ]
    @ comparisonRows
        place
        "limitPostUpdate.toOneStepUnrolled."
        1e-11
        post.Response
        pre.Response
        (item "toOneStepUnrolled" limit)
    @ (items "sama" s
       |> List.collect (samaRows place levels pre.Response post.Response))
    @ (items "samaOneSided" s |> List.collect (oneSidedRows place levels pre.Response))
    @ samaNaRows place levels seen (item "samaNa" s)
