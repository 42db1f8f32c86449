namespace Sama.Functional

open TorchSharp
open Sama

/// Rules of a problem's levels among its ranks.
module internal RankRules =

    /// How the states of a problem's rules are split among its ranks; none: they are whole on each.
    let shards (problem: BilevelProblem) : Shards option =
        if Across.alone problem || not problem.Ranks.Options.ShardStates then
            None
        else
            let communicator = problem.Ranks.Communicator

            let gather (whole: Tensor) bounds =
                Across.waitedFor communicator (fun () ->
                    communicator.GatherParts("what a rule makes of its shards", whole, bounds).GetAwaiter().GetResult()
                    |> ignore)

            let all (own: bool) =
                let mutable found = own

                Across.waitedFor communicator (fun () ->
                    found <-
                        fst (communicator.GatherChecked [| (if own then 1.0 else 0.0) |])
                        |> Array.forall (fun values -> values[0] = 1.0))

                found

            Some
                { Rank = communicator.Rank
                  Size = communicator.Size
                  Gather = gather
                  All = all
                  IsTrial = false }

    let private split (level: Level) (shards: Shards) : BoundRule =
        match BoundRule.sharded shards level.Rule with
        | Ok rule -> rule
        | Error reason ->
            invalidArg
                "options"
                $"the state of rule '{level.Update.Name}' of level '{level.Name}' cannot be split among ranks (ShardStates): {reason}"

    /// ArgumentException naming a rule whose state cannot be split, whatever the ranks.
    let requireShards (level: Level) : unit =
        split
            level
            { Rank = 0
              Size = 1
              Gather = fun _ _ -> ()
              All = id
              IsTrial = true }
        |> ignore

    /// A level's rule among the ranks.
    let rule (problem: BilevelProblem) (level: Level) : BoundRule =
        match shards problem with
        | None -> level.Rule
        | Some shards -> split level shards
