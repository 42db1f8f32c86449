/// What a rank does in a test: it prints "name=value" lines, which the test reads.
module Sama.Ranks.Tests.Cases

open System
open TorchSharp
open Sama
open Sama.Functional
open Sama.Ranks.Tests.Problems

let private output = Console.OpenStandardOutput()

// one write a line: Console writes a long one in pieces, and a launcher puts another rank's line between them
let say (name: string) (value: obj) =
    output.Write(ReadOnlySpan(Text.Encoding.UTF8.GetBytes $"{name}={value}\n"))

let private unroll k =
    { BilevelOptions.Default with
        Unroll = k }

let private accumulate k =
    { BilevelOptions.Default with
        Accumulate = k }

/// The hypergradient of ranks beside that of one rank on the rows of all: behind two windows, which both take.
let private compared (ranks: Communicator) name (make: Rows -> BilevelProblem) (plan: ReductionOptions) =
    let problem = make Own |> Problem.onRanksWith plan ranks
    let joined = make (OfAll ranks.Size)
    let mutable shared, alone = Bilevel.start 3L problem, Bilevel.start 3L joined

    for _ in 1..2 do
        shared <- fst (Bilevel.step problem shared)
        alone <- fst (Bilevel.step joined alone)

    let ours, theirs =
        Hypergradient.compute problem shared, Hypergradient.compute joined alone

    let direct =
        if theirs.Direct.norm().item<float> () = 0.0 then
            0.0
        else
            distance ours.Direct theirs.Direct

    say name (max (distance ours.Total theirs.Total) direct)
    say (name + ".theta") (distance shared.Theta alone.Theta)
    (ours.Total.norm () / theirs.Total.norm ()).item<float> ()

let private methods: (string * HypergradientMethod) list =
    [ "t1t2", Hypergradient.t1t2
      "neumann", Hypergradient.neumann 5 0.5
      "conjugateGradient", Hypergradient.conjugateGradient 10
      "fixedPoint", Hypergradient.fixedPoint 20 0.5
      "nystrom", Hypergradient.nystrom 10
      "exact", Hypergradient.exact
      "unrolled", Hypergradient.unrolled
      "f2sa", Hypergradient.f2sa
      "samaFisher", Hypergradient.samaFisher ]

/// Hypergradients.
let agreement (ranks: Communicator) =
    let joined = ReductionOptions.Default

    for k in [ 1; 3 ] do
        for name, method in [ "sama", Hypergradient.sama; "samaNa", Hypergradient.samaNa ] do
            compared ranks $"{name}.K{k}" (fun rows -> reweighting rows (unroll k) (adam 1e-2) method) joined
            |> ignore

    compared ranks "accumulated" (fun rows -> reweighting rows (accumulate 3) (adam 1e-2) Hypergradient.sama) joined
    |> ignore

    let oneSided =
        Hypergradient.samaWith
            { SamaOptions.Default with
                OneSided = true
                Nudge = 0.1 }

    compared ranks "oneSided" (fun rows -> reweighting rows (unroll 1) (adam 1e-2) oneSided) joined
    |> ignore

    for name, method in methods do
        compared ranks name (fun rows -> regularised rows (unroll 2) (adam 1e-2) method) joined
        |> ignore

    for response in [ MiddleResponse.Total; MiddleResponse.Held ] do
        for name, method in [ "sama", Hypergradient.sama; "t1t2", Hypergradient.t1t2 ] do
            compared ranks $"three.{response}.{name}" (fun rows -> threeLevels rows response method) joined
            |> ignore

    let local =
        { joined with
            Response = ResponseReduction.Local }

    let ratio =
        compared ranks "local" (fun rows -> reweighting rows (unroll 1) (adam 1e-2) Hypergradient.sama) local

    say "local.norm" ratio

/// Runs of so many steps, whole and in buckets of every size, and one of them again: θ and λ of every rank.
let trajectories (ranks: Communicator) (steps: int) =
    let run name (bucketBytes: int64) =
        let problem =
            deep 24L 6 f64
            |> Problem.onRanksWith
                { ReductionOptions.Default with
                    BucketBytes = bucketBytes }
                ranks

        // the seed is rank 0's
        use run = new BilevelRun(problem, int64 ranks.Rank + 7L)

        for _ in 1..steps do
            run.Step() |> ignore

        use state = run.Snapshot()
        say $"{name}.rank{ranks.Rank}" (Checksum.ofTensors [ state.Theta; state.Lambda ])
        say $"{name}.early" ranks.Early

    for name, bytes in [ "whole", 0L; "each", 1L; "some", 10_000L; "again", 10_000L ] do
        run name bytes

/// Sums of vectors of every kind, against whole numbers; of every range, against the whole.
let sums (ranks: Communicator) =
    let wait (task: Threading.Tasks.Task) = task.GetAwaiter().GetResult()
    let total = float (ranks.Size * (ranks.Size + 1) / 2)

    for length in [ 1L; 2L; 3L; 7L; 1000L; 262_144L; 262_145L; 2_500_003L ] do
        for dtype in [ torch.float32; torch.float64; torch.bfloat16 ] do
            use x = torch.full ([| length |], scalar (float ranks.Rank + 1.0), dtype = dtype)
            wait (ranks.Sum x)
            let off = (x.to_type torch.float64 - total).abs().max().item<float> ()

            if off <> 0.0 then
                say $"wrong.{dtype}.{length}" off

    let length = 700_001L
    let own = normal (100L + int64 ranks.Rank) [| length |]
    use whole = own.clone ()
    wait (ranks.Sum whole)

    for cuts in
        [ [ 0L; length ]
          [ 0L; 5L; 300_000L; length ]
          [ 0L; 131_072L; 131_073L; 699_999L; length ] ] do
        use parts = own.clone ()

        let tasks =
            [ for first, last in List.pairwise cuts -> ranks.Sum(parts, first, last - first) ]

        tasks |> List.iter wait

        if not (parts.Equals whole) then
            say "wrong.cut" (string cuts)

    use text = torch.arange 3_000_000L

    let mine =
        if ranks.Rank = ranks.Size - 1 then
            text.clone ()
        else
            torch.zeros_like text

    wait (ranks.Broadcast(mine, ranks.Size - 1))

    if not (mine.Equals text) then
        say "wrong.broadcast" ranks.Rank

    let gathered = ranks.Gather [| for i in 1..40 -> float (100 * ranks.Rank + i) |]

    if
        gathered
        <> [| for r in 0 .. ranks.Size - 1 -> [| for i in 1..40 -> float (100 * r + i) |] |]
    then
        say "wrong.gather" ranks.Rank

    if ranks.Any false || not (ranks.Any(ranks.Rank = 1)) then
        say "wrong.any" ranks.Rank

    if ranks.Mean(float ranks.Rank) <> float (ranks.Size - 1) / 2.0 then
        say "wrong.mean" ranks.Rank

    ranks.Barrier()
    say "whole" (Checksum.ofTensors [ whole ])

/// A checkpoint of five steps, and five steps more from it, in a folder of another number of ranks perhaps.
let resumed (ranks: Communicator) (folder: string) (steps: int64) =
    let problem = deep 24L 3 f64 |> Problem.onRanks ranks

    let options =
        { GuardOptions.Default with
            Folder = folder }

    use found = Resume.latest folder problem

    use run =
        if isNull found then
            GuardedRun.FromSeed(problem, 3L, options)
        else
            new GuardedRun(problem, found.State, options)

    say $"from.rank{ranks.Rank}" run.Run.StepsTaken
    use started = run.Run.Snapshot()
    say $"start.rank{ranks.Rank}" (Checksum.ofTensors [ started.Theta; started.Lambda ])
    run.RunTo(steps, Threading.CancellationToken.None)
    use state = run.Run.Snapshot()
    say $"end.rank{ranks.Rank}" (Checksum.ofTensors [ state.Theta; state.Lambda; yield! state.Levels[0].Rule.All ])

/// Many steps in buckets: tensors and memory behind a fifth of them, and behind all.
let steady (ranks: Communicator) (steps: int) (bucketBytes: int64) =
    let problem =
        deep 8L 4 f64
        |> Problem.onRanksWith
            { ReductionOptions.Default with
                BucketBytes = max 0L bucketBytes }
            ranks

    use run = new BilevelRun(problem, 1L)

    let measure name =
        for _ in 1..3 do
            GC.Collect()
            GC.WaitForPendingFinalizers()

        let memory = IO.File.ReadLines "/proc/self/status" |> Seq.find _.StartsWith("VmRSS")
        say $"{name}.tensors.rank{ranks.Rank}" Tensor.TotalCount
        say $"{name}.memory.rank{ranks.Rank}" (memory.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1])
        say $"{name}.managed.rank{ranks.Rank}" (GC.GetTotalMemory true)

    use small = torch.ones 100L

    // on cores that others share, as many steps as go in two minutes
    let clock = Diagnostics.Stopwatch.StartNew()
    let mutable i = 0

    while i < steps
          && (i % 100 > 0 || not (ranks.Any(i > 0 && clock.Elapsed.TotalSeconds > 120.0))) do
        if bucketBytes < 0L then
            for _ in 1..9 do
                (ranks.Mean small).Wait()
        else
            run.Step() |> ignore

        i <- i + 1

        if i = steps / 20 then
            measure "first"

    say "steps" i
    measure "last"

/// Buffers of modules behind some steps, under both ways.
let buffers (ranks: Communicator) =
    for way in [ RankBuffers.First; RankBuffers.Mean ] do
        let net, problem = normalised ()

        let problem =
            problem
            |> Problem.onRanksWith
                { ReductionOptions.Default with
                    Buffers = way }
                ranks

        use run = new BilevelRun(problem, 1L)

        for _ in 1..5 do
            run.Step() |> ignore

        use state = run.Snapshot()

        let all =
            Checksum.ofTensors [ state.Theta; state.Lambda; yield! state.Buffers.Values ]

        say $"{way}.rank{ranks.Rank}" all
        net.Dispose()
