/// Throughput of ranks against one, and how much of a reduction is hidden behind the backward pass.
module Sama.Benchmarks.RankBench

open System
open System.Diagnostics
open System.IO
open TorchSharp
open Sama
open Sama.Functional

type Row =
    {
        Ranks: int
        Subject: string
        SamplesPerSecond: float
        /// to one rank of one thread, the median of rounds
        Ratio: float
        /// of the ranks' time, waiting for each other
        Waited: float
        /// 1 − waited/alone, of what a step reduces
        Hidden: float
        Rounds: int
        /// a step's milliseconds by phase, of all ranks in the mean; moving: of the reduction, what the rank waits too that comes
        /// last to each
        Phases: string
    }

let private median (values: float list) =
    let sorted = List.sort values
    (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

let private problem (rows: int64) k isPlain =
    let options =
        { BilevelOptions.Default with
            Unroll = k
            // plain training never comes to a meta step
            WarmUp = (if isPlain then Int64.MaxValue / 2L else 0L) }

    { Models.problem torch.CPU options (adam 1e-4) Hypergradient.sama rows (Models.encoder5M true 64L) with
        // the first meta steps are taken twice, to be looked at
        Replays = ref (1L <<< 40) }

let private watched (problem: BilevelProblem) =
    new BilevelRun(problem, 1L, Telemetry = TelemetryOptions())

let private phases = Enum.GetValues<RunPhase>()

/// Seconds of so many steps, and of each phase.
let private timed (steps: int) (run: BilevelRun) : float[] =
    let clock = Stopwatch.StartNew()
    let taken = [ for _ in 1..steps -> run.Step().Telemetry.Phases ]

    [| yield clock.Elapsed.TotalSeconds
       for phase in phases do
           yield taken |> List.sumBy (fun times -> times[phase].TotalSeconds) |]

/// What `body` waits for, one after the other, in seconds.
let private waits (ranks: Communicator) (body: unit -> 'result) : 'result * float[] =
    let found = ResizeArray<float>()
    ranks.OnWaited <- fun time -> found.Add time.TotalSeconds

    try
        let result = body ()
        result, found.ToArray()
    finally
        ranks.OnWaited <- null

/// The runtime compiles what is called often anew, on a core that a rank needs: with few rows first.
let private warmUp (ranks: Communicator) : unit =
    for isPlain in [ true; false ] do
        use together = watched (problem 1L 1 isPlain |> Problem.onRanks ranks)
        use alone = watched (problem 1L 1 isPlain)

        for run in [ together; alone ] do
            timed 60 run |> ignore

/// Interleaved rounds, each in another order: ranks together; rank 0 alone with one thread, while the others wait; every rank by itself at the same time,
/// which is what cores and memory give to processes that share nothing; rank 0 alone with a thread for each rank and the rows
/// of all.
let private throughput (ranks: Communicator) name (rows: int64) k isPlain (rounds: int) : Row list =
    let steps = if isPlain then 2 else k
    use together = watched (problem rows k isPlain |> Problem.onRanks ranks)
    use alone = watched (problem rows k isPlain)
    use threads = watched (problem (rows * int64 ranks.Size) k isPlain)

    let only threadCount (run: BilevelRun) =
        ranks.Barrier()

        if ranks.Rank = 0 then
            torch.set_num_threads threadCount

        let times = if ranks.Rank = 0 then timed steps run else [||]
        torch.set_num_threads 1
        ranks.Barrier()
        [| times |], 0.0

    let all (run: BilevelRun) =
        ranks.Barrier()
        let times, waits = waits ranks (fun () -> timed steps run)
        ranks.Gather times, ranks.Gather waits |> Array.reduce (Array.map2 min) |> Array.sum

    let ways =
        [| (fun () -> only 1 alone)
           (fun () -> all together)
           (fun () -> all alone)
           (fun () -> only ranks.Size threads) |]

    // each way comes behind each other: what has lain still is slower at first
    let round r =
        let times = Array.create ways.Length ([||], 0.0)

        for i in 0 .. ways.Length - 1 do
            let way = (i * (1 + r / ways.Length % 2 * 2) + r) % ways.Length
            times[way] <- ways[way]()

        times

    let found = [ for r in 1..rounds -> round r ]

    let seconds (times: float[][]) = Array.averageBy Array.head times

    let row way subject ranks factor =
        let own = [ for round in found -> fst round[way] ]
        let ms seconds = 1e3 * seconds / float steps
        let moving = ms (median [ for round in found -> snd round[way] ])

        let ofPhase (phase: RunPhase) =
            median [ for times in own -> times |> Array.averageBy (fun t -> t[1 + int phase]) ]

        let total = median (List.map seconds own)

        { Ranks = ranks
          Subject = $"{name}, {subject}"
          SamplesPerSecond = float rows * float steps * factor / total
          Ratio = median [ for round in found -> factor * seconds (fst round[0]) / seconds (fst round[way]) ]
          Waited = ofPhase RunPhase.Reduction / total
          Hidden = nan
          Rounds = rounds
          Phases =
            String.Join(
                ", ",
                [ for phase in phases do
                      let ms = ms (ofPhase phase)

                      if ms >= 0.05 then
                          $"{phase} {ms:F1}"

                  if moving > 0.0 then
                      $"moving {moving:F1}" ]
            ) }

    let size = float ranks.Size

    if ranks.Rank > 0 then
        []
    else
        [ row 0 "one rank, one thread" 1 1.0
          row 1 $"{ranks.Size} ranks, one thread each" ranks.Size size
          row 2 $"{ranks.Size} processes that share nothing" 1 size
          row 3 $"one process, {ranks.Size} threads" 1 size ]

/// A chain of equal layers: what a rank waits for in a step, against the reductions of its gradients alone: one of θ's length
/// in a step of plain training, two in one of SAMA at K = 1. At each point the rank counts that waits least: it came last, and
/// the others wait for it as well. What a backward pass is shorter than its reduction cannot be hidden: rows make it longer.
let private hidden (ranks: Communicator) isPlain (width: int64) (layers: int) (rows: int64) (rounds: int) : Row =
    let model = Models.mlp "chain" width layers

    let options =
        { BilevelOptions.Default with
            WarmUp = (if isPlain then Int64.MaxValue / 2L else 0L) }

    let problem =
        Models.problem torch.CPU options (sgd 1e-4) Hypergradient.sama rows model
        |> Problem.onRanks ranks

    use run = watched problem
    let gradient = torch.zeros problem.Levels[0].Layout.Length

    let alone () =
        ranks.Barrier()
        let clock = Stopwatch.StartNew()

        for _ in 1 .. (if isPlain then 1 else 2) do
            (ranks.Mean gradient).GetAwaiter().GetResult()

        clock.Elapsed.TotalSeconds

    let step () =
        ranks.Barrier()
        let seconds, waits = waits ranks (fun () -> (timed 1 run)[0])
        ranks.Gather waits |> Array.reduce (Array.map2 min) |> Array.sum, seconds

    for _ in 1..2 do
        alone () |> ignore
        step () |> ignore

    let found = [ for _ in 1..rounds -> alone (), step () ]
    let reduction = median [ for alone, _ in found -> alone ]
    let waited = median [ for _, (waited, _) in found -> waited ]
    let seconds = median [ for _, (_, seconds) in found -> seconds ]

    let name, count = if isPlain then "plain", 1.0 else "K = 1", 2.0

    { Ranks = ranks.Size
      Subject =
        $"{name}, {layers + 1} layers of {width}: {count * float (gradient.numel ()) * 4e-6:F1} MB reduced in {reduction * 1e3:F1} ms alone, {waited * 1e3:F1} ms waited of a step of {seconds * 1e3:F1} ms"
      SamplesPerSecond = float (int64 ranks.Size * rows) / seconds
      Ratio = nan
      Waited = waited / seconds
      Hidden = 1.0 - waited / reduction
      Rounds = rounds
      Phases = "" }

let private print (row: Row) =
    let known (x: float) (text: string) = if Double.IsNaN x then "" else text

    let ratio, hidden =
        known row.Ratio $"x {row.Ratio:F2}", known row.Hidden $"hidden {row.Hidden:P0}"

    printfn
        $"{row.Subject, -60} {row.SamplesPerSecond, 8:F1} samples/s  {ratio}  waited {row.Waited:P0} of its time  {hidden}"

    if row.Phases <> "" then
        printfn $"    ms a step: {row.Phases}"

/// `only` is the start of what is measured: throughput 32 rows; throughput 16 rows, K = 10; hidden
let private measured (ranks: Communicator) (only: string option) (rounds: int) : Row list =
    let wanted name =
        only |> Option.forall (fun start -> (name: string).StartsWith start)

    if wanted "throughput" || only.Value.StartsWith "throughput" then
        warmUp ranks

    [ for rows, k, isPlain in [ 32L, 1, true; 32L, 1, false; 16L, 10, true; 16L, 10, false ] do
          let name = $"""{rows} rows, {(if isPlain then "plain" else $"K = {k}")}"""

          if wanted $"throughput {name}" then
              yield! throughput ranks name rows k isPlain (if k = 1 then rounds else (rounds + 1) / 2)

      for isPlain in [ true; false ] do
          if wanted (if isPlain then "hidden plain" else "hidden K = 1") then
              hidden ranks isPlain 512L 11 1024L (2 * rounds) ]

/// Started again by mpirun where no launcher started it.
let private launch () : int =
    let arguments =
        [ "-n"; "2"; "--oversubscribe"; "--bind-to"; "none"; "dotnet" ]
        @ List.ofArray (Environment.GetCommandLineArgs())

    let info = ProcessStartInfo("mpirun", arguments)

    for name in [ "OMPI_ALLOW_RUN_AS_ROOT"; "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM" ] do
        info.Environment[name] <- "1"

    // the thread of MPI sleeps by itself
    info.Environment["OMPI_MCA_mpi_yield_when_idle"] <- "0"

    info.Environment["OMP_NUM_THREADS"] <- "1"

    try
        use started = Process.Start info
        started.WaitForExit()
        started.ExitCode
    with :? ComponentModel.Win32Exception ->
        raise (IOException "mpirun does not start: as root, apt-get install --no-install-recommends openmpi-bin")

let run (only: string option) (isFull: bool) (write: Row list -> unit) : int =
    if (Launch.found Environment.GetEnvironmentVariable).IsNone then
        launch ()
    else
        torch.set_num_threads 1
        use ranks = Ranks.start RankOptions.Default
        let rows = measured ranks only (if isFull then 9 else 5)

        if ranks.Rank = 0 then
            List.iter print rows
            write rows

        0
