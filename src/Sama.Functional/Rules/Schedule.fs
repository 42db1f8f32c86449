namespace Sama.Functional

open System

/// Learning-rate schedules: pure functions of the steps taken (0 at the first) to a factor of the base rate, for
/// `UpdateRule.scheduled`.
module Schedule =

    let private requireSteps name (steps: int64) least =
        if steps < least then
            invalidArg name $"{name} is a number of steps of at least {least}, not {steps}"

    /// Always that factor. ArgumentException if it is negative or not finite.
    let constant (factor: float) : int64 -> float =
        Options.requireNonNegative (nameof factor) factor
        fun _ -> factor

    /// From `start` to `finish` along a line over `steps`, then `finish`. ArgumentException for less than one step.
    let linear (start: float) (finish: float) (steps: int64) : int64 -> float =
        Options.requireNonNegative (nameof start) start
        Options.requireNonNegative (nameof finish) finish
        requireSteps (nameof steps) steps 1L
        fun t -> start + (finish - start) * (float (min t steps) / float steps)

    /// `first` for `steps`, then `second` from its own step 0.
    let following (first: int64 -> float) (steps: int64) (second: int64 -> float) : int64 -> float =
        requireSteps (nameof steps) steps 0L
        fun t -> if t < steps then first t else second (t - steps)

    /// finish + (1 − finish)(1 + cos(πt/steps))/2 for ever: it rises again behind `steps`, as PyTorch's CosineAnnealingLR.
    /// ArgumentException for less than one step.
    let cosineWave (finish: float) (steps: int64) : int64 -> float =
        Options.requireNonNegative (nameof finish) finish
        requireSteps (nameof steps) steps 1L

        fun t -> finish + (1.0 - finish) * (1.0 + cos (Math.PI * float t / float steps)) / 2.0

    /// The same, and `finish` from `steps` on.
    /// ArgumentException for less than one step.
    let cosine (finish: float) (steps: int64) : int64 -> float =
        let wave = cosineWave finish steps
        fun t -> wave (min t steps)

    /// t/warmup, then (total − t)/(total − warmup), 0 from `total` on. ArgumentException unless 0 ≤ warmup < total.
    let warmupLinear (warmup: int64) (total: int64) : int64 -> float =
        requireSteps (nameof warmup) warmup 0L
        requireSteps (nameof total) total (warmup + 1L)
        following (linear 0.0 1.0 (max 1L warmup)) warmup (linear 1.0 0.0 (total - warmup))

    /// From `start` along a line to 1 at `warmup`, then a cosine to `finish` at `total`.
    /// ArgumentException unless 0 ≤ warmup < total.
    let warmupCosine (start: float) (finish: float) (warmup: int64) (total: int64) : int64 -> float =
        requireSteps (nameof warmup) warmup 0L
        requireSteps (nameof total) total (warmup + 1L)
        following (linear start 1.0 (max 1L warmup)) warmup (cosine finish (total - warmup))

    /// gamma^⌊t/every⌋. ArgumentException for less than one step.
    let step (gamma: float) (every: int64) : int64 -> float =
        Options.requireNonNegative (nameof gamma) gamma
        requireSteps (nameof every) every 1L
        fun t -> gamma ** float (t / every)

    /// The product of the factors whose boundary is reached; a boundary acts at t = boundary.
    let piecewise (factors: (int64 * float) list) : int64 -> float =
        for _, factor in factors do
            Options.requireNonNegative (nameof factors) factor

        fun t ->
            List.fold
                (fun product (boundary, factor) -> if t >= boundary then product * factor else product)
                1.0
                factors

    /// gamma^(t/every), a real power. ArgumentException for less than one step.
    let exponential (gamma: float) (every: int64) : int64 -> float =
        Options.requireNonNegative (nameof gamma) gamma
        requireSteps (nameof every) every 1L
        fun t -> gamma ** (float t / float every)
