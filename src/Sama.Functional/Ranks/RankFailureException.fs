namespace Sama

open System

/// What one rank failed of; every rank raises it, with the same message, and the rank itself has its own exception inside.
type RankFailureException(rank: int, reason: string, inner: exn) =
    inherit InvalidOperationException(reason, inner)

    /// The rank that failed, the first of several.
    member _.Rank = rank
