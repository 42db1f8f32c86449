namespace Sama.Functional

open System
open System.Collections.Generic
open System.Globalization
open TorchSharp
open Sama

/// Evaluations of a run: the best score so far, its state if that is wanted, and how long ago it was. ArgumentException for
/// options out of range.
[<Sealed>]
type internal Evaluator(options: EvaluationOptions) =
    let refuse (name: string) (why: string) = invalidArg name why

    do
        if isNull options.Score && isNull options.Metrics then
            refuse "Score" "an evaluation has a Score, or Metrics"

        if not (isNull options.Score || isNull options.Best) then
            refuse "Best" "Score decides already: leave one of Score and Best out"

        let decides = not (isNull options.Score && isNull options.Best)

        if
            not decides
            && (options.Patience.HasValue || options.KeepBest || options.RestoreBest)
        then
            refuse "Best" "patience and the best state need a score: give Score, or the metric that decides as Best"

        if options.Every < 1L then
            refuse "Every" $"Every is at least 1, not {options.Every}"

        if not (options.MinDelta >= 0.0) then
            refuse "MinDelta" $"MinDelta is at least 0, not {options.MinDelta}"

        if options.Patience.HasValue && options.Patience.Value < 1 then
            refuse "Patience" $"Patience is at least 1, not {options.Patience.Value}"

    let modules = lazy Captured.modules [| box options.Score; box options.Metrics |]

    let mutable best = Nullable<float>()
    let mutable bestStep = 0L
    let mutable since = 0
    let mutable state: RunState option = None

    let forget () =
        state |> Option.iter _.Dispose()
        state <- None

    let find (run: BilevelRun) : Dictionary<string, float> =
        let found = Dictionary<string, float>()

        run.Between(
            modules.Value,
            fun () ->
                if not (isNull options.Metrics) then
                    match options.Metrics.Invoke(run.Theta, run.Lambda) with
                    | null -> invalidOp "Metrics gave null; a dictionary is expected"
                    | metrics ->
                        for metric in metrics do
                            found[metric.Key] <- metric.Value

                if not (isNull options.Score) then
                    if found.ContainsKey "score" then
                        invalidOp "Metrics has a 'score', beside Score: give it another name"

                    found["score"] <- options.Score.Invoke(run.Theta, run.Lambda)
        )

        // every rank has its own rows, and all have to decide alike
        let ranks = run.Problem.Communicator

        if ranks.Size > 1 then
            let names = found.Keys |> Seq.sort |> Array.ofSeq
            let byRank = ranks.Gather [| for name in names -> found[name] |]

            for i, name in Array.indexed names do
                found[name] <- byRank |> Array.averageBy (fun own -> own[i])

        found

    let scoreOf (found: Dictionary<string, float>) : Nullable<float> =
        let name = if isNull options.Score then options.Best else "score"

        if isNull name then
            Nullable()
        else
            match found.TryGetValue name with
            | true, score -> Nullable score
            | _ ->
                let known = String.Join(", ", found.Keys)
                invalidOp $"Metrics has no '{name}', which is to decide (Best); it has: {known}"

    /// Takes a score in; NaN never improves.
    let improves (score: float) step : bool =
        let gain =
            if not best.HasValue then infinity
            elif options.Maximize then score - best.Value
            else best.Value - score

        if Double.IsNaN score || gain <= options.MinDelta then
            since <- since + 1
            false
        else
            best <- Nullable score
            bestStep <- step
            since <- 0
            true

    let text (value: float) =
        value.ToString("R", CultureInfo.InvariantCulture)

    member _.Options = options
    member _.Best = best

    /// A copy of the best state, its own; None before there is one, or where none is kept.
    member _.State = state

    /// True if states are kept.
    member _.Keeps = options.KeepBest || options.RestoreBest

    /// Evaluates the run where it stands, and keeps its state if it is the best so far and that is wanted.
    member evaluator.Evaluate(run: BilevelRun) : Evaluation =
        let step = run.StepsTaken
        let found = find run
        let score = scoreOf found
        let improved = score.HasValue && improves score.Value step

        if improved && evaluator.Keeps then
            evaluator.Keep(run.Snapshot())

        let stop = options.Patience.HasValue && since >= options.Patience.Value
        let evaluation = Evaluation(step, score, found, improved, best, bestStep, stop)
        run.Tell evaluation
        evaluation

    /// What a checkpoint says of it.
    member _.Notes: (string * string) list =
        [ "score.since", since.ToString CultureInfo.InvariantCulture
          if best.HasValue then
              "score.best", text best.Value
              "score.step", bestStep.ToString CultureInfo.InvariantCulture ]

    /// Goes on from what a checkpoint said.
    member _.Resume(notes: IReadOnlyDictionary<string, string>) : unit =
        let known name read other =
            match notes.TryGetValue name with
            | true, text -> read text
            | _ -> other

        since <- known "score.since" (fun text -> Int32.Parse(text, CultureInfo.InvariantCulture)) 0
        best <- known "score.best" (fun text -> Nullable(Double.Parse(text, CultureInfo.InvariantCulture))) (Nullable())
        bestStep <- known "score.step" (fun text -> Int64.Parse(text, CultureInfo.InvariantCulture)) 0L

    /// The best state, which it owns from now on.
    member _.Keep(own: RunState) : unit =
        forget ()
        state <- Some own

    /// The best state is lost: scores start anew.
    member _.Forget() : unit =
        forget ()
        best <- Nullable()
        bestStep <- 0L

    interface IDisposable with
        member _.Dispose() = forget ()
