namespace Sama

/// How vectors get from rank to rank.
type RankTransport =
    /// those on CUDA devices by NCCL, others by MPI
    | Auto = 0
    /// all by MPI; those of devices through the host's memory, where sums keep the order that they have there
    | Mpi = 1
    /// all by NCCL, which has to be there from the start; what does not lie in a device's memory is refused. With it a rank
    /// alone reduces too, where a launcher started it (mpirun -n 1)
    | Nccl = 2
