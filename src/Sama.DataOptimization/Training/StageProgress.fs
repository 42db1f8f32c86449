namespace Sama.DataOptimization

/// Where a cleaning or a pruning is.
[<NoComparison>]
type StageProgress =
    {
        /// what is trained
        Stage: string
        /// stages behind it
        Done: int
        /// all stages
        Stages: int
        /// steps of this one taken
        Step: int
        /// its steps
        Steps: int
        /// the last loss
        Loss: float
    }

    /// How far all is, from 0 to 1, each stage counted as much as any other.
    member progress.Share: float =
        (float progress.Done + float progress.Step / float (max 1 progress.Steps))
        / float (max 1 progress.Stages)
