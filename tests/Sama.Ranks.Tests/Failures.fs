/// Ranks that fail: what the others say of it.
module Sama.Ranks.Tests.Failures

open System
open System.Diagnostics
open System.Threading
open TorchSharp
open Sama
open Sama.Functional
open Sama.Ranks.Tests.Problems
open Sama.Ranks.Tests.Cases

let private caught (ranks: Communicator) name (body: unit -> unit) =
    let said =
        try
            body ()
            "nothing"
        with e ->
            let inner =
                if isNull e.InnerException then
                    ""
                else
                    $" ({e.InnerException.GetType().Name})"

            $"{e.GetType().Name}{inner}: {e.Message}"

    say $"{name}.rank{ranks.Rank}" said

let private steps (ranks: Communicator) options look touch count =
    let problem =
        watched options 16L 3 f64 look touch
        |> Problem.onRanksWith
            { ReductionOptions.Default with
                BucketBytes = Nullable 1L }
            ranks

    use run = new BilevelRun(problem, 1L)

    for _ in 1..count do
        run.Step() |> ignore

let private nothing _ _ _ (loss: Tensor) = loss

/// Rank 1 does something at step 3, and only there.
let private atStep3 (ranks: Communicator) (level: string) (kind: PassKind) act (pass: Pass) name theta (loss: Tensor) =
    if ranks.Rank = 1 && pass.Draw.Step = 3L && pass.Kind = kind && name = level then
        act theta loss
    else
        loss

let private throws _ (_: Tensor) : Tensor =
    raise (ArgumentException "the row has no label")

/// What ranks survive: each of them raises the same, and the next run is sound.
let survived (ranks: Communicator) =
    let plain = BilevelOptions.Default
    let at level kind (act: Params -> Tensor -> Tensor) = atStep3 ranks level kind act

    for name, touch in
        [ "throw", at "net" PassKind.Base throws
          "throwMeta", at "weights" PassKind.Meta throws
          "throwPerturbed", at "net" PassKind.Perturbed throws
          "nan", at "net" PassKind.Base (fun _ loss -> loss * nan)
          "nanGradient", at "net" PassKind.Base (fun theta loss -> loss + (theta["W1"] * 0.0).sqrt().sum ())
          "nanMeta", at "weights" PassKind.Meta (fun _ loss -> loss * nan) ] do
        caught ranks name (fun () -> steps ranks plain ignore touch 6)

    caught ranks "data" (fun () ->
        let look (draw: Draw) =
            if ranks.Rank = 1 && draw.Step = 3L then
                raise (InvalidOperationException "the disk is gone")

        steps ranks plain look nothing 6)

    caught ranks "null" (fun () ->
        let missing: string = null
        let touch = at "net" PassKind.Base (fun _ loss -> loss * float missing.Length)
        steps ranks plain ignore touch 6)

    // left out on every rank, and the run goes on
    let problem =
        watched
            { plain with
                NonFinite = NonFinitePolicy.Skip }
            16L
            3
            f64
            ignore
            (at "net" PassKind.Base (fun _ loss -> loss * nan))
        |> Problem.onRanks ranks

    use run = new BilevelRun(problem, 1L)
    let reports = [ for _ in 1..6 -> run.Step().Skipped ]
    use state = run.Snapshot()
    say $"skipped.rank{ranks.Rank}" (String.Join("|", reports))
    say $"skipState.rank{ranks.Rank}" (Checksum.ofTensors [ state.Theta; state.Lambda ])

    let mine = if ranks.Rank = 1 then 1L else 0L

    caught ranks "layout" (fun () ->
        use _ = new BilevelRun(deep (8L + mine) 2 f64 |> Problem.onRanks ranks, 1L)
        ())

    caught ranks "options" (fun () ->
        let options = { plain with Unroll = 1 + int mine }

        use _ =
            new BilevelRun(watched options 8L 2 f64 ignore nothing |> Problem.onRanks ranks, 1L)

        ())

    caught ranks "rate" (fun () ->
        let rule = adam (if mine = 1L then 1e-3 else 1e-2)

        use _ =
            new BilevelRun(reweighting Own plain rule Hypergradient.sama |> Problem.onRanks ranks, 1L)

        ())

    caught ranks "version" (fun () ->
        let version = RankStart.version

        if mine = 1L then
            RankStart.version <- "Sama 0.0.9"

        try
            use _ = new BilevelRun(deep 8L 2 f64 |> Problem.onRanks ranks, 1L)
            ()
        finally
            RankStart.version <- version)

    caught ranks "drift" (fun () ->
        use run = new BilevelRun(deep 8L 2 f64 |> Problem.onRanks ranks, 1L)

        for i in 1..9 do
            if i = 6 && mine = 1L then
                run.Theta.Vector.add_ (scalar 1e-12) |> ignore

            run.Step() |> ignore)

    caught ranks "apart" (fun () ->
        use run = new BilevelRun(deep 8L 2 f64 |> Problem.onRanks ranks, 1L)

        if mine = 1L then ranks.Barrier() else run.Step() |> ignore)

    caught ranks "score" (fun () ->
        use run = new BilevelRun(deep 8L 2 f64 |> Problem.onRanks ranks, 1L)

        run.Between(fun () ->
            if mine = 1L then
                failwith "no such file")
        |> ignore)

    // one rank is asked to stop: all stop behind the same step
    use source = new CancellationTokenSource()

    use stopping =
        GuardedRun.FromSeed(deep 8L 2 f64 |> Problem.onRanks ranks, 1L, GuardOptions.Default)

    caught ranks "stop" (fun () ->
        let problemSteps = 50L

        if mine = 1L then
            source.CancelAfter 300

        stopping.RunTo(1_000_000L, source.Token)
        ignore problemSteps)

    say $"stopped.rank{ranks.Rank}" stopping.Run.StepsTaken
    trajectories ranks 10

/// What ends them: rank 1 does it in the base loss of step 3.
let fatal (ranks: Communicator) (kind: string) =
    let act _ (loss: Tensor) : Tensor =
        say "fails" (DateTimeOffset.UtcNow.ToUnixTimeMilliseconds())

        match kind with
        | "throw" -> raise (ArgumentException "the row has no label")
        | "kill" -> Process.GetCurrentProcess().Kill()
        | "exit" -> exit 3
        | "leave" -> exit 0
        | "hang" -> Thread.Sleep Timeout.Infinite
        | "abort" -> ranks.Abort "this is the end"
        | _ -> ()

        loss

    steps ranks BilevelOptions.Default ignore (atStep3 ranks "net" PassKind.Base act) 6
    say "survived" kind
