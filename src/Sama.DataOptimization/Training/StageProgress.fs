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
