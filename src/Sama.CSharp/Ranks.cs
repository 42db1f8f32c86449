namespace Sama;

/// <summary>The start of ranks: processes that one launcher started (mpirun, srun), each of which runs the same
/// program.</summary>
public static class Ranks
{
    /// <summary>The communicator of this process among those that its launcher started; a second call gives the same one. A
    /// process without a launcher is a rank alone, and needs no MPI. Call it before anything is computed; dispose it where the
    /// program ends.</summary>
    /// <param name="timeout">How long a rank may let the others wait before all are ended. Default null: five minutes.</param>
    /// <param name="size">How many ranks there are to be. Default null: as many as the launcher started.</param>
    /// <param name="library">"openmpi" or "mpich". Default null: what the environment variable SAMA_MPI says, else the
    /// launcher's own.</param>
    /// <param name="transport">How vectors get from rank to rank. Default: those on CUDA devices by NCCL, others by MPI.</param>
    /// <returns>The communicator.</returns>
    /// <exception cref="InvalidOperationException">Launcher, library and what is asked for do not go together; the message
    /// says what to do.</exception>
    /// <exception cref="DllNotFoundException">The launcher's MPI is not installed, or NCCL where it is asked for.</exception>
    /// <exception cref="ArgumentException">An option out of range.</exception>
    public static Communicator Start(TimeSpan? timeout = null, int? size = null, string? library = null,
        RankTransport transport = RankTransport.Auto) =>
        F.Ranks.start(new(
            timeout: timeout ?? RankOptions.Default.Timeout, size: size, library: library!, transport: transport));
}
