module Sama.Ranks.Tests.LaunchTests

open System
open Expecto
open Sama
open Sama.Functional
open Sama.Ranks.Tests.Launcher
open Sama.Ranks.Tests.Problems

let private plan variables size library =
    let known = dict variables

    Launch.plan (fun name -> if known.ContainsKey name then known[name] else null) size library false
    |> Option.map (fun (kind, launched) -> kind, launched.Size)

let private refused (parts: string list) (body: unit -> 'a) =
    let e =
        try
            body () |> ignore
            None
        with e ->
            Some e.Message

    match e with
    | None -> failtest "it was not refused"
    | Some message ->
        for part in parts do
            Expect.stringContains message part "the message"

let tests =
    testList
        "launch"
        [ testCase "the launcher is known by its environment"
          <| fun _ ->
              let none = Nullable()
              Expect.equal (plan [] none null) None "nobody"
              Expect.equal (plan [ "OMPI_COMM_WORLD_SIZE", "3" ] none null) (Some(MpiKind.OpenMpi, 3)) "mpirun"
              Expect.equal (plan [ "PMI_SIZE", "2" ] none null) (Some(MpiKind.Mpich, 2)) "mpiexec"

              Expect.equal
                  (plan [ "SLURM_NTASKS", "4"; "PMIX_RANK", "0" ] none null)
                  (Some(MpiKind.OpenMpi, 4))
                  "srun --mpi=pmix"

              Expect.equal
                  (plan [ "OMPI_COMM_WORLD_SIZE", "2"; "SLURM_NTASKS", "4" ] none null)
                  (Some(MpiKind.OpenMpi, 2))
                  "mpirun inside a job of SLURM's"

              Expect.equal (plan [ "PMI_SIZE", "1" ] none null) None "one alone needs no MPI"
              Expect.equal (plan [ "SLURM_NTASKS", "4" ] (Nullable 1) null) None "one on purpose"

          testCase "what cannot go together is refused"
          <| fun _ ->
              let none = Nullable()
              refused [ "2 ranks"; "mpirun -n 2" ] (fun () -> plan [] (Nullable 2) null)
              refused [ "WORLD_SIZE"; "2 processes" ] (fun () -> plan [ "WORLD_SIZE", "2" ] none null)
              refused [ "SLURM_NTASKS"; "--mpi=pmix" ] (fun () -> plan [ "SLURM_NTASKS", "2" ] none null)
              refused [ "3 ranks"; "started 2" ] (fun () -> plan [ "PMI_SIZE", "2" ] (Nullable 3) null)
              refused [ "lam"; "openmpi" ] (fun () -> plan [ "PMI_SIZE", "2" ] none "lam")

              refused [ "Timeout" |> fun _ -> "positive" ] (fun () ->
                  Ranks.start
                      { RankOptions.Default with
                          Timeout = TimeSpan.Zero })

          testCase "methods that ranks cannot share a meta gradient for are refused with the reason"
          <| fun _ ->
              let local =
                  { ReductionOptions.Default with
                      Response = ResponseReduction.Local }

              let on method =
                  regularised Own BilevelOptions.Default (adam 1e-2) method
                  |> Problem.onRanksWith local Communicator.Single

              let nudged = Hypergradient.samaWith { SamaOptions.Default with Nudge = 0.1 }

              refused [ "nudge"; "Joined" ] (fun () -> on nudged)
              refused [ "t1t2"; "Joined" ] (fun () -> on Hypergradient.t1t2)
              refused [ "f2sa"; "Joined" ] (fun () -> on Hypergradient.f2sa)

              refused [ "Held"; "Joined" ] (fun () ->
                  threeLevels Own MiddleResponse.Total Hypergradient.sama
                  |> Problem.onRanksWith local Communicator.Single)

              on Hypergradient.sama |> ignore

          testCase "rules whose states cannot be split are refused by name, on one process too"
          <| fun _ ->
              let on rule method =
                  regularised
                      Own
                      { BilevelOptions.Default with
                          Unroll = 2 }
                      rule
                      method
                  |> Problem.onRanksWith
                      { ReductionOptions.Default with
                          ShardStates = true }
                      Communicator.Single

              let coupled =
                  UpdateRule.create
                      "coupled"
                      (fun theta -> RuleState.create 0L [ "m", TorchSharp.torch.zeros_like theta ] [])
                      (fun state g _ -> g / g.norm (), state)

              let masked (mask: TorchSharp.torch.Tensor) =
                  UpdateRule.create "masked" (fun _ -> RuleState.empty) (fun state g _ -> g * mask, state)
                  |> UpdateRule.elementwise

              for rule, parts in
                  [ adafactor 1e-2, [ "adafactor"; "couples" ]
                    UpdateRule.chain [ adam 1e-2; coupled ], [ "'adam → coupled'"; "level 'net'"; "couples" ]
                    UpdateRule.elementwise coupled, [ "'coupled'"; "steps otherwise" ]
                    masked (normal 1L [| 49L |]), [ "'masked'"; "alone" ]
                    UpdateRule.learning "LearningRate" (fun l -> l["log"].exp ()) (adam 1e-2), [ "learned options" ] ] do
                  refused ("ShardStates" :: parts) (fun () -> on rule Hypergradient.samaNa)

              refused [ "unrolled"; "ShardStates" ] (fun () -> on (adam 1e-2) Hypergradient.unrolled)

              for rule in
                  [ sgd 0.1
                    adam 1e-2
                    lamb 1e-2
                    UpdateRule.chain [ clipByGlobalNorm 1.0; adam 1e-2 ] ] do
                  on rule Hypergradient.sama |> ignore

          testCase "one process is a rank alone"
          <| fun _ ->
              use x = TorchSharp.torch.ones 3L
              let ranks = Communicator.Single
              ranks.Sum(x).Wait()
              ranks.Broadcast(x, 0).Wait()
              Expect.equal (ranks.Rank, ranks.Size, ranks.Mean 2.0, ranks.Any true) (0, 1, 2.0, true) "alone"
              Expect.equal (x.sum().item<float32> ()) 3.0f "nothing happens"

          testCase "the thread of MPI is let in front where the kernel can, and no other thread is"
          <| fun _ ->
              let slices =
                  [ for asks in [ true; false ] do
                        let slice = [| 0L |]

                        let thread =
                            Threading.Thread(fun () ->
                                if asks then
                                    Promptness.ask () |> ignore

                                slice[0] <- Promptness.current ())

                        thread.Start()
                        thread.Join()
                        slice[0] ]

              // older kernels tell of no slice
              if slices[1] > 0L then
                  Expect.equal slices[0] 100_000L "a tenth of a millisecond"
                  Expect.isGreaterThan slices[1] 100_000L "as it was"

          testCase "a library of another MPI than the launcher's is refused, not taken for ranks alone"
          <| fun _ ->
              let ended = ranksWith [ "SAMA_MPI", "mpich" ] OpenMpi 2 [ "none" ]
              Expect.notEqual ended.Code 0 (string ended)
              Expect.stringContains (string ended) "started 2 processes" (string ended)

          testCase "a launcher that MPI does not know is refused"
          <| fun _ ->
              let ended = alone [ "WORLD_SIZE", "2" ] [ "none" ]
              Expect.notEqual ended.Code 0 (string ended)
              Expect.stringContains (string ended) "WORLD_SIZE" (string ended) ]
