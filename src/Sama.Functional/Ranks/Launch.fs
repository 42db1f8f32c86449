namespace Sama.Functional

open System

/// The two binary interfaces of MPI.
type internal MpiKind =
    | OpenMpi
    | Mpich

/// What a launcher says of the processes that it started.
type internal Launched =
    {
        /// its name
        By: string
        /// the variable that tells
        Variable: string
        /// how many processes it started
        Size: int
        /// the MPI that it can connect; none for a launcher of another kind
        Kind: MpiKind option
    }

/// Who started this process, by its environment. A library of MPI that does not know its launcher makes every process a
/// world of its own, without a word: what it finds is compared with this.
module internal Launch =

    let private launchers =
        [ "mpirun of Open MPI", "OMPI_COMM_WORLD_SIZE", Some OpenMpi
          "mpiexec of MPICH", "PMI_SIZE", Some Mpich
          "srun", "SLURM_STEP_NUM_TASKS", None
          "SLURM", "SLURM_NTASKS", None
          "a launcher of torch.distributed", "WORLD_SIZE", None ]

    /// The first launcher whose variable is there; none where nobody tells.
    let found (variable: string -> string) : Launched option =
        launchers
        |> List.tryPick (fun (by, name, kind) ->
            match Int32.TryParse(variable name: string) with
            | true, size ->
                Some
                    { By = by
                      Variable = name
                      Size = size
                      // srun --mpi=pmix is what Open MPI connects by
                      Kind =
                        if kind.IsNone && not (isNull (variable "PMIX_RANK")) then
                            Some OpenMpi
                        else
                            kind }
            | _ -> None)

    /// "openmpi" or "mpich".
    let kindOf (argument: string) (name: string) : MpiKind =
        match name.ToLowerInvariant() with
        | "openmpi" -> OpenMpi
        | "mpich" -> Mpich
        | _ -> raise (ArgumentException($"'{name}' is no MPI that is known here: 'openmpi' or 'mpich'", argument))

    let nameOf (kind: MpiKind) : string =
        match kind with
        | OpenMpi -> "Open MPI"
        | Mpich -> "MPICH"

    /// The MPI to load and how many ranks there must be then; none for one process, unless one alone is to be a rank too. InvalidOperationException where what is
    /// asked for, the launcher and MPI cannot go together.
    let plan
        (variable: string -> string)
        (size: Nullable<int>)
        (library: string)
        (evenOne: bool)
        : (MpiKind * Launched) option =
        let named =
            [ "Library", library; "SAMA_MPI", variable "SAMA_MPI" ]
            |> List.tryPick (fun (argument, name) ->
                if String.IsNullOrEmpty name then
                    None
                else
                    Some(kindOf argument name))

        match found variable with
        | None when size.HasValue && size.Value > 1 ->
            invalidOp
                $"{size.Value} ranks are asked for, but no launcher started this process: start it by 'mpirun -n {size.Value} COMMAND', or by srun (--mpi=pmix)"
        | None when evenOne ->
            invalidOp
                "RankTransport.Nccl is asked for, but no launcher started this process, by whose MPI NCCL's ranks find each other: start it by 'mpirun -n 1 COMMAND', or more of them"
        | None -> None
        | Some launched when
            size.HasValue
            && size.Value <> launched.Size
            && not (size.Value = 1 && launched.Kind.IsNone)
            ->
            invalidOp
                $"{size.Value} ranks are asked for, but {launched.By} started {launched.Size} ({launched.Variable})"
        | Some launched when (launched.Size = 1 || size = Nullable 1) && not evenOne -> None
        | Some launched ->
            match named |> Option.orElse launched.Kind with
            | Some kind -> Some(kind, launched)
            | None ->
                invalidOp
                    $"{launched.By} started {launched.Size} processes ({launched.Variable}), which MPI cannot connect: each would be a world of its own. Start them by mpirun, or by 'srun --mpi=pmix' (Open MPI) or 'srun --mpi=pmi2' (MPICH); for one process say Size = 1"

    /// InvalidOperationException where the library found another number of ranks than were started.
    let requireSize (kind: MpiKind) (launched: Launched) (size: int) : unit =
        if size <> launched.Size then
            invalidOp
                $"{launched.By} started {launched.Size} processes ({launched.Variable}), but {nameOf kind} finds {size}: library and launcher are of different kinds. Start the program by the launcher of {nameOf kind}, or name the library by SAMA_MPI (openmpi or mpich)"
