namespace Sama

open System
open System.Collections.Generic

/// What a step spends its time on.
type RunPhase =
    /// what no other phase has: copies of buffers, checks, the report
    | Other = 0
    /// batches: a level's `data`, and moving them to its device
    | Data = 1
    /// passes of the lowest levels that give their gradients
    | Base = 2
    /// passes of the upper levels that give their own gradients
    | Meta = 3
    /// first-order passes at perturbed vectors, which a response asks for
    | Perturbed = 4
    /// products with second derivatives, and the reverse pass through a window
    | Products = 5
    /// update rules: adaptations, updates and their writing
    | Rule = 6
    /// sums over ranks
    | Reduction = 7
    /// waiting for numbers of the device, which the host looks at
    | Reading = 8

/// Time by phase. The phases exclude each other: their sum is the time of the step.
[<Sealed; AllowNullLiteral>]
type PhaseTimes internal (times: TimeSpan[]) =
    /// A phase's time.
    member _.Item
        with get (phase: RunPhase): TimeSpan = times[int phase]

    /// Their sum.
    member _.Total = TimeSpan(times |> Array.sumBy _.Ticks)

    /// The phases that took time, in their order.
    member _.Taken: IReadOnlyList<struct (RunPhase * TimeSpan)> =
        [| for i, time in Array.indexed times do
               if time > TimeSpan.Zero then
                   struct (enum<RunPhase> i, time) |]

    override times.ToString() =
        String.Join(", ", [ for struct (phase, time) in times.Taken -> $"{phase} {time.TotalMilliseconds:F2} ms" ])

namespace Sama.Functional

open System
open System.Diagnostics
open TorchSharp
open Sama

/// The one place that knows phases: what is running, and how long each has taken. For the thread of one step.
[<Sealed; AllowNullLiteral>]
type internal PhaseClock(spans: ActivitySource, synchronize: bool) =
    static let count = Enum.GetValues<RunPhase>().Length

    static let names =
        [| for phase in Enum.GetValues<RunPhase>() -> $"sama.{phase}".ToLowerInvariant() |]

    let ticks = Array.zeroCreate<int64> count
    let mutable current = RunPhase.Other
    let mutable since = Stopwatch.GetTimestamp()
    let mutable passes, products = 0, 0
    let mutable examples = 0L

    let turn (next: RunPhase) =
        if synchronize then
            torch.cuda.synchronize ()

        let now = Stopwatch.GetTimestamp()
        ticks[int current] <- ticks[int current] + now - since
        since <- now
        current <- next

    /// Runs `body` as that phase; a phase within takes its time away from it.
    member _.Within(phase: RunPhase, body: unit -> 'result) : 'result =
        use _ = spans.StartActivity names[int phase]
        let outer = current
        turn phase

        try
            body ()
        finally
            turn outer

    /// A pass over a base loss that a response asked for.
    member _.CountPass() = passes <- passes + 1

    /// Rows of a batch of one of the lowest levels.
    member _.CountExamples(rows: int64) = examples <- examples + rows

    /// A product with second derivatives.
    member _.CountProduct() = products <- products + 1

    member _.Passes = passes
    member _.Products = products
    member _.Examples = examples

    /// Times so far.
    member _.Read() : PhaseTimes =
        turn current
        PhaseTimes [| for t in ticks -> Stopwatch.GetElapsedTime(0L, t) |]

module internal PhaseClock =

    /// `body`, as that phase of the clock if there is one.
    let inline within (clock: PhaseClock) (phase: RunPhase) ([<InlineIfLambda>] body: unit -> 'result) : 'result =
        if isNull clock then
            body ()
        else
            clock.Within(phase, (fun () -> body ()))

    /// `body`, a pass over a base loss that a response asked for.
    let inline pass (clock: PhaseClock) ([<InlineIfLambda>] body: unit -> 'result) : 'result =
        if isNull clock then
            body ()
        else
            clock.CountPass()
            clock.Within(RunPhase.Perturbed, (fun () -> body ()))
