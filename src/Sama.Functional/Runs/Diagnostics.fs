namespace Sama

open System

/// One method at a point, held against a reference.
[<NoComparison>]
type Comparison =
    {
        /// the method's name
        Method: string
        /// cosine of the two responses (h − direct gradient); NaN where one is 0
        Cosine: float
        /// ‖response‖/‖reference‖
        NormRatio: float
        /// ‖response − reference‖/‖reference‖
        RelativeError: float
        /// time of the whole hypergradient
        Milliseconds: float
        /// what the method did
        Report: Report
    }

/// A hypergradient at a point: flat vectors, which the owner of this object disposes with it.
[<ReferenceEquality>]
type HypergradientResult =
    {
        /// h = ∂L_meta/∂λ + (dθ*/dλ)ᵀ ∂L_meta/∂θ
        Total: Tensor
        /// ∂L_meta/∂λ, the first term of h
        Direct: Tensor
        /// what the method did
        Report: Report
    }

    /// Frees both vectors.
    member result.Dispose() : unit =
        result.Total.Dispose()
        result.Direct.Dispose()

    member internal result.Parts = result.Total, result.Direct, result.Report

    interface IDisposable with
        member result.Dispose() = result.Dispose()

/// SAMA's difference at one ε.
[<NoComparison>]
type EpsilonError =
    {
        /// α of ε = α/‖v‖
        Alpha: float
        /// the coordinates over which ‖v‖ is taken
        Norm: PerturbationNorm
        /// ε
        Epsilon: float
        /// to the exact mixed derivative of the same pass, or to differences of one base step
        RelativeError: float
    }

/// What `Hypergradient.check` found.
[<NoComparison>]
type CheckReport =
    {
        /// relative error of the method to central differences of the re-solved base problem, along `Directions` directions
        DifferenceError: float
        /// random directions of λ
        Directions: int
        /// ‖u‖ that the re-solved problems reached
        Solved: float
        /// relative error of central SAMA, from large to small ε: to the exact mixed derivative of the same pass, for modules to
        /// central differences of one base step along the directions
        Gaps: EpsilonError[]
        /// false if the gap does not shrink: a feature that depends on θ is detached without `pass.Stop`
        StopsComplete: bool
    }

namespace Sama.Functional

open System
open System.Diagnostics
open TorchSharp
open Sama

/// Hypergradients at a point, and what can be asked about them. Nothing here changes a state or a module.
module internal Diagnostics =

    let compute (problem: BilevelProblem) (state: RunState) : HypergradientResult =
        let h, direct, report = Bilevel.compute problem state

        { Total = h
          Direct = direct
          Report = report }

    /// h − direct gradient, and the report.
    let private responseBy problem state method =
        let found = compute (Problem.withMethod method problem) state
        found.Total - found.Direct, found.Report

    let compare problem state reference methods : Comparison list =
        Scope.run (fun _ ->
            let wide (x: Tensor) = x.to_type torch.float64
            let truth = wide (fst (responseBy problem state reference))
            let size = Method.size truth

            [ for method in methods ->
                  let clock = Stopwatch.StartNew()
                  let response, report = responseBy problem state method
                  let elapsed = clock.Elapsed.TotalMilliseconds
                  let response = wide response
                  let own = Method.size response

                  { Method = method.Name
                    Cosine = Number.read (response.dot truth) / (own * size)
                    NormRatio = own / size
                    RelativeError = Method.size (response - truth) / size
                    Milliseconds = elapsed
                    Report = report } ])

    let private samaAt alpha norm =
        SamaMethod.sama
            { SamaOptions.Default with
                Alpha = Nullable alpha
                Norm = norm }

    let epsilonSweep problem state (alphas: float list) (norms: PerturbationNorm list) : EpsilonError list =
        Scope.run (fun _ ->
            let limit, _ = responseBy problem state T1T2.method
            let size = max (Method.size limit) Double.Epsilon

            [ for norm in norms do
                  for alpha in alphas ->
                      let response, report = responseBy problem state (samaAt alpha norm)

                      { Alpha = alpha
                        Norm = norm
                        Epsilon = report.Epsilon.GetValueOrDefault nan
                        RelativeError = Method.size (response - limit) / size } ])

    /// Step of a central difference in λ.
    let private stepOf (lambda: Tensor) =
        (if lambda.dtype = torch.float64 then 1e-4 else 1e-2)
        * max 1.0 (Method.size lambda)

    /// Random unit directions of λ.
    let private directionsOf (state: RunState) count =
        use generator = new torch.Generator(uint64 state.Seed)

        [ for _ in 1..count ->
              let d =
                  torch.randn (state.Lambda.shape, dtype = torch.float64, generator = generator)

              (d / d.norm ()).``to`` (state.Lambda.dtype, state.Lambda.device) ]

    let private alphas = [ 1e-1; 1e-2; 1e-3; 1e-4 ]

    /// SAMA's error where nothing can be differentiated twice: against differences of the meta loss behind one base step.
    let private oneStepGaps (problem: BilevelProblem) (state: RunState) directions : EpsilonError list =
        Scope.run (fun _ ->
            let single =
                Problem.create
                    { problem.Options with
                        Unroll = 1
                        WarmUp = 0L
                        Precision = Precision.Own }
                    (SamaMethod.samaNa SamaOptions.Default)
                    (List.ofArray problem.Levels)

            let delta = stepOf state.Lambda

            let metaLoss (lambda: Tensor) =
                let _, reports = Bilevel.step single (RunState.at 1 lambda state)
                reports.Head.Meta.MetaLoss

            let slopes =
                [ for d in directions ->
                      (metaLoss (state.Lambda + d * delta) - metaLoss (state.Lambda - d * delta))
                      / (2.0 * delta) ]

            let size = sqrt (slopes |> List.sumBy (fun s -> s * s)) |> max Double.Epsilon

            [ for alpha in alphas ->
                  let found =
                      compute (Problem.withMethod (samaAt alpha PerturbationNorm.Active) single) state

                  let errors =
                      List.map2 (fun slope (d: Tensor) -> slope - Number.read (found.Total.dot d)) slopes directions

                  { Alpha = alpha
                    Norm = PerturbationNorm.Active
                    Epsilon = found.Report.Epsilon.GetValueOrDefault nan
                    RelativeError = sqrt (errors |> List.sumBy (fun e -> e * e)) / size } ])

    let check (problem: BilevelProblem) tolerance maxSteps (directions: int) (state: RunState) : CheckReport =
        Method.atLeast 1 (nameof directions) directions

        if problem.Levels.Length <> 2 then
            invalidArg
                (nameof problem)
                $"check solves the base problem again for every difference: it takes two levels, the problem has {problem.Levels.Length}"

        Scope.run (fun _ ->
            let solved, report = Bilevel.solve problem tolerance maxSteps state
            let h = (compute problem solved).Total
            let delta = stepOf solved.Lambda

            let metaLossAt (lambda: Tensor) =
                let again, r =
                    Bilevel.solve problem tolerance maxSteps (RunState.at 1 lambda solved)

                Bilevel.topLossAt problem again, r.Residual.GetValueOrDefault nan

            let along = directionsOf state directions

            let errors =
                [ for d in along ->
                      let plus, p = metaLossAt (solved.Lambda + d * delta)
                      let minus, m = metaLossAt (solved.Lambda - d * delta)
                      let slope = (plus - minus) / (2.0 * delta)
                      (slope - Number.read (h.dot d)) ** 2.0, slope ** 2.0, max p m ]

            let ofModules = problem.Levels |> Array.exists _.Module.IsSome

            let gaps =
                if ofModules then
                    oneStepGaps problem state along
                else
                    epsilonSweep problem state alphas [ PerturbationNorm.Active ]

            let first = gaps.Head.RelativeError
            let least = gaps |> List.map _.RelativeError |> List.min

            { DifferenceError =
                sqrt (errors |> List.sumBy (fun (e, _, _) -> e))
                / max (sqrt (errors |> List.sumBy (fun (_, s, _) -> s))) Double.Epsilon
              Directions = directions
              Solved =
                errors
                |> List.map (fun (_, _, u) -> u)
                |> List.max
                |> max (report.Residual.GetValueOrDefault nan)
              Gaps = Array.ofList gaps
              // differences of a float32 loss are good to a percent
              StopsComplete = least < (if ofModules then 2e-2 else 1e-3) || least < first / 10.0 })

    let unreached (problem: BilevelProblem) (state: RunState) draws : string list =
        Method.atLeast 1 (nameof draws) draws
        RunState.requireOf problem (nameof state) state
        let vectors = [| for level in state.Levels -> level.Vector |]

        let reachedBy index step =
            Bilevel.keepingModules problem (fun () ->
                let micros = Problem.micros problem state.Seed index step

                try
                    Problem.reached problem vectors micros.Head
                finally
                    for micro in micros do
                        (micro :> IDisposable).Dispose())

        let seen =
            [ for index in 0 .. problem.Levels.Length - 1 do
                  LearnedOptions.reached problem index vectors

                  for i in 0 .. draws - 1 do
                      let period = problem.Tiers[problem.Heights[index]].Period
                      reachedBy index (state.Step + int64 i * period) ]

        [ for j, level in Array.indexed problem.Levels do
              for i, slice in Seq.indexed level.Layout.Slices do
                  if seen |> List.forall (fun flags -> not flags[j].[i]) then
                      $"{level.Name}/{slice.Name}" ]
