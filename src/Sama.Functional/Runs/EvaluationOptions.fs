namespace Sama

open System
open System.Collections.Generic

/// What is found between steps, and what a run makes of it. It is found without gradients, with the modules that the losses
/// call, and those that the functions below captured, in eval mode; modes, buffers and the CPU's random generator are put
/// back as they were.
[<Sealed; AllowNullLiteral>]
type EvaluationOptions() =
    /// What decides which state is the best, at (θ, λ) of the lowest and the highest level, borrowed; null: the metric that
    /// `Best` names.
    member val Score: Func<Params, Params, float> = null with get, set

    /// Several metrics by name, at (θ, λ), borrowed; null for none.
    member val Metrics: Func<Params, Params, IReadOnlyDictionary<string, float>> = null with get, set

    /// The metric that decides, without a `Score`; null: none does.
    member val Best: string = null with get, set

    /// Base steps between evaluations, at least 1. Default 100.
    member val Every = 100L with get, set

    /// True if a larger score is better. Default false: the score is a loss.
    member val Maximize = false with get, set

    /// By how much a score must be better to count. Default 0.
    member val MinDelta = 0.0 with get, set

    /// Scores in a row without improvement after which a run ends, at least 1. Default null: never.
    member val Patience: Nullable<int> = Nullable() with get, set

    /// Keeps a copy of the state of the best score; with a folder, as its best.safetensors too. Default false.
    member val KeepBest = false with get, set

    /// Goes back to the state of the best score where the run ends, by patience or not; keeps a copy of it. Default false.
    member val RestoreBest = false with get, set
