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

/// So many steps in buckets of a size: θ and λ of this rank, and how many buckets were early.
let private inBuckets (ranks: Communicator) name (steps: int) (bucketBytes: Nullable<int64>) problem =
    let problem =
        problem
        |> Problem.onRanksWith
            { ReductionOptions.Default with
                BucketBytes = bucketBytes }
            ranks

    ranks.Early <- 0
    // the seed is rank 0's
    use run = new BilevelRun(problem, int64 ranks.Rank + 7L)

    for _ in 1..steps do
        run.Step() |> ignore

    use state = run.Snapshot()
    say $"{name}.rank{ranks.Rank}" (Checksum.ofTensors [ state.Theta; state.Lambda ])
    say $"{name}.early" ranks.Early

let private sizes = [ "whole", 0L; "each", 1L; "some", 10_000L; "again", 10_000L ]

/// Runs of so many steps, whole and in buckets of every size, and one of them again.
let trajectories (ranks: Communicator) (steps: int) =
    inBuckets ranks "default" steps (Nullable()) (deep 24L 6 f64)

    for name, bytes in sizes do
        inBuckets ranks name steps (Nullable bytes) (deep 24L 6 f64)

/// The same of modules.
let modules (ranks: Communicator) (steps: int) =
    for isMixed in [ false; true ] do
        for name, bytes in sizes do
            let net, problem = modular isMixed
            let kind = if isMixed then "mixed" else "equal"
            inBuckets ranks $"{kind}.{name}" steps (Nullable bytes) problem
            net.Dispose()

/// Layers of half a megabyte, in buckets as hosts decide.
let hosts (ranks: Communicator) =
    say "hosts" ranks.Hosts
    inBuckets ranks "default" 2 (Nullable()) (deep 256L 6 f64)

/// Sums of vectors of every kind, against whole numbers; of every range, against the whole.
let sums (ranks: Communicator) =
    let wait (task: Threading.Tasks.Task) = task.GetAwaiter().GetResult()
    let total = float (ranks.Size * (ranks.Size + 1) / 2)

    for length in [ 1L; 2L; 3L; 7L; 1000L; 262_144L; 262_145L; 2_500_003L ] do
        for dtype in [ torch.float32; torch.float64; torch.bfloat16; torch.float16 ] do
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

    // each rank's part, of lengths that differ, one of them none
    for count in [ 1L; 7L; 1_000_003L ] do
        let bounds =
            [| for r in 0 .. ranks.Size -> count * int64 r * int64 r / int64 (ranks.Size * ranks.Size) |]

        let expected = torch.arange (count, dtype = torch.float32)
        let mine = torch.full_like (expected, scalar -1.0)
        let first, length = bounds[ranks.Rank], bounds[ranks.Rank + 1] - bounds[ranks.Rank]

        mine.narrow(0L, first, length).copy_ (expected.narrow (0L, first, length))
        |> ignore

        wait (ranks.GatherParts("parts", mine, bounds))

        if not (mine.Equals expected) then
            say "wrong.parts" count

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

let private sharing =
    { ReductionOptions.Default with
        ShardStates = true }

/// Runs whose rules' states are in shards beside those where every rank has all: how far θ and λ are from each other, in
/// units of the last place of what one step moves, and the shares of the states' bytes that this rank has.
let sharded (ranks: Communicator) =
    let half name = name = "W1"

    let rules =
        [ "sgd", sgd 1e-2
          "momentum",
          sgdWith
              { SgdOptions.Default with
                  LearningRate = 1e-2
                  Momentum = 0.9 }
          "adam", adam 1e-2
          "adamW", adamW 1e-2 1e-2
          "nadam", nadam 1e-2
          "adagrad", adagrad 1e-2
          "rmsprop", rmsprop 1e-2
          "lamb", lamb 1e-2
          "clipped", UpdateRule.chain [ clipByGlobalNorm 0.1; adam 1e-2 ]
          "grouped", UpdateRule.groups [ half, sgd 1e-2; (fun name -> not (half name)), adam 1e-2 ]
          "scheduled", UpdateRule.scheduled (fun t -> 1.0 / float (t + 1L)) (adamW 1e-2 1e-2)
          "boxed", projectBox -0.4 0.4 (adam 1e-2) ]

    let methods = [ "sama", Hypergradient.sama; "neumann", Hypergradient.neumann 3 0.5 ]

    for ruleName, rule in rules do
        for methodName, method in methods do
            let make plan =
                new BilevelRun(regularised Own (unroll 2) rule method |> Problem.onRanksWith plan ranks, 3L)

            use whole = make ReductionOptions.Default
            use parts = make sharing
            let mutable worst = 0.0

            for _ in 1..10 do
                let before = whole.Theta.Vector.clone (), whole.Lambda.Vector.clone ()
                whole.Step() |> ignore
                parts.Step() |> ignore

                let off (x: Tensor) (y: Tensor) (before: Tensor) =
                    let moved = (y - before).abs().max().item<float> ()
                    (x - y).abs().max().item<float> () / (Math.BitIncrement moved - moved)

                worst <- max worst (off parts.Theta.Vector whole.Theta.Vector (fst before))
                worst <- max worst (off parts.Lambda.Vector whole.Lambda.Vector (snd before))

            let bytes (run: BilevelRun) =
                run.RuleStates
                |> List.sumBy (fun state -> state.All |> Seq.sumBy (fun t -> t.numel () * t.ElementSize))

            say $"off.{ruleName}.{methodName}" worst
            say $"bytes.{ruleName}.{methodName}.rank{ranks.Rank}" $"{bytes parts} {bytes whole}"
            // what all have together is the whole
            use own = parts.Snapshot()
            use other = whole.Snapshot()

            let states (state: RunState) =
                Checksum.ofTensors
                    [ for level in state.Levels do
                          yield! level.Rule.All ]

            if worst = 0.0 && states own <> states other then
                say "wrong.state" ruleName

            if
                [ for level in own.Levels -> [ for t in level.Rule.All -> t.shape ] ]
                <> [ for level in other.Levels -> [ for t in level.Rule.All -> t.shape ] ]
            then
                say "wrong.shapes" ruleName

/// So many steps, from the newest checkpoint of a folder that perhaps another number of ranks wrote: the ranks share batches
/// of one size.
let resumed (ranks: Communicator) (folder: string) (steps: int64) (inShards: bool) =
    let plan = if inShards then sharing else ReductionOptions.Default

    let problem =
        reweighting (Part ranks.Size) (unroll 3) (adam 1e-2) Hypergradient.sama
        |> Problem.onRanksWith plan ranks

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

    let all (state: RunState) =
        Checksum.ofTensors
            [ for level in state.Levels do
                  level.Vector
                  yield! level.Rule.All ]

    say $"start.rank{ranks.Rank}" (all started)
    run.RunTo(steps, Threading.CancellationToken.None)
    use state = run.Run.Snapshot()
    say $"end.rank{ranks.Rank}" (all state)

    let numbers =
        torch.cat([| for level in state.Levels -> level.Vector |]).data<float>().ToArray()

    say
        "numbers"
        (String.Join(' ', [ for x in numbers -> x.ToString("R", Globalization.CultureInfo.InvariantCulture) ]))

/// Many steps in buckets: tensors and memory behind a fifth of them, and behind all.
let steady (ranks: Communicator) (steps: int) (bucketBytes: int64) =
    let problem =
        deep 8L 4 f64
        |> Problem.onRanksWith
            { ReductionOptions.Default with
                BucketBytes = Nullable(max 0L bucketBytes) }
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
        // bytes that the native allocator has handed out and not got back
        say $"{name}.native.rank{ranks.Rank}" (ProcessMemory.native().GetValueOrDefault())

    use small = torch.ones 100L

    for i in 1..steps do
        if bucketBytes < 0L then
            for _ in 1..9 do
                (ranks.Mean small).Wait()
        else
            run.Step() |> ignore

        // what the runtime compiles anew and its heaps grow by takes some thousand steps
        if i = steps / 2 then
            measure "first"

    say "steps" steps
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

/// What a watched run says of its reductions: the phases exclude each other.
let telemetry (ranks: Communicator) =
    for name, bytes in [ "whole", 0L; "each", 1L ] do
        let problem =
            deep 8L 4 f64
            |> Problem.onRanksWith
                { ReductionOptions.Default with
                    BucketBytes = Nullable bytes }
                ranks

        use run = new BilevelRun(problem, 1L, Telemetry = TelemetryOptions())

        for _ in 1..5 do
            let watched = run.Step().Telemetry
            let reduced = watched.Phases[RunPhase.Reduction]

            if
                reduced <= TimeSpan.Zero
                || reduced >= watched.Phases.Total
                || watched.Phases.Total > watched.Duration
            then
                say $"wrong.{name}" watched

            say $"{name}.rank{ranks.Rank}" watched
