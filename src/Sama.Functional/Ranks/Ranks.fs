namespace Sama

open System

/// How ranks start.
[<NoComparison>]
type RankOptions =
    {
        /// how long a rank may let the others wait before all are ended
        Timeout: TimeSpan
        /// how many ranks there are to be; null: as many as the launcher started
        Size: Nullable<int>
        /// "openmpi" or "mpich"; null: what the environment variable SAMA_MPI says, else the launcher's own
        Library: string
        /// how vectors get from rank to rank
        Transport: RankTransport
    }

    /// Five minutes; as many ranks as the launcher started, by its own MPI; what lies on CUDA devices by NCCL.
    static member Default =
        { Timeout = TimeSpan.FromMinutes 5.0
          Size = Nullable()
          Library = null
          Transport = RankTransport.Auto }

namespace Sama.Functional

open System
open System.Runtime.InteropServices
open Sama

/// The start of ranks: processes that one launcher started (mpirun, srun), each of which runs the same program.
module Ranks =

    let private guard = obj ()
    let mutable private current: Communicator = null

    /// Ranks of this process; 1 before `start`.
    let internal size () : int =
        if isNull current then 1 else current.Size

    let private unhandled (ranks: Communicator) (e: obj) =
        if not ranks.Left then
            match e with
            // every rank has it
            | :? RankFailureException as e -> ranks.Abort e.Message
            | :? exn as e -> ranks.Abort $"{e.GetType().Name}: {e.Message}"
            | _ -> ranks.Abort "an exception that nobody caught"

    let private ended (ranks: Communicator) =
        if not ranks.Left then
            if Environment.ExitCode = 0 then
                ranks.Dispose()
            else
                ranks.Abort $"the program ended with code {Environment.ExitCode}"

    // kept, or it would be collected
    let mutable private told: PosixSignalRegistration = null

    let private connect (options: RankOptions) kind launched : Communicator =
        let thread = RankThread(kind, options.Timeout, Launch.requireSize kind launched)

        let ranks = new Communicator(Some thread, options.Transport)
        AppDomain.CurrentDomain.UnhandledException.Add(fun e -> unhandled ranks e.ExceptionObject)
        AppDomain.CurrentDomain.ProcessExit.Add(fun _ -> ended ranks)
        // launchers end the others by it where one is killed; what it does stays as it was
        told <- PosixSignalRegistration.Create(PosixSignal.SIGTERM, (fun _ -> ranks.SayWhere "told to end by SIGTERM"))
        // a number that a float holds whole
        let host = Convert.ToUInt64(Checksum.ofText Environment.MachineName, 16) >>> 12
        ranks.Hosts <- ranks.Gather [| float host |] |> Array.distinct |> Array.length
        ranks

    /// The communicator of this process among those that its launcher started; a second call gives the same one. A process
    /// without a launcher is a rank alone, and needs no MPI. Call it before anything is computed; dispose it where the
    /// program ends. InvalidOperationException where launcher, library and what is asked for do not go together, with what
    /// to do; DllNotFoundException without the launcher's MPI, or NCCL where it is asked for; ArgumentException for an option out
    /// of range.
    let start (options: RankOptions) : Communicator =
        if options.Timeout <= TimeSpan.Zero then
            invalidArg (nameof options) $"the timeout is a positive time, not {options.Timeout}"

        if options.Size.HasValue && options.Size.Value < 1 then
            invalidArg (nameof options) $"Size ({options.Size}) is at least 1"

        if not (Enum.IsDefined options.Transport) then
            invalidArg (nameof options) $"Transport ({options.Transport}) is Auto, Mpi or Nccl"

        let isNccl = options.Transport = RankTransport.Nccl

        lock guard (fun () ->
            if isNull current || current.Size = 1 then
                current <-
                    match Launch.plan Environment.GetEnvironmentVariable options.Size options.Library isNccl with
                    | Some(kind, launched) ->
                        if isNccl then
                            Nccl.load ()

                        connect options kind launched
                    | None -> Communicator.Single

            current)
